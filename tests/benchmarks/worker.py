"""The process of one contestant: it imports one library, and measures on request.

A request is a line of JSON on standard input, ``{"measure": NAME, ...}``.  The answer is a line on standard
output: numbers by name, or ``{"error": TEXT}``.  What a library prints goes to standard error.

With a process for each contestant, torch's size burdens only the forks of torch, and a forkserver is warm
only for its owner.  The worker of the bare limit imports procession and multiprocessing although it calls
neither, so that the process that it forks has the size of the one that procession forks.

The worker runs by ``-c``, not as a script, so that there is no main module that multiprocessing would import
in each rank.  In the heavy rows heavy.py is the main module, and calls `main`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from contestants import CONTESTANTS, Contestant
from measures import MEASURES

if TYPE_CHECKING:
    from rows import Answer

SETTLING = 0.05
"""Seconds for other processes to end: a launch may return before the last of its processes is gone."""


def main() -> None:
    """Answer requests until there are no more; the argument names the contestant."""
    requests, answers = take_streams()
    raise_limit()
    contestant = CONTESTANTS[sys.argv[1]]
    failed = load(contestant)
    for line in requests:
        result = failed or answer(contestant, json.loads(line))
        print(json.dumps(result), file=answers, flush=True)


def take_streams() -> tuple[TextIO, TextIO]:
    """Return streams for requests and answers; point standard output, for ranks and libraries, to stderr."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, answers


def raise_limit() -> None:
    """Raise the limit of descriptors to the hard limit: some rows have many ranks."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def load(contestant: Contestant) -> dict[str, str]:
    """Import a contestant's library; if that fails, return the error as an answer."""
    try:
        for module in contestant.imports:
            importlib.import_module(module)
    except BaseException:
        return {"error": traceback.format_exc()}
    return {}


def answer(contestant: Contestant, request: dict[str, Any]) -> Answer | dict[str, str]:
    """Measure once, after the remains of the last measurement, here and in other processes, are gone."""
    gc.collect()
    time.sleep(SETTLING)
    try:
        return MEASURES[request.pop("measure")](contestant, **request)
    except BaseException:
        return {"error": traceback.format_exc()}
