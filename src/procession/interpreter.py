"""Starts fresh interpreters that run one function of ours, for spawn and for the forkserver's server."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from procession.loaded import get_loaded
from procession.unpatched import get_subprocess

if TYPE_CHECKING:
    import subprocess

SOURCE: str = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""The folder that procession is imported from."""


def compose_command(module: str, function: str, arguments: Sequence[int]) -> list[str]:
    """Return the command of an interpreter that calls ``module.function(*arguments)``.

    It is configured as this one is (flags, -X options), and finds procession where this one did, even
    if that is on no path of its own.
    """
    call = f"{function}({', '.join(map(str, arguments))})"
    # -c puts the working directory on the path: what lies there must not stand for the library
    path = f"import sys; sys.path[:] = [*filter(None, sys.path), {SOURCE!r}]"
    code = f"{path}; from {module} import {function}; {call}"
    return [find_executable(), *interpreter_flags(), "-c", code]


def start_interpreter(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int],
    env: Mapping[str, str],
    new_session: bool,
) -> subprocess.Popen[Any]:
    """Start a composed command, which reads its standard input from nothing; return its Popen."""
    module = get_subprocess()
    popen: subprocess.Popen[Any] = module.Popen(
        command,
        stdin=module.DEVNULL,
        pass_fds=pass_fds,
        env=env,
        start_new_session=new_session,
        **_own_group(new_session),
    )
    return popen


def _own_group(new_session: bool) -> dict[str, Any]:
    """Have the interpreter lead a group from its first instant, where Popen can (Python 3.11)."""
    return {"process_group": 0} if sys.version_info >= (3, 11) and not new_session else {}


def interpreter_flags() -> list[str]:
    """Return the command-line flags that this interpreter was started with."""
    import multiprocessing.util

    public: Any = multiprocessing.util  # it has no public name, in whichever module
    return list(public._args_from_interpreter_flags())


def find_executable() -> str:
    """Return the interpreter: multiprocessing's, if the user has chosen one there."""
    get_executable = get_loaded("multiprocessing.spawn", "get_executable")
    chosen = get_executable() if get_executable is not None else None
    return os.fsdecode(chosen or sys.executable)
