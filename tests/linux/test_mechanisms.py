"""The small parts: signals' names, OOM counters, descriptors, system calls, waiting, stopping."""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from procession._linux import fds, memory, syscalls
from procession._linux.signals import name_signal
from procession._python.defer_signals import defer_sigint
from procession._rank.fork_signals import Inheritance
from procession._supervise import oom
from procession._supervise.waiter import HandleWaiter, SelectorWaiter


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (9, "SIGKILL"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 3, "SIGRTMIN+3"),
        (signal.SIGRTMAX, "SIGRTMAX"),
        (32, "<Unknown signal 32>"),
    ],
)
def test_signals_have_names(number: int, name: str) -> None:
    assert name_signal(number) == name


def test_oom_counters_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = oom.count_kills()
    assert counters, "this kernel has at least /proc/vmstat"
    assert "did not move" in oom.tell_kills(counters)
    path = next(iter(counters))
    assert f"{path} went from -1 to" in oom.tell_kills({**counters, path: -1})
    assert "no counter" in oom.tell_kills({})
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\n")
    assert oom._read_counter(str(events)) == 2
    assert oom._read_counter(str(tmp_path / "absent")) is None


def test_descriptors_that_are_kept_close_in_forked_children() -> None:
    read, write = fds.open_pipe()
    fds.keep(write)
    pid = os.fork()
    if pid == 0:
        try:
            os.fstat(write)
            os._exit(1)
        except OSError:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    fds.drop(write)
    fds.drop(write)  # once is enough
    assert os.read(read, 1) == b""
    os.close(read)


def test_runs_of_descriptors_are_closed_and_no_others() -> None:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(7)]
    fds._close_runs(sorted([opened[0], opened[1], opened[3], opened[6]]))
    fds._close_runs([])
    still = []
    for index, fd in enumerate(opened):
        try:
            os.close(fd)
            still.append(index)
        except OSError:
            pass
    assert still == [2, 4, 5]


def test_descriptors_stay_clear_of_the_streams() -> None:
    code = (
        "import os; os.close(0); os.close(1)\n"
        "from procession._linux import fds\n"
        "numbers = [*fds.open_pipe(), *fds.open_channel_pair()]\n"
        "assert min(numbers) > 2, numbers"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_memory_files_hold_what_they_were_given_and_cannot_change() -> None:
    fd = memory.file_of("test", b"onetwo")
    assert os.pread(fd, 9, 0) == b"onetwo"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_an_exit_status_that_is_there_a_little_later_is_waited_for() -> None:
    """As where the kernel itself reaps: who polls may be earlier than the status."""
    if tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 15):
        pytest.skip("Linux 6.15 tells the exit status of a process that somebody has reaped")
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    pidfd = syscalls.pidfd_open(pid)
    assert select.select([pidfd], [], [], 10)[0]
    reaper = threading.Timer(0.02, os.waitpid, (pid, 0))
    reaper.start()
    assert syscalls.pidfd_wait_status(pidfd) == 7 << 8
    reaper.join()
    os.close(pidfd)


@pytest.mark.parametrize("missing", ["pidfd_open", "pidfd_send_signal", "memfd_create"])
def test_builds_of_python_without_a_call_make_it_themselves(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (os, signal):
        monkeypatch.delattr(module, missing, raising=False)
    child = subprocess.Popen(["sleep", "60"])
    pidfd = syscalls.pidfd_open(child.pid)
    syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        syscalls.pidfd_send_signal(pidfd, 0)
    with pytest.raises(ProcessLookupError):
        syscalls.pidfd_open(child.pid)
    os.close(pidfd)
    fd = memory.file_of("test", b"one")
    assert os.pread(fd, 9, 0) == b"one"
    os.close(fd)
    assert syscalls.pidfds_work()


@pytest.mark.parametrize("kind", [SelectorWaiter, HandleWaiter])
def test_waiters_tell_what_is_ready(kind: type[SelectorWaiter | HandleWaiter]) -> None:
    waiter = kind()
    pipes = [os.pipe() for _ in range(3)]
    for rank, (read, _) in enumerate(pipes):
        waiter.add(read, ("channel", rank))
    assert waiter.wait(0) == []
    os.write(pipes[2][1], b"x")
    assert waiter.wait(None) == [("channel", 2)]
    waiter.discard(("channel", 2))
    waiter.discard(("channel", 2))
    assert waiter.wait(0) == []
    threading.Timer(0.05, waiter.wake).start()
    assert waiter.wait(30) == []
    waiter.close()
    waiter.wake()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


def test_one_descriptor_may_have_two_keys() -> None:
    """A remote rank's sentinel and channel can be one socket."""
    waiter = SelectorWaiter()
    read, write = os.pipe()
    waiter.add(read, ("sentinel", 0))
    waiter.add(read, ("channel", 0))
    os.write(write, b"x")
    assert sorted(waiter.wait(None)) == [("channel", 0), ("sentinel", 0)]
    waiter.discard(("channel", 0))
    assert waiter.wait(None) == [("sentinel", 0)]
    waiter.close()
    os.close(read)
    os.close(write)


def test_interrupts_are_held_back_and_then_raised() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_sigint():  # noqa: PT012  # what goes on is the point
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        reached.append(True)
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_forked_children_are_their_own() -> None:
    with defer_sigint():
        inheritance = Inheritance(keep_handlers=True)
        pid = os.fork()
        if pid == 0:
            try:
                inheritance.reset()
                os._exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
            finally:
                os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
