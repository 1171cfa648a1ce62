"""Warnings by modules that every launch waits for: to import `logging` takes longer than they do."""

from __future__ import annotations


def warn(message: str, *arguments: object) -> None:
    """Log a warning, as `logging.Logger.warning` does, for the caller's line."""
    import logging

    logging.getLogger("procession").warning(message, *arguments, stacklevel=2)
