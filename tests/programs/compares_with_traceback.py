"""Compares the text of an exception with that of `traceback`.

Prints whether the text took no import of `traceback`.  The exception is that of ``fail`` of the module
``failing``, which the test writes.
"""

from __future__ import annotations

import sys

import failing  # type: ignore[import-not-found]

from procession._rank.report import describe


def main() -> None:
    try:
        failing.fail(0)
    except BaseException as caught:
        error = caught
    assert "traceback" not in sys.modules
    text = describe(error)
    if sys.version_info < (3, 11):  # the one thing that differs
        text = text.replace("<exception str() failed>", "<unprintable Unprintable object>")
    early = "traceback" not in sys.modules
    import traceback

    expected = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert text == expected, f"{text}\n---\n{expected}"
    print(early)


if __name__ == "__main__":
    main()
