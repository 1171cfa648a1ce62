"""What a red team found: handlers and threads in the middle of a wait, forks, sockets, servers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
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


def execute(tmp_path: Path, text: str, *arguments: str, **options: Any) -> str:
    """Run a script, and return what it printed."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def wait(rank: int, event: Any) -> None:
    event.wait()


def test_await_returns_though_another_took_the_events(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(wait, (event,), 2, join=False, start_method=start_method)
        task = asyncio.ensure_future(until_ended(context))
        await asyncio.sleep(0)
        event.set()
        assert context.join()  # in the loop's own thread, so that it hears of nothing meanwhile
        assert await asyncio.wait_for(task, 10)

    async def until_ended(context: Any) -> bool:
        return bool(await context)

    asyncio.run(main())


def test_await_beside_a_thread_that_joins(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(wait, (event,), 2, join=False, start_method=start_method)
        joined = asyncio.ensure_future(asyncio.to_thread(context.join))
        awaited = asyncio.ensure_future(until_ended(context))
        await asyncio.sleep(0.02)
        event.set()
        assert list(await asyncio.wait_for(asyncio.gather(joined, awaited), 10)) == [True, True]

    async def until_ended(context: Any) -> bool:
        return bool(await context)

    asyncio.run(main())


@pytest.mark.parametrize("place", ["note_end", "take_report"])
def test_an_exception_in_the_middle_of_a_wait_loses_nothing(
    start_method: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler may raise one, between any two steps."""
    from procession.gang import Gang
    from procession.member import Member

    real = getattr(Member, place) if place == "take_report" else Gang._dismiss
    raised: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        if not raised:
            raised.append(True)
            raise TimeoutError("from a handler")
        return real(*arguments)

    owner: Any = Member if place == "take_report" else Gang
    monkeypatch.setattr(owner, place if owner is Member else "_dismiss", interrupted)
    context = start_processes(ranks.give, nprocs=3, join=False, start_method=start_method)
    with pytest.raises(TimeoutError):
        context.join()
    assert context.join()
    assert context.results() == [(0,), (1,), (2,)]


def test_terminate_in_a_signal_handler_during_join(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    previous = signal.signal(signal.SIGUSR1, lambda *_: context.terminate())
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        assert context.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert [process.exitcode for process in context.processes] == [-15, -15]


def test_terminate_in_a_signal_handler_during_a_stop(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procession import stopping

    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    came: list[object] = []

    def warn(*arguments: object) -> None:
        came.append(arguments)
        if len(came) == 1:
            context.terminate()

    monkeypatch.setattr(stopping.log, "warning", warn)
    context.terminate()
    assert context.join()
    assert came


def test_a_later_stop_hastens_one_under_way(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(ranks.stubborn, (ready,), 2, join=False, start_method=start_method)
    caught: list[BaseException] = []

    def join() -> None:
        try:
            context.join(grace_period=60)
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


@pytest.mark.parametrize("where", ["caller", "module"])
def test_default_timeouts_of_sockets_do_no_harm(
    start_method: str, where: str, tmp_path: Path
) -> None:
    (tmp_path / "sets_timeout.py").write_text(
        "import socket, time\n"
        "socket.setdefaulttimeout(0.05)\n"
        "time.sleep(0.2)\n"
        "def give(rank):\n    time.sleep(0.1)\n    return rank\n"
    )
    text = """
        import socket, sys
        if sys.argv[2] == "caller":
            socket.setdefaulttimeout(0.05)
        import sets_timeout
        if sys.argv[2] == "module":
            socket.setdefaulttimeout(None)
        from procession import run
        print(run(sets_timeout.give, nprocs=2, start_method=sys.argv[1]))
        """
    assert execute(tmp_path, text, start_method, where) == "[0, 1]\n"


def test_sigpipe_at_its_default_does_not_kill_the_caller_of_a_dead_server(tmp_path: Path) -> None:
    text = """
        import os, signal
        from procession import forkservers, run
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        def give(rank):
            return rank

        if __name__ == "__main__":
            run(give, start_method="forkserver")
            (server,) = forkservers._servers.values()
            server.process.kill()
            server.process.join()
            print(run(give, start_method="forkserver"))
        """
    assert execute(tmp_path, text) == "[0]\n"


def test_nested_launches_of_a_function_of_the_main_module(
    start_method: str, tmp_path: Path
) -> None:
    text = """
        import sys
        from procession import run

        def leaf(rank):
            return rank

        def middle(rank, method):
            return run(leaf, nprocs=2, start_method=method)

        if __name__ == "__main__":
            for method in "fork", "spawn", "forkserver":
                print(run(middle, (method,), start_method=sys.argv[1]))
        """
    assert execute(tmp_path, text, start_method) == "[[0, 1]]\n" * 3


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_closed_streams_of_the_caller(
    start_method: str, closed: tuple[int, ...], tmp_path: Path
) -> None:
    text = f"""
        import os, sys
        from procession import run

        def give(rank):
            return rank

        if __name__ == "__main__":
            for number in {closed!r}:
                os.close(number)
            results = run(give, nprocs=2, start_method=sys.argv[1])
            with open(sys.argv[2], "w") as file:
                print(results, file=file)
            os._exit(0)
        """
    execute(tmp_path, text, start_method, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "[0, 1]\n"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_closing_all_descriptors_in_between_is_survived(start_method: str, tmp_path: Path) -> None:
    text = """
        import os, sys
        from procession import run

        def give(rank):
            return rank

        if __name__ == "__main__":
            run(give, nprocs=2, start_method=sys.argv[1])
            os.closerange(3, 256)
            print(run(give, nprocs=2, start_method=sys.argv[1]))
        """
    assert execute(tmp_path, text, start_method) == "[0, 1]\n"


def test_an_exit_does_not_wait_for_a_daemon_thread_that_joins(
    start_method: str, tmp_path: Path
) -> None:
    text = """
        import sys, threading, time
        from procession import start_processes

        def work(rank):
            time.sleep(60)

        if __name__ == "__main__":
            context = start_processes(work, nprocs=2, join=False, start_method=sys.argv[1])
            threading.Thread(target=context.join, daemon=True).start()
            time.sleep(0.1)
        """
    begun = time.monotonic()
    execute(tmp_path, text, start_method)
    assert time.monotonic() - begun < 20


def test_timeouts_of_a_year_are_timeouts(start_method: str) -> None:
    year = 366 * 86_400.0
    context = start_processes(
        ranks.nothing, nprocs=2, join=False, start_method=start_method, timeout=1e12
    )
    context.processes[0].join(year)
    assert context.join(year)


def test_shared_memory_of_a_failed_rank_is_not_left(start_method: str, tmp_path: Path) -> None:
    text = """
        import sys
        from multiprocessing import shared_memory
        from procession import ProcessException, start_processes

        def leave(rank):
            memory = shared_memory.SharedMemory(create=True, size=10)
            print(memory.name, flush=True)
            raise ValueError("boom")

        if __name__ == "__main__":
            try:
                start_processes(leave, start_method=sys.argv[1])
            except ProcessException:
                pass
        """
    name = execute(tmp_path, text, start_method).strip()
    until = time.monotonic() + 10
    while os.path.exists(f"/dev/shm/{name}"):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_shared_memory_of_a_rank_reaches_a_caller_that_has_used_none(
    start_method: str, tmp_path: Path
) -> None:
    text = """
        import sys
        from procession import run

        def make(rank):
            from multiprocessing import shared_memory

            memory = shared_memory.SharedMemory(create=True, size=5)
            memory.buf[:5] = b"alive"
            memory.close()
            return memory.name

        if __name__ == "__main__":
            (name,) = run(make, start_method=sys.argv[1])
            from multiprocessing import shared_memory

            memory = shared_memory.SharedMemory(name)
            print(bytes(memory.buf[:5]).decode())
            memory.close()
            memory.unlink()
        """
    assert execute(tmp_path, text, start_method) == "alive\n"


def test_finalizers_run_in_every_launch(start_method: str, tmp_path: Path) -> None:
    for launch in range(2):
        start_processes(finalize, (str(tmp_path / f"file {launch}"),), 1, start_method=start_method)
        assert (tmp_path / f"file {launch}").exists()


def finalize(rank: int, path: str) -> None:
    import weakref

    weakref.finalize(sys, Path(path).touch)


def test_a_launch_from_an_executor_thread_and_from_asyncio(
    start_method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        begun = time.monotonic()
        with pytest.raises(ProcessExitedException):
            start_processes(ranks.fail_in, (1, "_exit 7"), 2, start_method=start_method)
        assert time.monotonic() - begun < 4  # the grace period, for ranks that ignore SIGTERM, is 5
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
            context.join(0)
        except RuntimeError as error:
            status = "belongs to process" not in str(error)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    context.terminate()


def test_a_server_that_dies_of_its_imports_is_told(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os, sys\nif sys.argv[1:] == ['die']: os._exit(3)\n")
    text = """
        import sys
        from procession import forkservers, run
        sys.argv[1:] = ["die"]
        try:
            run(abs, start_method="forkserver", options={"preload": ["deadly"]})
        except ChildProcessError as error:
            print(error)
        """
    told = execute(tmp_path, text)
    assert "ended with exit code 3" in told
    assert "deadly" in told


def test_idle_servers_are_few_and_changed_modules_get_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    from procession.forkservers import MOST_IDLE, _servers

    monkeypatch.syspath_prepend(str(tmp_path))
    for number in range(MOST_IDLE + 3):
        (tmp_path / f"one_of_{number}.py").write_text("def tell(rank):\n    return 'old'\n")
        module = importlib.import_module(f"one_of_{number}")
        assert run(module.tell, start_method="forkserver") == ["old"]
    assert len(_servers) <= MOST_IDLE + 1
    path = tmp_path / "one_of_0.py"
    path.write_text("def tell(rank):\n    return 'renewed'\n")
    os.utime(path, ns=(1, 1))
    module = importlib.reload(importlib.import_module("one_of_0"))
    assert run(module.tell, start_method="forkserver") == ["renewed"]


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_ranks_have_no_descriptors_of_others(start_method: str) -> None:
    numbers, more = (
        run(count_descriptors, (bytes(size),), 3, start_method=start_method)
        for size in (1, 1 << 20)
    )
    assert numbers == more
    assert len(set(numbers)) == 1


def count_descriptors(rank: int, data: bytes) -> int:
    return len(os.listdir("/proc/self/fd"))
