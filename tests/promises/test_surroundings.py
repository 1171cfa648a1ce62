"""Launches work whatever callers do to their process: streams, descriptors, sockets, signals.

And servers survive what callers do to them.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from procession import ProcessTimeoutError, run, start_processes
from procession.testing.scratch import Stage, is_gone, state_of
from procession.testing.subject import wait_until
from procession.testing.times import patience
from scripts import execute, run_program

MOST_SERVERS = 4
"""How many forkservers of a process wait for a launch at most."""


@pytest.mark.parametrize("where", ["caller", "module"])
def test_default_timeouts_of_sockets_do_no_harm(start_method: str, where: str) -> None:
    done = run_program("sets_socket_timeout.py", start_method, where)
    assert done.stdout == "[0, 1]\n"


def test_sigpipe_at_its_default_does_not_kill_the_caller_of_a_dead_server() -> None:
    assert run_program("launches_after_its_server_died.py").stdout == "[0]\n"


def test_ranks_launch_functions_of_the_main_module(start_method: str) -> None:
    assert run_program("nested_launches.py", start_method).stdout == "[[0, 1]]\n" * 3


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_a_caller_that_closed_its_standard_streams_launches(
    start_method: str, closed: tuple[int, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_program("closes_standard_streams.py", start_method, str(out), *map(str, closed))
    assert out.read_text() == "[0, 1] None\n"  # a resource tracker would never end


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_caller_may_close_all_descriptors_between_launches(start_method: str) -> None:
    done = run_program("closes_descriptors_between_launches.py", start_method)
    assert done.stdout == "[0, 1]\n"


def test_shared_memory_of_a_failed_rank_is_not_left(start_method: str) -> None:
    name = run_program("leaves_shared_memory.py", start_method).stdout.strip()
    until = time.monotonic() + 10
    while os.path.exists(f"/dev/shm/{name}"):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_shared_memory_of_a_rank_reaches_a_caller_that_has_used_none(start_method: str) -> None:
    assert run_program("opens_shared_memory_of_a_rank.py", start_method).stdout == "alive\n"


def test_the_error_says_how_a_server_ended_and_what_it_imported() -> None:
    printed = run_program("preloads_a_deadly_module.py").stdout
    assert "ended with exit code 3" in printed
    assert "deadly" in printed


TELL = "import os\ndef tell(rank):\n    return '{}', os.getppid()\n"


def test_idle_servers_are_few_and_changed_modules_get_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    servers = set()
    for number in range(MOST_SERVERS + 3):
        (tmp_path / f"one_of_{number}.py").write_text(TELL.format("old"))
        module = importlib.import_module(f"one_of_{number}")
        ((text, server),) = run(module.tell, start_method="forkserver")
        assert text == "old"
        servers.add(server)
    assert len(servers) == MOST_SERVERS + 3
    assert len([one for one in servers if not is_gone(one)]) <= MOST_SERVERS
    path = tmp_path / "one_of_0.py"
    path.write_text(TELL.format("renewed"))
    os.utime(path, ns=(1, 1))
    module = importlib.reload(importlib.import_module("one_of_0"))
    assert run(module.tell, start_method="forkserver")[0][0] == "renewed"


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


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_files_in_the_working_directory_do_not_shadow_the_library(
    start_method: str, tmp_path: Path
) -> None:
    text = """
        import sys
        from procession import run
        print(run(abs, nprocs=2, start_method=sys.argv[1]))
        """
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("fcntl", "marshal", "runpy", "signal", "socket", "select"):
        (folder / f"{name}.py").write_text("raise ImportError('of the working directory')\n")
    assert execute(tmp_path, text, start_method, cwd=folder) == "[0, 1]\n"


def test_a_server_serves_on_after_a_launcher_gave_up_between_request_and_reply(
    tmp_path: Path,
) -> None:
    stage = Stage(str(tmp_path), 60)
    arguments: dict[str, Any] = {"args": (str(tmp_path),), "start_method": "forkserver"}
    with start_processes(find_sender, join=False, collect_results=True, **arguments) as context:
        server = int(stage.await_cue("server"))
        os.kill(server, signal.SIGSTOP)
        try:
            wait_until(lambda: state_of(server) == "T", "the server runs on")
            with pytest.raises(ProcessTimeoutError, match="the forkserver had not started"):
                start_processes(find_sender, timeout=patience(1), **arguments)
        finally:
            os.kill(server, signal.SIGCONT)
        wait_until(lambda: state_of(server) != "T", "the server does not go on")
        process: Any = context.processes[0]
        process.send_signal(signal.SIGUSR1)  # through the server, which reads the request first
        assert context.results() == [server]


def find_sender(rank: int, folder: str) -> int | None:
    """Return the process that sends SIGUSR1; None if none does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    Stage(folder, 60).tell("server", str(os.getppid()))
    info = signal.sigtimedwait({signal.SIGUSR1}, patience(10))
    return None if info is None else info.si_pid
