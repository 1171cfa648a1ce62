"""Raises where ranks import it."""

from __future__ import annotations

from procession import start_processes

if __name__ == "__mp_main__":
    raise ValueError("only in ranks")


def nothing(rank: int) -> None:
    pass


if __name__ == "__main__":
    start_processes(nothing, nprocs=2)
