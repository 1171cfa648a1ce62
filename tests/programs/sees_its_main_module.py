"""Prints, as JSON, what a rank sees of this module: it must itself import as little as a script can."""

from __future__ import annotations

import sys

from procession import run

TYPE_CHECKING = False  # ranks must not import typing
if TYPE_CHECKING:
    from typing import Any

number = 1


class Local:
    pass


def see(rank: int) -> tuple[int, str, str, list[str], list[str]]:
    import __main__

    main: Any = __main__  # type checkers may find another module of this name
    main.number += 1  # what a function of this module sees is what its importers see
    kinds = [type(__main__), Local.__module__, sys.modules["__mp_main__"] is __main__]
    return number, str(kinds), __file__, sys.argv, sorted(sys.modules)


if __name__ == "__main__":
    import json

    print(json.dumps(run(see, start_method="spawn")[0]))
else:
    assert sys.modules[__name__].__dict__ is globals()
