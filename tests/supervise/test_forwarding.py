"""Signals that ask the caller to end, or suspend it, reach its ranks.

Promise: A caller that is asked to end lets its ranks save their work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ranks
import standin
from conftest import START_METHODS
from procession import ProcessContext, Signals, run, start_processes, stop_requested
from procession.testing.introspect import read_mask
from procession.testing.scratch import state_of

SCRIPT = Path(__file__).parents[1] / "signalled_caller.py"
PATIENCE = 30.0  # seconds

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Caller:
    """A process that runs the script, and the folder in which its ranks give cues."""

    def __init__(self, folder: Path, method: str, how: str, what: str) -> None:
        self.folder, self.how = folder, how
        command = [sys.executable, str(SCRIPT), method, how, what, str(folder)]
        self.process = subprocess.Popen(command, preexec_fn=os.setpgrp)  # noqa: PLW1509

    def await_ranks(self) -> list[int]:
        pids = [int(self.await_cue(f"rank {rank}")) for rank in range(2)]
        if self.how in ("poll", "between", "await", "two"):
            self.await_cue("waits")
        return pids

    def await_cue(self, cue: str) -> str:
        wait_until(lambda: (self.folder / cue).exists() or self.process.poll() is not None)
        return (self.folder / cue).read_text()

    def saved(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("saved *"))]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


MakeCaller = Callable[..., Caller]


@pytest.fixture(params=[*START_METHODS, "command"])
def start_method(request: pytest.FixtureRequest) -> str:
    """The built-in start methods; the ranks of ``command`` have agents."""
    return str(request.param)


@pytest.fixture
def callers(tmp_path: Path) -> Iterator[MakeCaller]:
    made: list[Caller] = []

    def make(method: str, how: str, what: str = "SIGTERM") -> Caller:
        made.append(Caller(tmp_path, method, how, what))
        return made[-1]

    yield make
    for caller in made:
        if caller.process.poll() is None:
            caller.process.kill()
            caller.process.wait()


@pytest.mark.parametrize("how", ["plain", "run", "poll", "between", "await"])
def test_sigterm_lets_ranks_save_and_then_ends_the_caller(
    callers: MakeCaller, start_method: str, how: str
) -> None:
    caller = callers(start_method, how)
    pids = caller.await_ranks()
    assert caller.end(signal.SIGTERM) == -signal.SIGTERM
    assert caller.saved() == ["SIGTERM"] * 2
    assert all(state_of(pid) in "XZ" for pid in pids)


def test_sigterm_at_every_line_between_the_start_and_the_wait() -> None:
    script = Path(__file__).parents[1] / "faults" / "terminated_starts.py"
    played = subprocess.run([sys.executable, script, "fork"], stdout=subprocess.PIPE, check=True)
    assert played.stdout == b""  # it lists the lines at which ranks lost their work


@pytest.mark.parametrize("caught", ["SIGTERM", "SIGHUP,SIGTERM"])
def test_sighup_reaches_ranks_by_the_handler_that_they_have(
    callers: MakeCaller, start_method: str, caught: str
) -> None:
    caller = callers(start_method, "plain", caught)
    caller.await_ranks()
    assert caller.end(signal.SIGHUP) == -signal.SIGHUP
    of_local_ranks = caught.partition(",")[
        0
    ]  # the caller does not know the handlers of remote ones
    assert caller.saved() == ["SIGTERM" if start_method == "command" else of_local_ranks] * 2


def test_the_command_line_passes_sigterm_on(tmp_path: Path, start_method: str) -> None:
    if start_method == "command":
        pytest.skip("the command line takes no options of start methods")
    target = (f"{SCRIPT}:save", str(tmp_path), "SIGTERM")
    command = (sys.executable, "-m", "procession", "run", "-n", "2")
    process = subprocess.Popen([*command, "--start-method", start_method, *target])
    for rank in range(2):
        wait_until((tmp_path / f"rank {rank}").exists)
    process.terminate()
    assert process.wait(PATIENCE) == -signal.SIGTERM
    assert len(list(tmp_path.glob("saved *"))) == 2


def test_a_rank_can_poll_for_the_request(callers: MakeCaller, start_method: str) -> None:
    caller = callers(start_method, "plain", "poll")
    caller.await_ranks()
    time.sleep(0.05)  # it polls every 10 ms: the first call installs the handler
    assert caller.end(signal.SIGTERM) == -signal.SIGTERM
    assert caller.saved() == ["stop_requested"] * 2


def test_stragglers_are_killed_after_the_grace_period(
    callers: MakeCaller, start_method: str
) -> None:
    caller = callers(start_method, "plain", "ignore")
    pids = caller.await_ranks()
    assert caller.end(signal.SIGTERM) == -signal.SIGTERM
    assert all(state_of(pid) in "XZ" for pid in pids)


def test_ctrl_c_cuts_the_grace_period_short(callers: MakeCaller, start_method: str) -> None:
    caller = callers(start_method, "impatient", "ignore")
    pids = caller.await_ranks()
    wait_until(lambda: signal.SIGTERM in caught_by(caller.process.pid))
    caller.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # then another signal, in the grace period of 25 s
    begun = time.monotonic()
    assert caller.end(signal.SIGINT) == -signal.SIGTERM
    assert time.monotonic() - begun < 15
    assert all(state_of(pid) in "XZ" for pid in pids)


def test_sigterm_ends_all_launches_of_the_caller(callers: MakeCaller, start_method: str) -> None:
    caller = callers(start_method, "two")
    caller.await_ranks()
    caller.await_cue("second/rank 0")
    assert caller.end(signal.SIGTERM) == -signal.SIGTERM
    assert len(caller.saved()) == 2


def test_a_handler_that_the_caller_installed_stays(callers: MakeCaller, start_method: str) -> None:
    caller = callers(start_method, "handler")
    caller.await_ranks()
    assert caller.end(signal.SIGTERM) == 7
    assert len(caller.saved()) == 2  # leaving the call stops the ranks in order


def test_a_caller_that_asks_itself_passes_the_signal_on(
    callers: MakeCaller, start_method: str
) -> None:
    """It ends when it wants to; a rank that launches may do so."""
    caller = callers(start_method, "asks")
    caller.await_ranks()
    assert caller.end(signal.SIGTERM) == 0
    assert caller.saved() == ["SIGTERM"] * 2
    assert (caller.folder / "asked").read_text() == "True"


def test_a_handler_that_only_records_the_signal_stops_nothing(callers: MakeCaller) -> None:
    caller = callers("fork", "flag", "count")
    caller.await_ranks()
    caller.process.send_signal(signal.SIGTERM)
    caller.await_cue("flag")
    (caller.folder / "end").touch()
    assert caller.process.wait(PATIENCE) == 0


def test_handlers_are_put_back(callers: MakeCaller, start_method: str) -> None:
    caller = callers(start_method, "poll", "count")
    caller.await_ranks()
    (caller.folder / "end").touch()
    assert caller.process.wait(PATIENCE) == 0
    assert (caller.folder / "put back").read_text() == str(signal.SIG_DFL)


@pytest.mark.parametrize("how", ["plain", "chain"])
def test_sigusr1_is_forwarded_on_request(callers: MakeCaller, start_method: str, how: str) -> None:
    caller = callers(start_method, how, "SIGUSR1")
    caller.await_ranks()
    assert caller.end(signal.SIGUSR1) == 0
    assert caller.saved() == ["SIGUSR1"] * 2
    assert (caller.folder / "own handler").exists() is (how == "chain")


@pytest.mark.parametrize("how", ["poll", "timeout"])
def test_ranks_are_suspended_and_go_on_with_their_caller(
    callers: MakeCaller, start_method: str, how: str
) -> None:
    caller = callers(start_method, how, "count")
    processes = [*caller.await_ranks(), caller.process.pid]
    wait_until(lambda: signal.SIGTSTP in caught_by(caller.process.pid))
    caller.process.send_signal(signal.SIGTSTP)
    wait_until(lambda: all(state_of(pid) == "T" for pid in processes))
    if how == "timeout":
        time.sleep(2.5)  # longer than the timeout of the launch, whose clock stops meanwhile
    caller.process.send_signal(signal.SIGCONT)
    wait_until(lambda: all(state_of(pid) != "T" for pid in processes))
    (caller.folder / "end").touch()
    assert caller.process.wait(PATIENCE) == 0


def caught_by(pid: int) -> set[int]:
    mask = read_mask(pid, "SigCgt")
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_a_wait_in_another_thread_installs_nothing() -> None:
    context = start_processes(ranks.work, nprocs=1, join=False, start_method="spawn")
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def look(context: ProcessContext) -> None:
        context.wait(timeout=0)
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look, args=(context,))
    thread.start()
    thread.join()
    context.terminate()
    assert seen == [before]


def test_a_fork_of_the_caller_has_the_default_action(start_method: str) -> None:
    options = standin.options("") if start_method == "command" else None
    with start_processes(
        ranks.work, nprocs=1, join=False, start_method=start_method, options=options
    ) as context:
        context.wait(timeout=0)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, b"x")  # Python drops a signal that comes while it forks
                time.sleep(60)
            finally:
                os._exit(1)
        os.read(reader, 1)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert context.wait(timeout=0) is False
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("signals", "error", "message"),
    [
        ("SIGUSR1", TypeError, "procession.Signals"),
        (Signals(forward=signal.SIGUSR1), TypeError, "tuple of signals"),  # type: ignore[arg-type]
        (Signals(forward=(signal.SIGTERM,)), ValueError, "SIGTERM"),
        (Signals(forward=(9,)), ValueError, "SIGKILL"),
        (Signals(forward=("SIGUSR1",)), TypeError, "not 'SIGUSR1'"),  # type: ignore[arg-type]
    ],
)
def test_bad_signals_are_refused(signals: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(ranks.nothing, signals=signals)  # type: ignore[call-overload]


def test_an_unknown_keyword_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="'time_out'; did you mean 'timeout'"):
        run(ranks.nothing, time_out=3)  # type: ignore[call-overload]


def test_no_stop_was_requested_of_this_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert stop_requested() is False
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_first_call_of_stop_requested_must_be_in_the_main_thread() -> None:
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            stop_requested()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])
