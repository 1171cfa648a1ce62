"""The process that a contestant lives in: it imports one library, and measures on request.

It is asked by lines of JSON on its standard input, ``{"measure": NAME, ...}``, and answers each with one on
its standard output: numbers by name, or ``{"error": TEXT}``.  What a library prints goes to standard error.

So torch's size burdens the forks of torch alone, and a forkserver is warm for its owner alone.  The
worker of the bare limit imports procession and multiprocessing although it calls neither: so the
process that it forks has the size of the one that procession forks.

Is run by ``-c``, not as a script, so that there is no main module that multiprocessing would import in
each rank; in the heavy rows heavy.py is the main module, and calls `main`.
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
"""Seconds for others to finish: a launch may return before the last of its processes is gone."""


def main() -> None:
    """Answer requests until there are no more; the argument says for which contestant."""
    spec, answers = take_streams()
    raise_limit()
    contestant = CONTESTANTS[sys.argv[1]]
    failed = load(contestant)
    for line in spec:
        result = failed or answer(contestant, json.loads(line))
        print(json.dumps(result), file=answers, flush=True)


def take_streams() -> tuple[TextIO, TextIO]:
    """Keep the pipes from ranks and libraries, whose output goes to standard error."""
    spec, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return spec, answers


def raise_limit() -> None:
    """Allow as many descriptors as this process may allow itself: some rows have many ranks."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def load(contestant: Contestant) -> dict[str, str]:
    """Import a contestant's library; return the error, if there is one, as an answer has it."""
    try:
        for module in contestant.imports:
            importlib.import_module(module)
    except BaseException:
        return {"error": traceback.format_exc()}
    return {}


def answer(contestant: Contestant, request: dict[str, Any]) -> Answer | dict[str, str]:
    """Measure once, when what the last measurement left, here and elsewhere, is out of the way."""
    gc.collect()
    time.sleep(SETTLING)
    try:
        return MEASURES[request.pop("measure")](contestant, **request)
    except BaseException:
        return {"error": traceback.format_exc()}
