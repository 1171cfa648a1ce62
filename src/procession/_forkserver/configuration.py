"""The configuration of a forkserver; launches with equal configurations share a server."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from procession._launch.spec import list_arguments, list_path
from procession._python.interpreter import find_executable, interpreter_flags

if TYPE_CHECKING:
    from procession._linux.credentials import Credentials
    from procession._rank.locations import Locations


class Configuration(NamedTuple):
    """The imports that a server makes, how it finds them, and what it may do.

    ``stamps`` are the files of the imported modules and their modification times (`os.stat`, ns); a server
    whose modules have changed since is not used again.  ``argv`` is `sys.argv` during the import of a main
    module.  ``rights`` and ``policy`` are those of `Credentials`.
    """

    executable: str
    flags: tuple[str, ...]
    sys_path: tuple[Any, ...]
    main: tuple[str, str] | None
    preload: tuple[str, ...]
    locations: tuple[tuple[str, str, tuple[str, ...]], ...]
    stamps: tuple[tuple[str, int], ...]
    argv: tuple[Any, ...]
    rights: tuple[object, ...]
    policy: tuple[int, int]

    @classmethod
    def of_now(
        cls,
        main: tuple[str, str] | None,
        preload: tuple[str, ...],
        locations: Locations,
        credentials: Credentials,
    ) -> Configuration:
        """Return the configuration that a launch needs now."""
        names = (*preload, *(["__main__"] if main else []))
        modules = [sys.modules[name] for name in names if name in sys.modules]
        files = [str(file) for one in modules if (file := getattr(one, "__file__", None))]
        if main is not None and main[0] == "path":  # a script other than sys.modules["__main__"]
            files.append(main[1])
        stamps = tuple((file, os.stat(file).st_mtime_ns) for file in files if os.path.exists(file))
        flags = tuple(interpreter_flags())
        argv = tuple(list_arguments()) if main else ()
        places = tuple((name, file, tuple(dirs)) for name, (file, dirs) in locations.items())
        return cls(
            *(find_executable(), flags, tuple(list_path()), main, preload, places, stamps, argv),
            *(credentials.rights, credentials.policy),
        )
