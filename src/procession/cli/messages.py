"""Messages of the command line, and its exit statuses."""

from __future__ import annotations

import sys

FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit statuses


def whole_message(error: BaseException) -> str:
    """Return the message of an exception, with its notes."""
    # On Python 3.10 the notes are in the string already.
    notes = getattr(error, "__notes__", ()) if sys.version_info >= (3, 11) else ()
    return "\n".join([str(error).lstrip("\n"), *notes])


def complain(error: BaseException) -> int:
    """Print what is wrong with the call, and return its exit status."""
    print(f"procession: error: {whole_message(error)}", file=sys.stderr)
    return MISUSED
