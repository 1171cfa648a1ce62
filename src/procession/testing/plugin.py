"""The kit's pytest plugin: options, expected failures, skips, and the summary to paste.

pytest loads this module wherever procession is installed, so it imports very little.
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
        help="an option of its launches; may be repeated",
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
    """Prepare the summary if the kit's tests are collected, and mark the expected failures."""
    for item in items:
        if _is_kit(item):
            from procession.testing.summary import Summary

            config.stash.setdefault(_SUMMARY, Summary())
            _restore_sigint()
            expected = item.cls.expected_failures  # type: ignore[attr-defined]
            for name in {item.name, getattr(item, "originalname", item.name)}:
                if name in expected:
                    reason = expected[name]
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _restore_sigint() -> None:
    """Restore SIGINT if a script's ``&`` made this process ignore it.

    Ranks inherit that, and some tests interrupt ranks.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> list[Any] | None:
    """Collect only the class that fits the kind of the backend of ``--procession-backend``."""
    if name.startswith("Test") and _is_kit_class(obj) and hasattr(obj, "is_for"):
        return None if obj.is_for(collector.config) else []
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which tests of the kit are selected."""
    summary = session.config.stash.get(_SUMMARY, None)
    for item in session.items:
        if summary is not None and _is_kit(item):
            summary.expect(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Run the tests in a child of this process if they include the kit's."""
    config = session.config
    summary = config.stash.get(_SUMMARY, None)
    if summary is None or config.option.collectonly or hasattr(config, "workerinput"):
        return
    if any(_is_kit(item) for item in session.items):
        from procession.testing.supervisor import supervise

        reporter = config.pluginmanager.get_plugin("terminalreporter")
        supervise(partial(_print_section, reporter, "procession conformance"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the test if its backend failed a test that it depends on."""
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is not None:
        from procession.testing.supervisor import note_test

        note_test(item.nodeid)
        if _is_kit(item):
            summary.begin(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Fail a test of the kit that leaves something behind."""
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is None or not _is_kit(item):
        return (yield)
    with summary.watch(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001
    """Note the outcome of a test of the kit."""
    report = yield
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is not None and _is_kit(item):
        summary.note(item, report)
        report.of_procession_kit = True
    return report


def pytest_runtest_logreport(report: Any) -> None:
    """Note that xdist runs the kit's tests in several processes."""
    if hasattr(report, "node") and hasattr(report, "of_procession_kit"):
        report.node.config.stash[_DISTRIBUTED] = True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the verdict on each backend."""
    summary = None if config.option.collectonly else config.stash.get(_SUMMARY, None)
    for title, lines in summary.compose() if summary is not None else ():
        _print_section(terminalreporter, title, lines)
    if config.stash.get(_DISTRIBUTED, False):
        line = "not certified: the kit must be run in one process (xdist: -n 0)"
        _print_section(terminalreporter, "procession conformance", [line])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Any:
    """Fail a run whose tests all passed if a backend is not certified nevertheless."""
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
    """Return whether a test belongs to the kit."""
    return _is_kit_class(getattr(item, "cls", None))


def _is_kit_class(cls: Any) -> bool:
    """Return whether a class belongs to the kit, by its attributes: an import would slow every pytest run."""
    return hasattr(cls, "expected_failures") and hasattr(cls, "test_rank_fault")
