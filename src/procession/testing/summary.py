"""What the kit found out about each backend, in lines that a maintainer can paste."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import procession
from procession.testing.listing import find_entries
from procession.testing.seam import Seam


@dataclass(slots=True)
class _Findings:
    """What is known of one backend."""

    name: str = ""
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    broken: str = ""
    unusable: bool = False


class Summary:
    """Collects findings by the class that was run."""

    def __init__(self) -> None:
        self._of: defaultdict[Any, _Findings] = defaultdict(_Findings)

    def begin(self, item: Any) -> None:
        """Skip a test that rests on one of the seam's that has failed."""
        findings = self._of[item.cls]
        if findings.broken and (findings.unusable or not _is_of_seam(item)):
            pytest.skip(f"not run: {findings.broken} has failed, and all else rests on it")

    def note(self, item: Any, report: Any) -> None:
        """Note what came of a test, or of its set-up or its end."""
        findings = self._of[item.cls]
        subject = getattr(item, "funcargs", {}).get("subject")
        if subject is not None:
            findings.name = subject.backend.name
        if hasattr(report, "wasxfail") and report.skipped:
            findings.expected[item.name] = report.wasxfail
        elif report.failed and item.name not in findings.failed:
            findings.failed.append(item.name)
            if _is_of_seam(item):
                findings.broken = findings.broken or item.name
                findings.unusable |= report.when == "setup"  # there is no backend to begin with
        elif report.skipped:
            findings.skipped[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
        elif report.passed and report.when == "call":
            findings.passed += 1

    def compose(self) -> Iterator[tuple[str, list[str]]]:
        """Yield a title and lines for each backend."""
        for findings in self._of.values():
            yield f"procession conformance: {findings.name or 'no backend'}", _compose(findings)


def _compose(findings: _Findings) -> list[str]:
    verdict = "not certified" if findings.failed or not findings.passed else "certified"
    lines = [_describe(findings.name), f"{verdict}: {findings.passed} tests passed"]
    lines += [f"failed: {name}" for name in findings.failed]
    lines += [f"known to fail: {name} ({why})" for name, why in findings.expected.items()]
    lines += [f"{reason} ({count} tests)" for reason, count in sorted(findings.skipped.items())]
    return lines


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


def _is_of_seam(item: Any) -> bool:
    return hasattr(Seam, getattr(item, "originalname", item.name))
