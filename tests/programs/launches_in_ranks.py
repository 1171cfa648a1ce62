"""Launches ranks that launch in turn, in a process that inherits orphans; prints the children that stay.

Usage: launches_in_ranks.py OUTER INNER HOW

OUTER and INNER are start methods; OUTER may be ``multiprocessing``, for a process of its own in place of a
rank.  HOW is ``works``; ``fails`` for a rank that raises; or ``none`` for a caller that has not started the
resource tracker before.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import time

import procession
from procession.testing.introspect import list_children

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def work(rank: int) -> int:
    return rank


def nested(rank: int, inner: str, fails: bool) -> None:
    assert procession.run(work, (), 1, start_method=inner) == [0]
    if fails:
        raise ValueError("boom")
    if inner != "fork":
        multiprocessing.get_context(inner).Lock()


def launch_outer(outer: str, inner: str, how: str) -> None:
    if outer == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=nested, args=(0, inner, False))
        process.start()
        process.join()
        return
    try:
        fails = how == "fails"  # then one rank alone: one that is killed cannot clean up
        procession.run(nested, (inner, fails), 2 - fails, start_method=outer)
    except procession.ProcessRaisedException as error:
        if "boom" not in str(error):
            raise


def main(outer: str, inner: str, how: str) -> None:
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    if outer != "multiprocessing":
        procession.run(work, (), 1, start_method=outer)
    if how != "none":
        multiprocessing.get_context("spawn").Lock()
    before = set(list_children(os.getpid()))
    launch_outer(outer, inner, how)
    time.sleep(0.3)
    print(set(list_children(os.getpid())) - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
