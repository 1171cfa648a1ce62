"""Starts fresh interpreters that run one function of ours, for spawn and for the forkserver's server."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from procession._python.imported import get_if_imported
from procession._python.unpatched import get_subprocess

if TYPE_CHECKING:
    import subprocess

CHOOSE = "multiprocessing.set_executable(path) replaces sys.executable"
"""How to name the interpreter where sys.executable does not."""

SOURCE: str = os.path.abspath(os.path.join(os.path.realpath(__file__), *[os.pardir] * 3))
"""The folder that procession is imported from."""


def compose_command(
    module: str, function: str, arguments: Sequence[int], flags: Sequence[str] | None = None
) -> list[str]:
    """Return the command of an interpreter that calls ``module.function(*arguments)``.

    It has this one's options, unless ``flags`` are others, and finds procession where this one did, even
    if that is on no path of its own.

    Raises:
        RuntimeError: no interpreter is known.
    """
    call = f"{function}({', '.join(map(str, arguments))})"
    # -c puts the working directory on the path: what lies there must not stand for the library
    path = f"import sys; sys.path[:] = [*filter(None, sys.path), {SOURCE!r}]"
    code = f"{path}; from {module} import {function}; {call}"
    options = interpreter_flags() if flags is None else flags
    return [find_executable(), *options, "-c", code]


def start_interpreter(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int],
    env: Mapping[str, str],
    new_session: bool,
) -> subprocess.Popen[Any]:
    """Start a composed command, which reads its standard input from nothing; return its Popen."""
    module = get_subprocess()
    try:
        popen: subprocess.Popen[Any] = module.Popen(
            command,
            stdin=module.DEVNULL,
            pass_fds=pass_fds,
            env=env,
            start_new_session=new_session,
            **_own_group(new_session),
        )
    except OSError as error:
        if error.filename == command[0]:  # it is not there, or may not be executed
            error.strerror = f"{error.strerror}: the interpreter cannot be started; {CHOOSE}"
        raise
    return popen


def _own_group(new_session: bool) -> dict[str, Any]:
    """Have the interpreter lead a group from its first instant, where Popen can (Python 3.11)."""
    return {"process_group": 0} if sys.version_info >= (3, 11) and not new_session else {}


def interpreter_flags() -> list[str]:
    """Return the options that give another interpreter the flags, -W and -X options of this one.

    What this one got from its environment instead, the other one gets from there too.
    """
    import _imp

    flags: Any = sys.flags
    lettered = ((letter, getattr(flags, name, 0)) for name, letter in _list_letters(flags))
    options = ["-" + letter * count for letter, count in lettered if count]
    if getattr(sys.__stderr__, "write_through", False) and "PYTHONUNBUFFERED" not in os.environ:
        options.append("-u")  # which no flag shows, only its effect
    if _imp.check_hash_based_pycs != "default":
        options += ["--check-hash-based-pycs", _imp.check_hash_based_pycs]
    options += [f"-W{option}" for option in filter(None, sys.warnoptions)]
    chosen = dict(sys._xoptions)
    if flags.dev_mode and "PYTHONDEVMODE" not in os.environ:
        chosen.setdefault("dev", True)
    for name, value in chosen.items():
        options += ["-X", name if value is True else f"{name}={value}"]
    return options


def _list_letters(flags: Any) -> list[tuple[str, str]]:
    """Return the flags that have a letter; -I stands for three others as well."""
    apart = [("isolated", "I")] if flags.isolated else _PATH_LETTERS
    return [*_LETTERS, *apart]


_LETTERS = [
    ("debug", "d"),
    ("optimize", "O"),
    ("dont_write_bytecode", "B"),
    ("no_site", "S"),
    ("verbose", "v"),
    ("bytes_warning", "b"),
    ("quiet", "q"),
]
_PATH_LETTERS = [("ignore_environment", "E"), ("no_user_site", "s"), ("safe_path", "P")]


def find_executable() -> str:
    """Return the interpreter that ranks are started with.

    Raises:
        RuntimeError: none is known.
    """
    missing = missing_interpreter()
    if missing:
        raise RuntimeError(f"{missing}: {CHOOSE}")
    return _get_executable()


def _get_executable() -> str:
    """Return sys.executable, or what multiprocessing has in its place; empty if that is None or empty."""
    get_executable = get_if_imported("multiprocessing.spawn", "get_executable")
    chosen = get_executable() if get_executable is not None else None
    return os.fsdecode(chosen or sys.executable or "")


def missing_interpreter() -> str:
    """Say why no interpreter can be started; empty where one can, or where the application is frozen."""
    path = _get_executable()
    if not path:
        return f"sys.executable is {sys.executable!r}"
    if os.path.basename(path).startswith(_NAMES) or getattr(sys, "frozen", False):
        return ""
    return "" if _is_python(path) else f"{_name_executable(path)}, which is no Python interpreter"


_NAMES = ("python", "pypy", "graalpy", "pyston")
_PROBE_TIME = 10.0  # seconds


@functools.cache
def _is_python(path: str) -> bool:
    """Whether a program of another name than Python's is Python all the same; it is run to see."""
    import subprocess

    command = [path, "-I", "-S", "-c", "print('procession')"]
    try:
        said = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_TIME,
            check=False,
            start_new_session=True,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.strip() == b"procession"


def _name_executable(path: str) -> str:
    own = os.fsdecode(sys.executable or "")
    return f"sys.executable is {path!r}" if path == own else f"multiprocessing starts {path!r}"


def doubt_interpreter() -> str:
    """Say which interpreter is started, and how to choose another, where one has failed."""
    return f"is {_get_executable()!r} a Python interpreter? {CHOOSE}"
