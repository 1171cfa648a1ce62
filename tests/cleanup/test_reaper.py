"""The reaper: one a launcher, told of each launch, and in nobody's way."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import ranks
from procession import start_processes
from procession._cleanup import reaper, reaper_client
from procession.testing.scratch import state_of
from procession.testing.times import patience
from scripts import execute


def test_records_are_followed_to_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for what, number in (
            (reaper.BEGUN, 1),
            (reaper.BEGUN, 2),
            (reaper.FINISHED, 1),
            (reaper.BEGUN, 3),
        ):
            record = what + number.to_bytes(8, "big")
            assert len(record) == reaper.RECORD
            ours.sendall(record)
        ours.sendall(reaper.BEGUN + b"cut")
        ours.close()
        assert reaper.follow(theirs.fileno()) == {2, 3}


def test_there_is_one_for_all_launches() -> None:
    start_processes(ranks.nothing, start_method="fork")
    first = reaper_client._line
    start_processes(ranks.nothing, start_method="spawn")
    assert reaper_client._line == first


@pytest.mark.leaves_things  # another reaper, which stays as the first did
def test_one_that_was_killed_is_replaced(start_method: str) -> None:
    start_processes(ranks.nothing, start_method=start_method)
    assert reaper_client._line is not None
    pid = reaper_client._line[3]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while state_of(pid) != "Z":
        assert time.monotonic() < until
        time.sleep(0.001)
    start_processes(ranks.nothing, start_method=start_method)
    assert reaper_client._line[3] != pid
    assert state_of(reaper_client._line[3]) != "X"
    assert state_of(pid) == "X"  # reaped


UNDER_WAY = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[3])
        from procession.testing.faults import start_stranger
        from procession.testing.scratch import Stage
        from procession import start_processes
        from procession._cleanup import reaper_client

        def work(rank, folder):
            start_stranger(Stage(folder, 60))
            Stage(folder, 60).tell("there")
            Stage(folder, 60).work()

        def nothing(rank):
            pass

        if __name__ == "__main__":
            context = start_processes(work, (sys.argv[1],), 1, join=False, start_method="fork")
            Stage(sys.argv[1], 0).await_cue("there")
            first = reaper_client._line[3]
            if sys.argv[2] == "killed":
                os.kill(first, signal.SIGKILL)
                os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
            else:  # so that its buffer fills
                os.kill(first, signal.SIGSTOP)
                reaper_client._PATIENCE = 1
                while reaper_client._tell(b"-", 5):
                    pass
            start_processes(nothing, start_method="fork")
            assert reaper_client._line[3] != first
            (pid,) = Stage(sys.argv[1], 0).noted()
            assert os.path.exists(f"/proc/{pid}")
            assert context.wait(0) is False
            print(pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_next_one_knows_of_launches_under_way(how: str, tmp_path: Path) -> None:
    """They go on, and if the launcher is killed then, what they have started ends."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(UNDER_WAY))
    done = subprocess.run(
        [sys.executable, str(path), str(tmp_path), how, str(Path(__file__).parents[1])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    until = time.monotonic() + patience(2)
    while state_of(int(done.stdout)) not in "XZ":
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_launcher_that_ends_is_followed_at_once(method: str, tmp_path: Path) -> None:
    text = """
        import sys
        from procession import start_processes
        from procession._cleanup import reaper_client

        def nothing(rank):
            pass

        if __name__ == "__main__":
            start_processes(nothing, start_method=sys.argv[1])
            print(reaper_client._line[3])
        """
    pid = int(execute(tmp_path, text, method))
    until = time.monotonic() + patience(5)
    while state_of(pid) not in "XZ":
        assert time.monotonic() < until
        time.sleep(0.002)


def test_it_holds_nothing_of_its_launchers(tmp_path: Path) -> None:
    """A pipe that the launcher let others inherit, its folder, its terminal's signals."""
    text = """
        import os, time
        from procession import start_processes
        from procession._cleanup import reaper_client

        def nothing(rank):
            pass

        if __name__ == "__main__":
            read, write = os.pipe()
            os.set_inheritable(write, True)
            start_processes(nothing, start_method="fork")
            pid = reaper_client._line[3]
            os.close(write)
            print(os.read(read, 1))
            print(os.readlink(f"/proc/{pid}/cwd"), os.getpgid(pid) == pid)
            print(sorted(os.listdir(f"/proc/{pid}/fd")))
        """
    assert execute(tmp_path, text) == "b''\n/ True\n['0', '1', '2']\n"


def test_without_one_launches_go_on_with_a_warning(
    start_method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reaper_client, "_line", None)
    monkeypatch.setattr(reaper_client, "find_executable", lambda: "/nowhere/python")
    with caplog.at_level(logging.WARNING):
        start_processes(ranks.nothing, start_method=start_method)
    assert "cannot start a reaper" in caplog.text


def test_a_fork_of_the_launcher_has_its_own(tmp_path: Path) -> None:
    text = """
        import os, sys
        from procession import start_processes
        from procession._cleanup import reaper_client

        def nothing(rank):
            pass

        if __name__ == "__main__":
            start_processes(nothing, start_method="fork")
            first = reaper_client._line[3]
            pid = os.fork()
            start_processes(nothing, start_method="fork")
            if pid == 0:
                os._exit(reaper_client._line[3] == first)
            print(os.waitpid(pid, 0)[1], reaper_client._line[3] == first)
        """
    assert execute(tmp_path, text) == "0 True\n"


def test_it_survives_what_ends_a_session(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", reaper_client._CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    until = time.monotonic() + 10
    while "SigIgn" not in (text := Path(f"/proc/{process.pid}/status").read_text()) or not (
        int(text.split("SigIgn:\t")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1)
    ):
        assert time.monotonic() < until
        time.sleep(0.002)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        process.send_signal(number)
    time.sleep(0.05)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 0
