"""Launches where it is run as the main module, then starts a process of multiprocessing, which imports it."""

from __future__ import annotations

import multiprocessing
import sys

from endless import count_body, launch

count_body()


def nothing() -> None:
    pass


launch(abs)
process = multiprocessing.get_context("spawn").Process(target=nothing)
process.start()
process.join()
sys.exit(process.exitcode)
