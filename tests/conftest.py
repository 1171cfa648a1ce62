"""What all tests share: start methods, the check for leftovers, failures for avoidable skips."""

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

import tiers
from installing import WritePlugin, open_site, write_unique_plugin
from procession.testing import introspect, resources

START_METHODS = ("fork", "spawn", "forkserver")
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

_INSTALLABLE = re.compile(r"could not import '|pip install")
_FOLDERS = (
    *("pymp-", "pytest-of-"),  # multiprocessing's, and those of pytest in a test
    *("dask-scratch-space", "ray"),  # of engines that blocks of the docs start
)

Report = Any  # pytest.TestReport | pytest.CollectReport, which share no public base class


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--tier``."""
    parser.addoption(
        "--tier",
        type=int,
        choices=(1, 2),
        help="the tier to run; default: 1, or all tests of the paths, -k or -m that are given",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which tiers there are, and which one runs."""
    return tiers.describe(config)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test of the tier."""
    return tiers.leaves_out(collection_path, config) or None  # None: pytest decides


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that are not in the tier."""
    chosen = [item for item in items if tiers.has(item, config)]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_configure() -> None:
    """Restore SIGINT and SIGHUP, which nohup and a shell's ``&`` ignore: tests send both."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Each local built-in start method."""
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
    """Write a distribution with a backend in a new module, and return the name of that module."""
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
    gc.collect()  # the test's own queues and locks may hang on the traceback of what it caught
    left = resources.find_left(lambda: take_stock(folder), before)
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture(scope="session")
def warm() -> None:
    """Start what this process keeps until it exits: its death pipe and the resource tracker."""
    from procession import get_context, start_processes

    for method in START_METHODS:
        get_context(method).Lock()
        start_processes(abs, nprocs=1, start_method=method)


@pytest.fixture
def no_servers() -> None:
    """End the forkservers that earlier tests have left for the next launch."""
    introspect.stop_servers()


def take_stock(folder: Path) -> resources.Stock:
    """Return the resources and temporary files of this process, without idle forkservers."""
    kinds = map(resources.take_stock, ("child", "descriptor", "thread", "memory"))
    files = {("file", name) for name in os.listdir(folder) if not name.startswith(_FOLDERS)}
    idle = set(list_idle_servers())
    return frozenset(
        (kind, name)
        for kind, name in frozenset().union(files, *kinds)
        if (kind, name.split()[0]) not in idle
    )


def list_idle_servers() -> Iterator[tuple[str, str]]:
    """List the forkservers that wait for the next launch, and this process's descriptors of them."""
    for server in introspect.list_servers():
        if not server.serving:
            yield "child", str(server.process and server.process.pid)
            for fd in introspect.list_descriptors(server):
                yield "descriptor", str(fd)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Report, Report]:
    """Fail a test that skips because a package is missing, if PROCESSION_FORBID_SKIPS is set."""
    return _forbid_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    """Do the same for modules."""
    return _forbid_skip((yield))


def _forbid_skip(report: Report) -> Report:
    reason = str(report.longrepr)
    if report.skipped and _INSTALLABLE.search(reason) and _skips_are_forbidden():
        report.outcome = "failed"
        report.longrepr = f"PROCESSION_FORBID_SKIPS is set, and this would skip: {reason}"
    return report


def _skips_are_forbidden() -> bool:
    return os.environ.get("PROCESSION_FORBID_SKIPS", "") not in ("", "0")
