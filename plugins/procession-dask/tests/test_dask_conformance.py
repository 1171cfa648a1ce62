"""The kit certifies the start method on a cluster of three workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dask_cluster import THREADS, await_single_threads, get_cluster, list_jobs
from procession import Backend, get_backend
from procession.testing import RemoteConformance
from procession.testing.subject import Subject


class TestDask(RemoteConformance):
    ranks_are_here: ClassVar[bool] = True

    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("dask")

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        await_single_threads()  # until all are there
        return {"address": get_cluster().address}

    @pytest.fixture
    def too_many(self) -> tuple[int, Mapping[str, Any]] | None:
        return sum(THREADS) + 1, {"start_timeout": 1}

    @pytest.fixture
    def engine_jobs(self) -> Callable[[], Collection[object]]:
        return list_jobs


class TestByRelay:
    """Tests that depend on the connection of agents and caller; the whole kit was run so by hand."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        await_single_threads()
        options = {"address": get_cluster().address, "transport": "dask"}
        return Subject(get_backend("dask"), options, tmp_path, here=True)

    test_ranks_can_meet = RemoteConformance.test_ranks_can_meet
    test_a_raise_is_told_at_once = RemoteConformance.test_a_raise_is_told_at_once
    test_a_killed_rank_is_told_at_once = RemoteConformance.test_a_killed_rank_is_told_at_once
    test_a_killed_agent_is_told_at_once = RemoteConformance.test_a_killed_agent_is_told_at_once
    test_all_ends_with_the_caller = RemoteConformance.test_all_ends_with_the_caller
    test_an_interrupt = RemoteConformance.test_an_interrupt_while_ranks_start_leaves_nothing
    test_what_ignores_sigterm_is_killed = RemoteConformance.test_what_ignores_sigterm_is_killed
    test_a_deadline_shows_stacks = RemoteConformance.test_a_deadline_shows_stacks
