"""Runs callers in separate processes, for tests that would harm the process that runs the tests."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import procession
from procession.testing import ranks

if TYPE_CHECKING:
    from procession.testing.subject import Subject

Main = Callable[[Any, dict[str, Any], str], None]
_SPARE = 12  # descriptors that a caller may still open: enough to begin, too few for all ranks
_MANY = 24  # ranks


def start(subject: Subject, main: Main) -> subprocess.Popen[bytes]:
    """Start a caller that runs ``main(backend, options, folder)``; the call is pickled.

    Its output goes to a file, because a process that it leaves behind would keep a pipe open.
    """
    import pytest

    try:
        call = pickle.dumps((main, subject.backend, dict(subject.options), str(subject.folder)))
    except Exception as error:
        pytest.skip(f"the backend cannot be pickled into another process: {error}")
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _run; _run()"
    with open(_output_of(subject), "wb") as output:
        caller = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output
        )
    assert caller.stdin is not None
    caller.stdin.write(call)
    caller.stdin.close()
    caller.stdin = None  # or communicate() would flush it
    return caller


def finish(subject: Subject, caller: subprocess.Popen[bytes]) -> list[bytes]:
    """Wait for a caller and return the lines that it printed; kill it if it does not end."""
    try:
        caller.wait(60)
    finally:
        caller.kill()
        caller.wait()
    return _output_of(subject).read_bytes().splitlines()


def _output_of(subject: Subject) -> Path:
    return subject.folder / "output of the caller"


def execute(subject: Subject, source: str, how: str) -> str:
    """Run a program that reads the backend and options, as a script or with ``-c``; return what it prints."""
    arguments = ["-c", source]
    if how == "script":
        script = subject.folder / "main_module.py"
        script.write_text(source)
        arguments = [str(script)]
    with open(_output_of(subject), "wb") as output:
        subprocess.run(
            [sys.executable, *arguments],
            input=pickle.dumps((subject.backend, dict(subject.options))),
            stdout=output,
            check=True,
            timeout=60,
        )
    return _output_of(subject).read_text().strip()


def _run() -> None:
    main, backend, options, folder = pickle.load(sys.stdin.buffer)
    main(backend, options, folder)


def launch_workers(backend: Any, options: dict[str, Any], folder: str) -> None:
    """Launch two ranks that work, and wait for their end."""
    procession.start_processes(ranks.work, (folder,), 2, start_method=backend, options=options)


def run_out_of_descriptors(backend: Any, options: dict[str, Any], folder: str) -> None:
    """Start more ranks than descriptors allow; print how that ends, and how many children remain."""
    import resource

    from procession.testing.introspect import stop_servers

    call = {"start_method": backend, "options": options}
    procession.start_processes(ranks.nothing, **call)  # starts what stays for all launches
    before = _count_children()
    limit = max(map(int, os.listdir("/proc/self/fd"))) + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        context: Any = procession.start_processes(ranks.work, (folder,), _MANY, join=False, **call)
        context.terminate()
        print("all could be started")
    except (OSError, procession.StartError) as error:  # the engine may run out first
        print(f"{type(error).__name__}: {error}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print("children:", _count_children() - before)
    stop_servers()


def _count_children() -> int:
    from procession.testing.introspect import list_children

    return len(list_children(os.getpid()))
