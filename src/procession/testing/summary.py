"""The verdict on each backend, in lines that a maintainer can paste."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

import procession
from procession.testing.aftermath import Aftermath
from procession.testing.conformance import BackendConformance
from procession.testing.listing import find_entries
from procession.testing.protocol import ProtocolTests
from procession.testing.remote import NOT_RUN, RemoteConformance
from procession.testing.selection import Key, backend_of, count_tests, key_of, name_of
from procession.testing.supervisor import is_supervised

_LAUNCH_NOTHING = "test_it_is_a_backend", "test_it_is_available"
_FIRST_LAUNCH = "test_each_rank_has_a_process_of_its_own"  # if it fails, no other test may run


@dataclass(slots=True)
class _Findings:
    """The outcomes of one backend's tests."""

    kit: type[BackendConformance]
    name: str = ""
    remote: bool = False
    passed: int = 0
    selected: set[Key] = field(default_factory=set)
    run: set[Key] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    broken: str = ""
    unusable: bool = False
    aftermath: Aftermath = field(default_factory=Aftermath)


class Summary:
    """Collects the outcomes by test class, and by the parameters that its author added."""

    def __init__(self) -> None:
        self._of: dict[Key, _Findings] = {}

    def expect(self, item: Any) -> None:
        """Note a selected test."""
        findings = self._find(item)
        if (key := key_of(item, findings.kit)) is not None:
            findings.selected.add(key)

    def begin(self, item: Any) -> None:
        """Skip a test that depends on a test of the protocol that failed."""
        findings = self._find(item)
        if findings.broken and (findings.unusable or not _tests_protocol(item)):
            pytest.skip(f"not run: {findings.broken} failed, and the other tests depend on it")

    def watch(self, item: Any) -> AbstractContextManager[None]:
        """Return a context manager for the call of a test, which fails if it leaves something behind."""
        findings = self._find(item)
        subject = item.funcargs["subject"]
        findings.name, findings.remote = subject.backend.name, subject.capabilities.remote
        launches = name_of(item) not in _LAUNCH_NOTHING
        return findings.aftermath.watch(item, subject, launches=launches)

    def note(self, item: Any, report: Any) -> None:
        """Note the outcome of a test's setup, call or teardown."""
        findings = self._find(item)
        if hasattr(report, "wasxfail") and report.skipped:
            findings.expected[item.name] = report.wasxfail
        elif report.failed and item.name not in findings.failed:
            findings.failed.append(item.name)
            _note_broken(findings, item, report.when)
        elif report.skipped:
            findings.skipped[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
        elif report.passed and report.when == "call":
            findings.passed += 1
        if report.when == "teardown" and (key := key_of(item, findings.kit)) is not None:
            findings.run.add(key)

    def compose(self) -> Iterator[tuple[str, list[str]]]:
        """Yield a title and lines for each backend."""
        for findings in self._of.values():
            yield f"procession conformance: {findings.name or 'no backend'}", _compose(findings)

    def is_success(self) -> bool:
        """Return whether each backend that failed no test is certified, as far as tests were selected."""
        return not any(
            any(_find_gaps(findings))
            for findings in self._of.values()
            if findings.passed and not findings.failed
        )

    def _find(self, item: Any) -> _Findings:
        kit = RemoteConformance if issubclass(item.cls, RemoteConformance) else BackendConformance
        key = backend_of(item, kit)
        if key not in self._of:
            self._of[key] = _Findings(kit)
        return self._of[key]


def _note_broken(findings: _Findings, item: Any, when: str) -> None:
    if _tests_protocol(item) or findings.aftermath.shared:
        findings.broken = findings.broken or item.name
        findings.unusable |= (
            when == "setup"  # there is no backend to test
            or name_of(item) == _FIRST_LAUNCH
            or findings.aftermath.shared  # or one that may end this process
        )


def _compose(findings: _Findings) -> list[str]:
    passed = f"{findings.passed} tests passed"
    gaps = [*_find_unselected(findings), *_find_gaps(findings)]
    if findings.failed or not findings.passed:
        gaps = [passed, *gaps]
    verdict = [f"not certified: {gap}" for gap in gaps] or [f"certified: {passed}"]
    lines = [_describe(findings.name), *verdict]
    lines += [f"failed: {name}" for name in findings.failed]
    lines += [f"known to fail: {name} ({why})" for name, why in findings.expected.items()]
    lines += [f"{reason} ({count} tests)" for reason, count in sorted(findings.skipped.items())]
    return lines


def _find_unselected(findings: _Findings) -> Iterator[str]:
    """Yield the number of selected tests, if it is not that of all tests."""
    total = count_tests(findings.kit)
    if len(findings.selected) < total:
        yield f"{len(findings.selected)} of {total} tests selected"


def _find_gaps(findings: _Findings) -> Iterator[str]:
    """Yield the reasons why a backend whose tests passed is not certified."""
    if missing := findings.selected - findings.run:
        yield f"the run was cut short; {len(missing)} of {len(findings.selected)} tests were not run"
    if not is_supervised():
        yield "the kit must be run on Linux, in one process that has no threads when the tests begin"
    if findings.remote and findings.kit is not RemoteConformance:
        yield f"{NOT_RUN}: subclass procession.testing.RemoteConformance"
    yield from (reason for reason in findings.skipped if reason.startswith(NOT_RUN))


def _describe(name: str) -> str:
    sources = [f"{info.distribution} {info.version}" for info in find_entries(name)]
    return ", ".join(
        [
            *sources,
            f"procession {procession.__version__} (protocol {procession.PROTOCOL_VERSION})",
            f"{platform.python_implementation()} {platform.python_version()}",
            f"{platform.system()} {platform.release()} {platform.machine()}",
        ]
    )


def _tests_protocol(item: Any) -> bool:
    return hasattr(ProtocolTests, name_of(item))
