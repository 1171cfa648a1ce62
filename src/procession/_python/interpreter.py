"""Starts new interpreters that run one of our functions, for spawn and for the forkserver's server."""

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
"""How to choose the interpreter where sys.executable is not the right one."""

SOURCE: str = os.path.abspath(os.path.join(os.path.realpath(__file__), *[os.pardir] * 3))
"""The folder that procession is imported from."""


def compose_command(
    module: str, function: str, arguments: Sequence[int], flags: Sequence[str] | None = None
) -> list[str]:
    """Return the command of an interpreter that calls ``module.function(*arguments)``.

    It has this interpreter's options, unless ``flags`` replace them, and finds procession where this one
    found it, even if that folder is on none of its own paths.

    Raises:
        RuntimeError: no interpreter is known.
    """
    call = f"{function}({', '.join(map(str, arguments))})"
    # -c puts the working directory on the path: files there must not hide the library
    path = f"{_BEGIN}{SOURCE!r}]"
    code = f"{path}; from {module} import {function}; {call}"
    options = interpreter_flags() if flags is None else flags
    return [find_executable(), *options, "-c", code]


def find_awaited() -> str:
    """Return the module that this interpreter was started for, by procession or multiprocessing.

    Return "" once it runs, and in other interpreters.  Until then a ``sitecustomize`` or .pth file runs.  A
    frozen application has no such file: it runs its own script, and says what that must call.
    """
    if getattr(sys, "frozen", False):
        return ""
    for argument in sys.orig_argv:
        if argument.startswith((_BEGIN, "from multiprocessing.")):
            module = argument.rpartition("from ")[2].partition(" ")[0]
            return "" if module in sys.modules else module
    return ""


_BEGIN = "import sys; sys.path[:] = [*filter(None, sys.path), "


def start_interpreter(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int],
    env: Mapping[str, str],
    new_session: bool,
) -> subprocess.Popen[Any]:
    """Start a composed command whose standard input is the null device; return its Popen."""
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
        if error.filename == command[0]:  # it does not exist, or is not executable
            error.strerror = f"{error.strerror}: the interpreter cannot be started; {CHOOSE}"
        raise
    return popen


def _own_group(new_session: bool) -> dict[str, Any]:
    """Return the option that makes the interpreter lead a group from its start, where Popen has it (3.11)."""
    return {"process_group": 0} if sys.version_info >= (3, 11) and not new_session else {}


def interpreter_flags() -> list[str]:
    """Return the options that give another interpreter the flags, -W and -X options of this one.

    They omit -u and -X dev where the environment sets these: the other interpreter gets them from there, too.
    """
    import _imp

    flags: Any = sys.flags
    lettered = ((letter, getattr(flags, name, 0)) for name, letter in _list_letters(flags))
    options = ["-" + letter * count for letter, count in lettered if count]
    if getattr(sys.__stderr__, "write_through", False) and "PYTHONUNBUFFERED" not in os.environ:
        options.append("-u")  # no flag shows it, only its effect
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
    """Return the flags that have a letter; -I implies three others."""
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
    """Return the interpreter that starts ranks.

    Raises:
        RuntimeError: none is known.
    """
    missing = missing_interpreter()
    if missing:
        raise RuntimeError(f"{missing}: {CHOOSE}")
    return _get_executable()


def _get_executable() -> str:
    """Return sys.executable, or multiprocessing's replacement; empty if that is None or empty."""
    get_executable = get_if_imported("multiprocessing.spawn", "get_executable")
    chosen = get_executable() if get_executable is not None else None
    return os.fsdecode(chosen or sys.executable or "")


def missing_interpreter() -> str:
    """Return why no interpreter can be started; empty if one can, or if the application is frozen."""
    path = _get_executable()
    if not path:
        return f"sys.executable is {sys.executable!r}"
    if os.path.basename(path).startswith(_NAMES) or getattr(sys, "frozen", False):
        return ""
    return "" if _is_python(path) else f"{_name_executable(path)}, not a Python interpreter"


_NAMES = ("python", "pypy", "graalpy", "pyston")
_PROBE_TIME = 10.0  # seconds


@functools.cache
def _is_python(path: str) -> bool:
    """Return whether a program without a Python name is Python nevertheless, by running it."""
    import subprocess

    command = [path, "-I", "-S", "-c", "print('procession')"]
    try:
        output = subprocess.run(
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
    return output.strip() == b"procession"


def _name_executable(path: str) -> str:
    own = os.fsdecode(sys.executable or "")
    return f"sys.executable is {path!r}" if path == own else f"multiprocessing starts {path!r}"


def doubt_interpreter() -> str:
    """Return which interpreter was started, and how to choose another, for an error message."""
    return f"is {_get_executable()!r} a Python interpreter? {CHOOSE}"
