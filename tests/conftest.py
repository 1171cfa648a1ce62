"""What all tests share: start methods, the check for leftovers, the ban on avoidable skips."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from installing import WritePlugin, open_site, write_unique_plugin

START_METHODS = ("fork", "spawn", "forkserver")
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

_INSTALLABLE = re.compile(r"could not import '|pip install")
_SERVERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
_SHARED = ("psm_", "sem.mp-", "torch_", "procession")  # others belong to other programs
_FOLDERS = ("pymp-", "pytest-of-")  # multiprocessing's, and those of pytest in a test
_PATIENCE = 5.0  # seconds that what ends by itself has for it

Stock = set[tuple[str, str]]
Report = Any  # pytest.TestReport | pytest.CollectReport, which share no public base class


def pytest_configure() -> None:
    """Take back what nohup and a shell's ``&`` ignore: tests interrupt and hang up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Each of the core's start methods."""
    return str(request.param)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the examples, importable from here and from ranks."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return EXAMPLES


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on `sys.path`, for distributions; no policy in the environment."""
    return open_site(tmp_path, monkeypatch)


@pytest.fixture
def plugin(site: Path, request: pytest.FixtureRequest) -> WritePlugin:
    """Write a distribution with a backend in a module of its own, and return that module's name."""
    return partial(write_unique_plugin, site, request.node.name)


@pytest.fixture(autouse=True)
def leftovers(
    request: pytest.FixtureRequest,
    warm: None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Fail a test that leaves a process, descriptor, thread, temporary file or shared memory."""
    folder = tmp_path_factory.mktemp("leftovers")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = take_stock(folder)
    yield
    if request.node.get_closest_marker("leaves_things"):
        return
    stop_servers()
    gc.collect()  # the test's own queues and locks may hang on the traceback of what it caught
    left = take_stock(folder) - before
    until = time.monotonic() + _PATIENCE
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left &= take_stock(folder)
    left = left and leave_out_foreign(left)
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture(scope="session")
def warm() -> None:
    """Start what stays for the life of this process: its death pipe and the resource tracker."""
    from procession import get_context, start_processes

    for method in START_METHODS:
        get_context(method).Lock()
        start_processes(abs, nprocs=1, start_method=method)
    stop_servers()


def stop_servers() -> None:
    """End the forkservers, which otherwise stay for the next launch."""
    from procession import forkservers

    forkservers.stop_servers()


def take_stock(folder: Path) -> Stock:
    """Return what this process has right now: the kind of each thing, and its name."""
    memory = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {
        *(("child", name) for name in _list_children()),
        *(("descriptor", name) for name in _list_descriptors()),
        *(("thread", f"{thread.name} {thread.ident}") for thread in threading.enumerate()),
        *(("file", name) for name in os.listdir(folder) if not name.startswith(_FOLDERS)),
        *(("shared memory", name) for name in memory if name.startswith(_SHARED)),
    }


def leave_out_foreign(left: Stock) -> Stock:
    """Leave out shared memory that another process uses: a second run of tests, say."""
    others = set(Path("/proc").glob("[0-9]*/maps")) - {Path("/proc", str(os.getpid()), "maps")}
    maps = b"".join(map(_read, others))
    # by inode: a semaphore is mapped under a name that it had before (sem_open(3) of glibc)
    mapped = {int(inode) for inode in re.findall(rb" (\d+) +/dev/shm/", maps)}
    return {
        (kind, name)
        for kind, name in left
        if kind != "shared memory" or _read_inode(Path("/dev/shm", name)) not in mapped | {0}
    }


def _list_children() -> Iterator[str]:
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in _read(task).split():
            command = _read(Path("/proc", pid.decode(), "cmdline")).replace(b"\0", b" ")
            if not any(server in command for server in _SERVERS):
                yield f"{pid.decode()} {command.decode(errors='replace')}"


def _list_descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that listed them
            continue
        if "/pym-" not in target:  # the heap of multiprocessing, which it keeps
            yield f"{fd} -> {target}"


def _read_inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:  # gone meanwhile
        return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile
        return b""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Report, Report]:
    """Let no test skip for want of what could be installed, if that is forbidden."""
    return _forbid_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    """As above, for modules."""
    return _forbid_skip((yield))


def _forbid_skip(report: Report) -> Report:
    reason = str(report.longrepr)
    if report.skipped and _INSTALLABLE.search(reason) and _skips_are_forbidden():
        report.outcome = "failed"
        report.longrepr = f"PROCESSION_FORBID_SKIPS is set, and this would skip: {reason}"
    return report


def _skips_are_forbidden() -> bool:
    return os.environ.get("PROCESSION_FORBID_SKIPS", "") not in ("", "0")
