"""The kit's part in pytest: its options, what it expects and skips, and the summary to paste.

pytest loads this wherever procession is installed, so that it imports next to nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from procession.testing.summary import Summary

_SUMMARY: pytest.StashKey[Summary] = pytest.StashKey()
_DISTRIBUTED: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options."""
    group = parser.getgroup("procession", "certify a start method of procession")
    group.addoption(
        "--procession-backend",
        metavar="NAME",
        help="the start method that `pytest --pyargs procession.testing` certifies",
    )
    group.addoption(
        "--procession-option",
        metavar="NAME=JSON",
        type=_read_option,
        action="append",
        default=[],
        help="an option that its launches are given; may be repeated",
    )


def _read_option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        if name:
            return name, json.loads(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=JSON")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the kit's tests, and those of them that are expected to fail."""
    for item in items:
        if _is_kit(item):
            from procession.testing.summary import Summary

            config.stash.setdefault(_SUMMARY, Summary())
            _take_back_interrupts()
            expected = item.cls.expected_failures  # type: ignore[attr-defined]
            for name in {item.name, getattr(item, "originalname", item.name)}:
                if name in expected:
                    reason = expected[name]
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _take_back_interrupts() -> None:
    """Undo what nohup's and a script's ``&`` do: ranks inherit it, and some are to be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> list[Any] | None:
    """Leave out of what ``--procession-backend`` runs the class for another kind of backend."""
    if name.startswith("Test") and _is_kit_class(obj) and hasattr(obj, "is_for"):
        return None if obj.is_for(collector.config) else []
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what was selected."""
    summary = session.config.stash.get(_SUMMARY, None)
    for item in session.items:
        if summary is not None and _is_kit(item):
            summary.expect(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Run the tests in a child of this process, if the kit's are among them."""
    config = session.config
    summary = config.stash.get(_SUMMARY, None)
    if summary is None or config.option.collectonly or hasattr(config, "workerinput"):
        return
    if any(_is_kit(item) for item in session.items):
        from procession.testing.supervisor import supervise

        reporter = config.pluginmanager.get_plugin("terminalreporter")
        supervise(partial(_print_section, reporter, "procession conformance"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run nothing more of a backend whose seam is broken."""
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is not None:
        from procession.testing.supervisor import note_test

        note_test(item.nodeid)
        if _is_kit(item):
            summary.begin(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Have a test fail for what it leaves."""
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is None or not _is_kit(item):
        return (yield)
    with summary.watch(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001
    """Note what came of a test."""
    report = yield
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is not None and _is_kit(item):
        summary.note(item, report)
        report.of_procession_kit = True
    return report


def pytest_runtest_logreport(report: Any) -> None:
    """Notice that xdist has the kit's tests run by several processes."""
    if hasattr(report, "node") and hasattr(report, "of_procession_kit"):
        report.node.config.stash[_DISTRIBUTED] = True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what is certified."""
    summary = None if config.option.collectonly else config.stash.get(_SUMMARY, None)
    for title, lines in summary.compose() if summary is not None else ():
        _print_section(terminalreporter, title, lines)
    if config.stash.get(_DISTRIBUTED, False):
        line = "not certified: the kit must be run in one process (xdist: -n 0)"
        _print_section(terminalreporter, "procession conformance", [line])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Any:
    """Have the run fail where all tests have passed, and something is not certified nevertheless."""
    stash = session.config.stash
    summary = stash.get(_SUMMARY, None)
    certified = summary is None or summary.is_success()
    if session.exitstatus == 0 and (not certified or stash.get(_DISTRIBUTED, False)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    result = yield
    if summary is not None:
        from procession.testing.supervisor import note_end

        note_end()
    return result


def _print_section(reporter: Any, title: str, lines: Iterable[str]) -> None:
    reporter.ensure_newline()
    reporter.section(title)
    for line in lines:
        reporter.write_line(line)


def _is_kit(item: Any) -> bool:
    """Whether a test is one of the kit's."""
    return _is_kit_class(getattr(item, "cls", None))


def _is_kit_class(cls: Any) -> bool:
    """Whether a class is the kit's, by its attributes: an import would cost every run of pytest."""
    return hasattr(cls, "expected_failures") and hasattr(cls, "test_rank_fault")
