"""Functions that tests call by `procession run`; a test copies this file into a folder of its own."""

from __future__ import annotations

import os
import time


def say(line: str) -> None:
    """Write a line in one system call, so that lines of two ranks do not mix."""
    os.write(1, f"{line}\n".encode())


def show(rank: int, *arguments: str) -> None:
    say(f"{rank} of {os.environ['WORLD_SIZE']}: {arguments} {os.environ.get('COLOUR')}")


def fail(rank: int, *arguments: str) -> None:
    if rank == 1:
        raise LookupError("rank one gave up")


def leave(rank: int) -> None:
    os._exit(7)


def sleep(rank: int) -> None:
    say("asleep")
    time.sleep(60)


class Job:
    @staticmethod
    def show(rank: int) -> None:
        say(f"job {rank}")


number = 3
