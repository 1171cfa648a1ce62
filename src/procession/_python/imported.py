"""Looks into modules that may already be imported, without importing them."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def get_if_imported(module: str, name: str) -> Any:
    """Return an attribute of a module; None if it is not imported, or half imported by another thread."""
    return getattr(sys.modules.get(module), name, None)
