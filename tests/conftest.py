"""What all tests share: start methods, the check for leftovers, the ban on avoidable skips."""

from __future__ import annotations

import gc
import os
import re
import signal
import tempfile
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from installing import WritePlugin, open_site, write_unique_plugin
from procession.testing import resources

START_METHODS = ("fork", "spawn", "forkserver")
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

_INSTALLABLE = re.compile(r"could not import '|pip install")
_FOLDERS = (
    *("pymp-", "pytest-of-"),  # multiprocessing's, and those of pytest in a test
    *("dask-scratch-space", "ray"),  # of engines that blocks of the docs start
)

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
    left = resources.find_left(lambda: take_stock(folder), before)
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
    from procession._forkserver import client

    client.stop_servers()


def take_stock(folder: Path) -> resources.Stock:
    """Return what this process has right now, files in its temporary folder too."""
    kinds = map(resources.take_stock, ("child", "descriptor", "thread", "memory"))
    files = {("file", name) for name in os.listdir(folder) if not name.startswith(_FOLDERS)}
    return frozenset().union(files, *kinds)


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
