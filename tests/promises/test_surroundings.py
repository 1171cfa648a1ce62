"""What callers do to their process: streams, descriptors, sockets, signals; and what servers survive."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import ranks
from procession import (
    run,
)
from procession._launch import death_pipes
from scripts import execute


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
        from procession import run
        from procession._forkserver import client
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        def give(rank):
            return rank

        if __name__ == "__main__":
            run(give, start_method="forkserver")
            (server,) = client._servers.values()
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
        from multiprocessing import resource_tracker
        from procession import run

        def give(rank):
            return rank

        if __name__ == "__main__":
            for number in {closed!r}:
                os.close(number)
            results = run(give, nprocs=2, start_method=sys.argv[1])
            tracker = resource_tracker._resource_tracker._pid
            with open(sys.argv[2], "w") as file:
                print(results, tracker, file=file)
            os._exit(0)
        """
    execute(tmp_path, text, start_method, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "[0, 1] None\n"  # a tracker would never end


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


def test_a_server_that_dies_of_its_imports_is_told(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os, sys\nif sys.argv[1:] == ['die']: os._exit(3)\n")
    text = """
        import sys
        from procession import run
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

    from procession._forkserver.client import MOST_IDLE, _servers

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


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_files_in_the_working_directory_do_not_stand_for_the_library(
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


def test_a_server_survives_a_launcher_that_lets_go_at_once() -> None:
    """As an interrupt makes it, between the request and the reply."""
    from procession._forkserver import client
    from procession._linux import fds, messages

    assert run(ranks.give, start_method="forkserver") == [(0,)]
    server = next(reversed(client._servers.values()))
    assert server.process is not None
    pid = server.process.pid
    ours, theirs = fds.open_channel_pair()
    os.close(ours)
    nothing = os.open(os.devnull, os.O_RDWR)
    request = {
        "nprocs": 2,
        "environment": dict(os.environ),
        "changes": [{}, {}],
        "mark": 0,
        "cgroup": "",
        "keep_handlers": False,
        "signals": ([], []),
        "death_pipes": 1,
    }
    with server._control() as control:
        messages.send(control, request, [theirs, nothing, death_pipes.own_pipe(), *[nothing] * 3])
    for fd in (theirs, nothing):
        os.close(fd)
    assert run(ranks.give, nprocs=2, start_method="forkserver") == [(0,), (1,)]
    assert server.process.pid == pid
