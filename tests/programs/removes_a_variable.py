"""Removes a variable of the environment after a launch; prints where later processes still have it.

Arguments: the start method; "deleted" or "emptied".
"""

from __future__ import annotations

import os
import sys

from procession import run
from procession.testing.introspect import reaper_pid


def find_secret(rank: int) -> tuple[list[bool], bool, str | None]:
    """Return whether this process and its parent were started with it, whether it is set, and OTHER."""
    found = [has_secret(pid) for pid in ("self", str(os.getppid()))]
    return found, "SECRET" in os.environ, os.environ.get("OTHER")


def has_secret(pid: str) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return b"a secret" in file.read()


def main(method: str, how: str) -> None:
    os.environ["SECRET"], os.environ["OTHER"] = "a secret", "1"
    ((_, is_set, _),) = run(find_secret, start_method=method)
    print(is_set)
    if how == "deleted":
        del os.environ["SECRET"]
    else:
        os.environ["SECRET"] = ""
    os.environ["OTHER"] = "2"
    ((found, _, other),) = run(find_secret, start_method=method)
    print(found, other)
    print(has_secret(str(reaper_pid())))


if __name__ == "__main__":
    main(*sys.argv[1:])
