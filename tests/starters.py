"""Functions of ranks that start processes of several kinds."""

from __future__ import annotations

from procession.testing.faults import fork_daemon, start_program, start_session, start_stranger
from procession.testing.scratch import Stage

STARTS = {
    "program": start_program,
    "session": start_session,
    "stranger": start_stranger,
    "daemon": fork_daemon,
}


def start_one(rank: int, what: str, folder: str) -> None:
    STARTS[what](Stage(folder, 60))


def fail_with(rank: int, what: list[str], folder: str) -> None:
    for one in what:
        start_one(rank, one, folder)
    raise ValueError("boom")
