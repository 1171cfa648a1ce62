"""Ranks on two hosts, over a link that loses, delays, reorders and duplicates packets.

Rank 0 runs on this host, all others on the second one.  The link is that of `lossy_link`.  Both directions
lose packets: at a loss of 20 %, 36 % of the round trips fail.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lossy_link import Faults, lossy_link

import standin
from procession import ProcessExitedException, ProcessRaisedException, get_backend
from procession.testing.hosts import NAME, FarHost, far_host, why_none
from procession.testing.remote import assert_all_gone
from procession.testing.remote_ranks import settle
from procession.testing.subject import Subject
from procession.testing.times import patience

DEADLINE = patience(300)
"""Seconds after which a launch has failed."""

LAUNCHES = int(os.environ.get("PROCESSION_TEST_LAUNCHES", "5"))
"""How often each test launches ranks."""

IDLE = 40.0
"""Seconds for which ranks send nothing."""

SIZES = {0.05: 100_000, 0.2: 5_000}
"""Bytes of arguments and results, by the probability of a loss.  TCP waits longer after each packet that it
loses again: at 20 %, 2 of 80 transfers of 20 kB took over 50 s."""

CONTACT_TIMEOUTS = {0.05: 10, 0.2: 30}
"""The option ``contact_timeout``, by the probability of a loss: 10 is the default.  Where a third of the
round trips fail, all answers of 10 s may be lost."""

REASON = why_none() or ("" if os.path.exists("/dev/net/tun") else "/dev/net/tun is missing")
"""Why this machine cannot have such a link."""

pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=REASON),
    pytest.mark.timeout(LAUNCHES * DEADLINE),
]


@pytest.fixture(params=SIZES)
def loss(request: pytest.FixtureRequest) -> float:
    """Return the probability that a packet is lost."""
    return float(request.param)


@pytest.fixture
def host(loss: float) -> Iterator[FarHost]:
    """Provide the second host, at the other end of a lossy link."""
    with far_host() as far, lossy_link(far, Faults(loss)) as host:
        yield host


@pytest.fixture
def subject(host: FarHost, loss: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Return the start method ``command``, with all ranks but rank 0 on the second host."""
    monkeypatch.setenv("STANDIN", "")
    move = f"if rank: command = {list(host.prefix)!r} + command"
    more = {"advertise": host.near_address, "contact_timeout": CONTACT_TIMEOUTS[loss]}
    return Subject(get_backend("command"), standin.options(move, **more), tmp_path, here=True)


def answer(rank: int, size: int, data: bytes) -> tuple[str, bytes]:
    """Return a digest of the argument, and data that only this rank makes."""
    return hashlib.sha256(data).hexdigest(), make_data(rank, size)


def make_data(rank: int, size: int) -> bytes:
    """Return bytes that differ from rank to rank, and do not compress."""
    return hashlib.shake_256(bytes([rank])).digest(size)


def test_all_results_arrive(subject: Subject, loss: float) -> None:
    size = SIZES[loss]
    for _ in range(LAUNCHES):
        data = os.urandom(size)
        expected = hashlib.sha256(data).hexdigest()
        results = subject.run(answer, size, data, nprocs=4, timeout=DEADLINE)
        assert results == [(expected, make_data(rank, size)) for rank in range(4)]


def fail(rank: int, who: int, how: str, folder: str) -> None:
    """Raise in one rank, or kill it, once all are asleep for minutes."""
    stage = settle(rank, folder)
    if rank != who:
        time.sleep(300)
    for other in range(3):
        stage.await_cue(f"asleep {other}")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(f"boom from rank {rank}")


@pytest.mark.parametrize("who", [0, 2])
def test_a_rank_that_raises_is_named_and_the_others_are_stopped(
    subject: Subject, host: FarHost, who: int
) -> None:
    for _ in range(LAUNCHES):
        folder = str(subject.folder)
        error = subject.fail(fail, who, "raise", folder, nprocs=3, timeout=DEADLINE)
        assert isinstance(error, ProcessRaisedException)
        assert (error.error_index, error.host) == (who, NAME if who else os.uname().nodename)
        assert "Traceback" in str(error)
        assert f"ValueError: boom from rank {who}" in str(error)
        end(subject)


@pytest.mark.parametrize("who", [0, 2])
def test_a_rank_that_is_killed_is_named_and_the_others_are_stopped(
    subject: Subject, who: int
) -> None:
    for _ in range(LAUNCHES):
        folder = str(subject.folder)
        error = subject.fail(fail, who, "kill", folder, nprocs=3, timeout=DEADLINE)
        assert isinstance(error, ProcessExitedException)
        assert (error.error_index, error.signal_name) == (who, "SIGKILL")
        end(subject)


def end(subject: Subject) -> None:
    """Fail if a process is left; clean the folder for the next launch."""
    assert_all_gone(subject)
    for cue in subject.folder.iterdir():
        cue.unlink()


def rest(rank: int) -> int:
    """Send nothing for a while."""
    time.sleep(IDLE)
    return rank


def test_ranks_that_send_nothing_are_not_lost(subject: Subject) -> None:
    assert subject.run(rest, nprocs=4, timeout=DEADLINE) == [0, 1, 2, 3]
