"""Names of signals, descriptors, memory files and system calls."""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
import threading

import pytest

from procession._linux import fds, memory, syscalls
from procession._linux.signals import name_signal


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


def test_kept_descriptors_close_in_forked_children() -> None:
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
    fds.drop(write)  # a second time does nothing
    assert os.read(read, 1) == b""
    os.close(read)


def test_forked_children_close_kept_descriptors_and_no_others() -> None:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(7)]
    for index in (6, 0, 3, 1):  # adjacent ones are closed by one call
        fds.keep(opened[index])
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, bytes(index for index, fd in enumerate(opened) if is_open(fd)))
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(read, 9) == bytes([2, 4, 5])
    assert all(map(is_open, opened))
    for fd in opened:
        fds.forget(fd)
        os.close(fd)
    os.close(read)
    os.close(write)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_stay_above_the_standard_streams() -> None:
    code = (
        "import os; os.close(0); os.close(1)\n"
        "from procession._linux import fds\n"
        "numbers = [*fds.open_pipe(), *fds.open_channel_pair()]\n"
        "assert min(numbers) > 2, numbers"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_memory_files_cannot_be_changed() -> None:
    fd = memory.file_of("test", b"onetwo")
    assert os.pread(fd, 9, 0) == b"onetwo"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_an_exit_status_that_becomes_available_late_is_awaited() -> None:
    """Where the kernel itself reaps, a poll may return before the status is available."""
    if tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 15):
        pytest.skip("before Linux 6.15 the exit status of a reaped process is lost")
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
def test_system_calls_work_where_python_lacks_them(
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
