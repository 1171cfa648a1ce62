"""Checks what a test leaves behind: processes, and ranks that shared a process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from procession.testing import left
from procession.testing.own_process import find_shared
from procession.testing.subject import Subject
from procession.testing.times import patience

_PATIENCE = patience(2.0)  # seconds for what a test leaves behind to end by itself
_LESS_PATIENCE = patience(0.3)  # the same in the first launch, and once a test has leaked


class Aftermath:
    """Finds what each test of a backend leaves behind, and ends it.

    A helper that serves all launches may stay if the first launch started it.  Only one process may run a
    helper's command: several mean that each rank, or each launch, started its own.  The kit does not see
    other hosts; `RemoteConformance.engine_jobs` reports what ranks leave there.

    Attributes:
        shared: whether two ranks, or a rank and its caller, ran in one process.
    """

    def __init__(self) -> None:
        self.shared: bool = False
        self._patience = _PATIENCE
        self._has_launched = False
        self._helpers: list[left.Left] = []

    @contextmanager
    def watch(self, item: Any, subject: Subject, *, launches: bool) -> Iterator[None]:
        """Run a test as a block; fail a test that passes but leaves something behind.

        Args:
            item: the test; if it fails anyway, its report lists what it left behind.
            subject: the backend.
            launches: whether the test starts ranks.
        """
        # the engine starts and ends processes at any time: they do not count
        engine = left.take_census() if subject.capabilities.remote else None
        look = partial(left.take_census, engine)
        before = look()
        try:
            yield
        except BaseException:
            problems = self._find_problems(subject, look, before)
            item.add_report_section("call", "left behind", problems)
            raise
        problems = self._find_problems(subject, look, before)
        self._has_launched |= launches
        if problems:
            pytest.fail(problems, pytrace=False)

    def _find_problems(
        self, subject: Subject, look: Callable[[], left.Census], before: left.Census
    ) -> str:
        """Describe what a test left behind, and end it; return an empty string if there is nothing."""
        shared = find_shared(subject.folder)
        self.shared |= bool(shared)
        patience = self._patience if self._has_launched else _LESS_PATIENCE
        stayed = left.find_left(look, before, patience, self._replaces_helper)
        leaks = self._find_leaks(stayed, subject.capabilities.remote)
        if leaks:
            self._patience = _LESS_PATIENCE
            left.end(leaks)
        lines = [f"process {one.pid}: {one.command}" for one in leaks]
        return "\n".join(
            [*([shared] if shared else []), *(["left behind:", *lines] if lines else [])]
        )

    def _replaces_helper(self, one: left.Left) -> bool:
        """Return whether a process runs the command of a helper that has ended."""
        same = [helper for helper in self._helpers if _command_of(helper) == _command_of(one)]
        return bool(same) and not any(map(left.is_alive, same))

    def _find_leaks(self, stayed: list[left.Left], remote: bool) -> list[left.Left]:
        """Return the processes that are not helpers; a helper is the only process with its command."""
        counts = Counter(map(_command_of, stayed))
        helpers = [
            one
            for one in stayed
            if (remote and not self._has_launched)  # its engine, which may have many processes
            or (
                counts[_command_of(one)] == 1
                and (not self._has_launched or self._replaces_helper(one))
            )
        ]
        leaks = [one for one in stayed if one not in helpers]
        wrong = set(map(_command_of, leaks))
        leaks += [one for one in self._helpers if _command_of(one) in wrong and left.is_alive(one)]
        self._helpers = [one for one in self._helpers + helpers if _command_of(one) not in wrong]
        return leaks


def _command_of(one: left.Left) -> str:
    """Return the command of a process with each number as 0: descriptors and process ids differ each time."""
    return re.sub(r"\d+", "0", one.command)
