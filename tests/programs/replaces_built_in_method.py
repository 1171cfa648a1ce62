"""Launch by the name of a built-in method before, while and after a registered backend has that name.

The argument is the name.  Print the modules of `HEAVY` that the first launch imported, the error of the
backend, and the results of the last launch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from procession import run

if TYPE_CHECKING:
    from procession import Backend, Launch, Started

HEAVY = {"procession._registry.registration", "dataclasses", "inspect"}


class Refusing:
    """A backend that refuses to start ranks."""

    name = "refusing"
    protocol_version = 1
    options: frozenset[str] = frozenset()

    def __init__(self, replaced: Backend) -> None:
        self.capabilities = replaced.capabilities
        self.availability = replaced.availability

    def start(self, launch: Launch) -> Started:
        raise NotImplementedError("the registered backend was called")


def main(name: str) -> None:
    """Launch three times."""
    run(abs, start_method=name)
    print(HEAVY & set(sys.modules))

    from procession import get_backend, register_backend  # after the look at the modules

    with register_backend(name, Refusing(get_backend(name)), replace=True):
        try:
            run(abs, start_method=name)
        except NotImplementedError as error:
            print(error)
    print(run(abs, start_method=name))


if __name__ == "__main__":
    main(sys.argv[1])
