"""Has ranks return an object of a class of this module, and run a function that a cell of a REPL has defined.

Argument: the start method.  The test hands this text to ``python -c``: a main module without a file.
"""

from __future__ import annotations

import linecache
import sys
from typing import Any

from procession import ProcessRaisedException, run

SOURCE = "def fail(rank):\n    raise KeyError('of a cell')  # marked\n"


class Value:
    pass


def give(rank: int) -> Value:
    return Value()


linecache.cache["<cell 1>"] = len(SOURCE), None, SOURCE.splitlines(keepends=True), "<cell 1>"
exec(compile(SOURCE, "<cell 1>", "exec"))

if __name__ == "__main__":
    assert type(run(give, start_method=sys.argv[1])[0]) is Value
    fail: Any = globals()["fail"]
    try:
        run(fail, start_method=sys.argv[1])
    except ProcessRaisedException as error:
        print(error)
