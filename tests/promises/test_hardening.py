"""What a red team found: handlers and threads in the middle of a wait, forks, sockets, servers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    ProcessExitedException,
    ProcessRaisedException,
    get_context,
    run,
    start_processes,
)
from procession.testing.times import patience
from scripts import execute


def wait(rank: int, event: Any) -> None:
    event.wait()


def test_await_returns_though_another_took_the_events(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(wait, (event,), 2, join=False, start_method=start_method)
        task = asyncio.ensure_future(until_ended(context))
        await asyncio.sleep(0)
        event.set()
        assert context.wait()  # in the loop's own thread, so that it hears of nothing meanwhile
        assert await asyncio.wait_for(task, 10)

    async def until_ended(context: Any) -> bool:
        return bool(await context)

    asyncio.run(main())


def test_await_beside_a_thread_that_joins(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(wait, (event,), 2, join=False, start_method=start_method)
        joined = asyncio.ensure_future(asyncio.to_thread(context.wait))
        awaited = asyncio.ensure_future(until_ended(context))
        await asyncio.sleep(0.02)
        event.set()
        assert list(await asyncio.wait_for(asyncio.gather(joined, awaited), 10)) == [True, True]

    async def until_ended(context: Any) -> bool:
        return bool(await context)

    asyncio.run(main())


@pytest.mark.parametrize("size", [10, 100_000])  # the second travels as a file
def test_an_exception_between_a_report_and_its_note_loses_nothing(
    start_method: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler may raise one, where the report is read but not yet kept."""
    from procession._supervise.rank_state import RankState

    real = RankState.take_report
    raised: list[bool] = []

    def interrupted(rank_state: RankState) -> bool:
        receive = rank_state.channel.receive
        if not raised and receive() is not None:
            raised.append(True)
            raise TimeoutError("from a handler")
        return real(rank_state)

    monkeypatch.setattr(RankState, "take_report", interrupted)
    context = start_processes(
        give_text, (size,), 2, join=False, collect_results=True, start_method=start_method
    )
    with pytest.raises(TimeoutError):
        context.wait()
    assert context.results() == ["x" * size] * 2


def give_text(rank: int, size: int) -> str:
    return "x" * size


@pytest.mark.parametrize("place", ["note_end", "take_report"])
def test_an_exception_in_the_middle_of_a_wait_loses_nothing(
    start_method: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler may raise one, between any two steps."""
    from procession._supervise.rank_state import RankState
    from procession._supervise.supervisor import Supervisor

    real = getattr(RankState, place) if place == "take_report" else Supervisor._dismiss
    raised: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        if not raised:
            raised.append(True)
            raise TimeoutError("from a handler")
        return real(*arguments)

    owner: Any = RankState if place == "take_report" else Supervisor
    monkeypatch.setattr(owner, place if owner is RankState else "_dismiss", interrupted)
    context = start_processes(
        ranks.give, nprocs=3, join=False, collect_results=True, start_method=start_method
    )
    with pytest.raises(TimeoutError):
        context.wait()
    assert context.wait()
    assert context.results() == [(0,), (1,), (2,)]


def test_terminate_in_a_signal_handler_during_join(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    previous = signal.signal(signal.SIGUSR1, lambda *_: context.terminate())
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        assert context.wait()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert [process.exitcode for process in context.processes] == [-15, -15]


def test_terminate_in_a_signal_handler_during_a_stop(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procession._supervise import stopping

    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    came: list[object] = []

    def warn(*arguments: object) -> None:
        came.append(arguments)
        if len(came) == 1:
            context.terminate()

    monkeypatch.setattr(stopping.log, "warning", warn)
    context.terminate()
    assert context.wait()
    assert came


def test_a_later_stop_hastens_one_under_way(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(ranks.stubborn, (ready,), 2, join=False, start_method=start_method)
    caught: list[BaseException] = []

    def join() -> None:
        try:
            context.wait(grace_period=60)
        except ProcessRaisedException as error:
            caught.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    context.processes[1].join(30)
    begun = time.monotonic()
    context.terminate(grace_period=0.1)
    thread.join(30)
    assert time.monotonic() - begun < 10
    assert len(caught) == 1


@pytest.mark.parametrize("ending", ["return", "exit 0", "exit 3", "raise"])
def test_a_process_that_a_rank_forked_has_no_say(start_method: str, ending: str) -> None:
    with pytest.raises(ProcessRaisedException, match="the real cause"):
        start_processes(fork_then_fail, (ending,), 1, start_method=start_method)
    if ending == "return":
        assert run(fork_then_return, start_method=start_method) == ["the rank's"]


def fork_then_fail(rank: int, ending: str) -> None:
    if os.fork() == 0:
        if ending == "return":
            return
        if ending == "raise":
            raise KeyError("of the child")
        sys.exit(int(ending.split()[1]))
    os.wait()
    raise ValueError("the real cause")


def fork_then_return(rank: int) -> str:
    if os.fork() == 0:
        return "the child's"
    os.wait()
    return "the rank's"


def test_an_exit_does_not_wait_for_a_daemon_thread_that_joins(
    start_method: str, tmp_path: Path
) -> None:
    text = """
        import sys, threading, time
        from procession import start_processes

        def work(rank):
            time.sleep(60)

        if __name__ == "__main__":
            context = start_processes(
                work, nprocs=2, join=False, daemon=True, start_method=sys.argv[1]
            )
            threading.Thread(target=context.wait, daemon=True).start()
            time.sleep(0.1)
        """
    begun = time.monotonic()
    execute(tmp_path, text, start_method)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("attempt", range(3))
def test_first_launches_of_many_threads_at_once(
    start_method: str, attempt: int, tmp_path: Path
) -> None:
    """Each finds modules that another thread has only half imported."""
    text = """
        import sys, threading
        from procession import run

        def give(rank):
            return rank

        def launch():
            barrier.wait()
            options = {"fork_check": "off"} if sys.argv[1] == "fork" else None
            answers.append(run(give, nprocs=2, start_method=sys.argv[1], options=options))

        if __name__ == "__main__":
            sys.setswitchinterval(1e-5)
            answers, barrier = [], threading.Barrier(6)
            threads = [threading.Thread(target=launch) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(answers == [[0, 1]] * 6)
        """
    assert execute(tmp_path, text, start_method) == "True\n"


@pytest.mark.parametrize("function", ["leave", "_become_rank"])
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])  # spawn has no frames below
def test_an_interrupt_as_a_rank_begins_or_leaves_stays_in_it(
    start_method: str, function: str, tmp_path: Path
) -> None:
    """In a fork, what is not caught unwinds into the frames of whoever forked: its caller's code."""
    text = """
        import os, signal, sys, time
        from procession import ProcessException, start_processes

        def interrupt_at(name):
            def trace(frame, event, arg):
                if frame.f_code.co_name == name and os.getpid() != caller:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            sys.settrace(trace)

        def work(rank):
            if rank == 1 and sys.argv[2] == "leave":
                interrupt_at("leave")
            elif rank == 0:
                time.sleep(0.5)

        caller = os.getpid()

        if __name__ == "__main__":
            if sys.argv[2] != "leave":
                interrupt_at(sys.argv[2])
            try:
                start_processes(work, nprocs=3, start_method=sys.argv[1])
                print("well", flush=True)
            except ProcessException as error:
                print("told of", error.exit_code, flush=True)
            finally:
                print("the caller" if os.getpid() == caller else "A RANK", flush=True)
        """
    told = execute(tmp_path, text, start_method, function).splitlines()
    assert told in (["well", "the caller"], ["told of 1", "the caller"])


def test_timeouts_of_a_year_are_timeouts(start_method: str) -> None:
    year = 366 * 86_400.0
    context = start_processes(
        ranks.nothing, nprocs=2, join=False, start_method=start_method, timeout=1e12
    )
    context.processes[0].join(year)
    assert context.wait(year)


def test_finalizers_run_in_every_launch(start_method: str, tmp_path: Path) -> None:
    for launch in range(2):
        start_processes(finalize, (str(tmp_path / f"file {launch}"),), 1, start_method=start_method)
        assert (tmp_path / f"file {launch}").exists()


def finalize(rank: int, path: str) -> None:
    import weakref

    weakref.finalize(sys, Path(path).touch)


@pytest.mark.filterwarnings("ignore:start_method='fork' is not safe here:RuntimeWarning")  # threads
def test_a_launch_from_an_executor_thread_and_from_asyncio(
    start_method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        begun = time.monotonic()
        with pytest.raises(ProcessExitedException):
            start_processes(ranks.fail_in, (1, "_exit 7"), 2, start_method=start_method)
        assert time.monotonic() - begun < patience(4)  # ranks that ignore SIGTERM get 5 s
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        await asyncio.to_thread(
            start_processes, finalize, (str(tmp_path / "file"),), 1, start_method=start_method
        )

    asyncio.run(main())
    assert (tmp_path / "file").exists()
    assert "cannot join current thread" not in capfd.readouterr().err


def test_a_context_in_a_fork_says_whose_it_is(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=1, join=False, start_method=start_method)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            context.wait(0)
        except RuntimeError as error:
            status = "belongs to process" not in str(error)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    context.terminate()
