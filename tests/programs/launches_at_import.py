"""Launches what it defines while it is imported, or run as the main module."""

from __future__ import annotations

from endless import count_body, launch

count_body()


def work(rank: int) -> int:
    return rank


RESULT = launch(work)  # the line
