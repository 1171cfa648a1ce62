"""Prints the facts about the interpreter that differ between the caller and a rank.

Usage: compares_interpreter_options.py START_METHOD FOLDER...

START_METHOD may be "command by python", which names the interpreter of the agents.  The folders are those of
the package and of the tests: some options have the interpreter ignore PYTHONPATH and site-packages.
"""

from __future__ import annotations

import _imp
import sys
from typing import Any

sys.path.extend(sys.argv[2:])
import standin
from procession import run

INDEPENDENT = ("count", "index", "interactive", "inspect", "hash_randomization")
"""Flags, and methods of their tuple, that a rank does not take from its caller."""


def list_facts(rank: int) -> list[Any]:
    names = [name for name in dir(sys.flags) if not name.startswith(("_", "n_"))]
    return [
        {name: getattr(sys.flags, name) for name in names if name not in INDEPENDENT},
        sys._xoptions,
        sys.warnoptions,
        sys.pycache_prefix,
        _imp.check_hash_based_pycs,
        sys.stdout.write_through,  # type: ignore[union-attr]
    ]


if __name__ == "__main__":
    method, mine = sys.argv[1], list_facts(0)
    options = standin.options() if method.startswith("command") else None
    if options and method != "command":  # agents without the options of the caller
        options["python"] = sys.executable
    (theirs,) = run(list_facts, nprocs=1, start_method=method.split()[0], options=options)
    print([pair for pair in zip(mine, theirs, strict=True) if pair[0] != pair[1]])
