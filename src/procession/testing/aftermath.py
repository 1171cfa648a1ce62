"""What a test must not leave: processes, and ranks that have shared one."""

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

_PATIENCE = 2.0  # seconds that what a test leaves has to end by itself
_LESS_PATIENCE = 0.3  # the same for what has little hope to


class Aftermath:
    """Looks, after each test of a backend, for what it has left, and ends that.

    A helper that serves all launches may stay if the first launch has started it.  Only one process may run
    a helper's command: else each rank, or each launch, has started another.  What ranks on other hosts leave
    there the engine must tell (`RemoteConformance.engine_jobs`).

    Attributes:
        shared: whether a process was not one rank's alone.
    """

    def __init__(self) -> None:
        self.shared: bool = False
        self._patience = _PATIENCE
        self._has_launched = False
        self._helpers: list[left.Left] = []

    @contextmanager
    def watch(self, item: Any, subject: Subject, *, launches: bool) -> Iterator[None]:
        """Run a test in a block.  If it passes it fails for what it leaves.

        Args:
            item: the test, whose report says what it has left if it has failed anyhow.
            subject: the backend.
            launches: whether the test starts ranks.
        """
        # an engine has processes of its own, which come and go
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
        """Return what is wrong with what a test has left; end it."""
        shared = find_shared(subject.folder)
        self.shared |= bool(shared)
        patience = self._patience if self._has_launched else _LESS_PATIENCE
        stayed = left.find_left(look, before, patience, self._replaces_helper)
        leaks = self._find_leaks(stayed, subject.capabilities.remote)
        if leaks:
            self._patience = _LESS_PATIENCE
            left.end(leaks)
        told = [f"process {one.pid}: {one.command}" for one in leaks]
        return "\n".join(
            [*([shared] if shared else []), *(["left behind:", *told] if told else [])]
        )

    def _replaces_helper(self, one: left.Left) -> bool:
        """Whether a process has a helper's command, and the helper has ended."""
        same = [helper for helper in self._helpers if _command_of(helper) == _command_of(one)]
        return bool(same) and not any(map(left.is_alive, same))

    def _find_leaks(self, stayed: list[left.Left], remote: bool) -> list[left.Left]:
        """Return what is no helper.  A helper that others turn out to be like is none."""
        counts = Counter(map(_command_of, stayed))
        helpers = [
            one
            for one in stayed
            if (remote and not self._has_launched)  # its engine: it may have many
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
    """Return the command of a process without numbers: those of descriptors and processes change."""
    return re.sub(r"\d+", "0", one.command)
