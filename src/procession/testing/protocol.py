"""Tests of the protocol: what a backend's `start` returns, without the core's supervision.

All other tests depend on these.  Every wait is bounded: a backend that hangs fails a test that says where.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from procession.protocol import ErrorChannel, Process, Report, Started
from procession.testing import ranks
from procession.testing.introspect import abort_start, ask_availability, validate
from procession.testing.own_process import find_shared
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject, wait_until

SOON = 10.0
"""Seconds for events that depend on no further event."""


class ProtocolTests:
    """Tests of what the core relies on."""

    def test_it_is_a_backend(self, subject: Subject) -> None:
        """The object has the attributes of `procession.Backend`, with signatures that fit."""
        validate(subject.backend, name=subject.backend.name, origin="under test")

    def test_it_is_available(self, subject: Subject) -> None:
        """`availability` returns an `Availability`, which says that the backend can be used here."""
        answer = ask_availability(subject.backend)
        assert answer.ok, f"{answer.reason} ({answer.hint})"

    def test_each_rank_has_a_process_of_its_own(self, subject: Subject) -> None:
        """No rank shares a process with its caller or another rank.  If this fails, no further test runs."""
        ones = subject.start_alone(ranks.show_process, str(subject.folder), "seen", nprocs=3)
        try:
            assert_separate(subject, ones)
        finally:
            subject.stage.tell("seen")
            # killing a process with this process's pid would end the tests
            if all(process.pid != os.getpid() for process in ones.processes):
                end_all(ones)

    def test_there_is_one_of_each_a_rank(self, subject: Subject) -> None:
        """Processes, sentinels and error channels are sequences of length nprocs."""
        with started(subject, ranks.nothing, nprocs=3) as ones:
            assert len(ones.processes) == len(ones.sentinels) == len(ones.error_channels) == 3

    def test_the_index_is_the_rank(self, subject: Subject) -> None:
        """The rank, fn's first argument, is the index of its process, sentinel and error channel."""
        with started(subject, ranks.work_as, 0, str(subject.folder), nprocs=3) as ones:
            subject.await_cue("rank 0")
            for index in (1, 2):
                report = receive(ones.error_channels[index])
                assert report is not None, f"rank {index} has reported nothing"
                assert report.result is not None
                assert pickle.loads(report.result) == index
                if not subject.capabilities.exit_barrier:
                    assert_ended(ones, index)
            assert ones.processes[0].is_alive()
            assert wait([ones.sentinels[0]], 0) == []

    def test_a_process_is_alive_until_it_has_ended(self, subject: Subject) -> None:
        """While a rank works, `is_alive` is true, `exitcode` is None and the sentinel is not readable."""
        with started(subject, ranks.work, str(subject.folder), nprocs=1) as ones:
            subject.await_cue("rank 0")
            (process,) = ones.processes
            assert process.is_alive()
            assert process.exitcode is None
            assert wait(list(ones.sentinels), 0) == []
            assert wait([ones.error_channels[0].fileno()], 0) == []
            process.kill()
            assert_ended(ones, 0)

    def test_join_returns_in_time(self, subject: Subject) -> None:
        """`join(timeout)` returns in time while the rank works."""
        with started(subject, ranks.work, str(subject.folder), nprocs=1) as ones:
            subject.await_cue("rank 0")
            joined = threading.Thread(target=ones.processes[0].join, args=(0.05,), daemon=True)
            joined.start()
            joined.join(SOON)
            returned = not joined.is_alive()
            ones.processes[0].kill()
            assert returned, "join(0.05) has not returned"
            assert_ended(ones, 0)

    def test_a_sentinel_is_readable_once_its_process_has_ended(self, subject: Subject) -> None:
        """`multiprocessing.connection.wait` returns, though nothing queries the process."""
        with started(subject, ranks.nothing) as ones:
            for index, sentinel in enumerate(ones.sentinels):
                assert wait([sentinel], SOON), f"the sentinel of process {index} is not readable"
                ones.processes[index].join(SOON)
                assert not ones.processes[index].is_alive()

    def test_a_return_is_reported(self, subject: Subject) -> None:
        """The error channel becomes readable, and has a report of the kind ``returned``."""
        with started(subject, ranks.give, "a") as ones:
            for rank, channel in enumerate(ones.error_channels):
                report = receive(channel)
                assert report is not None, f"rank {rank} has reported nothing"
                assert report.kind == "returned"

    def test_a_failure_is_reported(self, subject: Subject) -> None:
        """The report of a rank that raised has the kind, the type, the message and the traceback."""
        with started(subject, ranks.raise_) as ones:
            for rank, channel in enumerate(ones.error_channels):
                report = receive(channel)
                assert report is not None, f"rank {rank} has reported nothing"
                assert (report.kind, report.type_name) == ("raised", "ValueError")
                assert report.message.startswith("of rank")
                assert f"ValueError: {report.message}" in report.text

    def test_a_failure_is_reported_before_its_process_ends(self, subject: Subject) -> None:
        """The report arrives before the process ends, which may take long: it starts the stop."""
        subject.need("signals")
        subject.need_local()
        with started(subject, ranks.raise_and_stop, nprocs=1) as ones:
            (channel,), (sentinel,) = ones.error_channels, ones.sentinels
            first = wait([channel.fileno(), sentinel], SOON)
            assert first == [channel.fileno()], "the rank has raised, and is still ending"
            report = receive(channel)
            assert report is not None
            assert report.kind == "raised"

    def test_a_rank_that_cannot_report_ends_its_channel(self, subject: Subject) -> None:
        """`receive` raises EOFError, or keeps returning None: it neither blocks nor invents a report."""
        with started(subject, ranks.leave_at_once, 0, nprocs=1) as ones:
            assert_ended(ones, 0)
            assert receive(ones.error_channels[0], seconds=0.2) is None

    def test_a_process_that_has_ended_can_be_released(self, subject: Subject) -> None:
        """`release` does not raise, and the attributes of the process stay as they were."""
        ones = subject.start_alone(ranks.nothing)
        try:
            for index, process in enumerate(ones.processes):
                assert_ended(ones, index)
                before = process.pid, process.exitcode
                getattr(process, "release", int)()
                process.join(0)
                assert not process.is_alive()
                assert (process.pid, process.exitcode) == before
        finally:
            end_all(ones._replace(processes=list(map(Kept, ones.processes))))

    def test_terminate_ends_a_rank(self, subject: Subject) -> None:
        """`terminate` ends a rank that works."""
        with started(subject, ranks.work, str(subject.folder), nprocs=1) as ones:
            subject.await_cue("rank 0")
            ones.processes[0].terminate()
            assert_ended(ones, 0)


class Kept:
    """A process whose `release` the core will not call again."""

    release = None

    def __init__(self, process: Process) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


@contextmanager
def started(subject: Subject, *call: Any, nprocs: int = 2) -> Iterator[Started]:
    """Start ranks for a block; kill and reap them after it."""
    ones = subject.start_alone(*call, nprocs=nprocs)
    try:
        yield ones
    finally:
        end_all(ones)


def end_all(ones: Started) -> None:
    """Kill and reap ranks."""
    finisher = threading.Thread(target=abort_start, args=(ones,), daemon=True)
    finisher.start()
    finisher.join(SOON)
    assert not finisher.is_alive(), "ranks cannot be killed and joined"


def assert_separate(subject: Subject, ones: Started) -> None:
    """Fail unless each of three ranks has its own process, and none is this process."""

    def has_come(rank: int) -> bool:
        assert not (shared := find_shared(subject.folder)), shared
        return subject.stage.read(f"rank {rank}") is not None

    for rank in range(3):
        wait_until(partial(has_come, rank), f"rank {rank} has not begun", SOON)
    texts = [str(subject.stage.read(f"rank {rank}")) for rank in range(3)]
    assert len(set(texts)) == 3, f"ranks share a process: {texts}"
    for rank, text in enumerate(texts):
        pid, _, namespace = text.partition(" ")
        assert ones.processes[rank].pid != os.getpid(), f"process {rank} has its caller's pid"
        if namespace == ranks.find_namespace():
            assert not is_gone(int(pid)), (
                f"rank {rank} says that it is process {pid}, which does not exist"
            )


def assert_ended(ones: Started, index: int) -> None:
    """Fail unless `is_alive` of a process soon returns False."""
    process: Process = ones.processes[index]
    wait_until(lambda: not process.is_alive(), f"process {index} has not ended", SOON)


def receive(channel: ErrorChannel, seconds: float = SOON) -> Report | None:
    """Return the report of a channel; None if the channel ends without one, or has none in time."""
    report: list[Report | None] = []

    def read() -> None:
        try:
            while wait([channel.fileno()], seconds):
                found = channel.receive()
                if found is not None:
                    report.append(found)
                    return
        except EOFError:
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(seconds + SOON)
    assert not reader.is_alive(), "receive() blocks"
    return report[0] if report else None
