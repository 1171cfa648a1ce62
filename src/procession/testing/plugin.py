"""The kit's part in pytest: its options, what it expects and skips, and the summary to paste.

pytest loads this wherever procession is installed, so that it imports next to nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from procession.testing.summary import Summary

_SUMMARY: pytest.StashKey[Summary] = pytest.StashKey()


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
        kit = _kit_of(item)
        if kit is not None:
            from procession.testing.summary import Summary

            config.stash.setdefault(_SUMMARY, Summary())
            _take_back_interrupts()
            for name in {item.name, getattr(item, "originalname", item.name)}:
                if name in kit.expected_failures:
                    reason = kit.expected_failures[name]
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _take_back_interrupts() -> None:
    """Undo what nohup's and a script's ``&`` do: ranks inherit it, and some are to be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run nothing more of a backend whose seam is broken."""
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is not None and _kit_of(item) is not None:
        summary.begin(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001
    """Note what came of a test."""
    report = yield
    summary = item.config.stash.get(_SUMMARY, None)
    if summary is not None and _kit_of(item) is not None:
        summary.note(item, report)
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what is certified."""
    summary = config.stash.get(_SUMMARY, None)
    if summary is not None:
        for title, lines in summary.compose():
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


def _kit_of(item: pytest.Item) -> Any:
    """Return the kit's class that a test belongs to, None where it is no test of the kit.

    It is known by its attributes: to import it for that would cost every run of pytest.
    """
    kit = getattr(item, "cls", None)
    return kit if hasattr(kit, "expected_failures") and hasattr(kit, "test_rank_fault") else None
