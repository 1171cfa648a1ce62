"""Error messages and exit statuses of the command line."""

from __future__ import annotations

import sys

FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit statuses


def whole_message(error: BaseException) -> str:
    """Return the message of an exception, with its notes."""
    # on Python 3.10 the string already contains the notes
    notes = getattr(error, "__notes__", ()) if sys.version_info >= (3, 11) else ()
    return "\n".join([str(error).lstrip("\n"), *notes])


def complain(error: BaseException) -> int:
    """Print an error of usage, and return the exit status for it."""
    print(f"procession: error: {whole_message(error)}", file=sys.stderr)
    return MISUSED
