"""Whatever a rank sends, and whatever its caller lacks to read it, the launch ends and says why."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import standin
from procession import ProcessExitedException, ResultError, run, start_processes
from procession._rank import wire
from procession._rank.report import Reporter
from procession._supervise.channel import SocketChannel, UnreceivedError
from procession.remote.link import REPORT, RESULT, GarbledError, Link, await_frame
from procession.testing.scratch import Stage, is_gone
from ranks import LONG
from scripts import PROGRAMS, run_program

LARGE = 100_000
HUGE = 1 << 42


def send(rank: int, how: str, folder: str) -> None:
    """Send something in place of the report of rank 0, and let the other rank work."""
    stage = Stage(folder, LONG)
    if rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stage.tell("busy", str(os.getpid()))
        stage.work()
    stage.await_cue("busy")
    reporter = next(one for one in gc.get_objects() if isinstance(one, Reporter))
    data, files = WAYS[how]()
    with socket.socket(fileno=os.dup(reporter.fileno())) as sock:
        socket.send_fds(sock, [data], files)
    stage.work()


def open_file(size: int) -> int:
    fd = os.memfd_create("test")
    os.truncate(fd, size)
    return fd


FILE = wire.encode(wire.RETURNED_FILE, 1)

WAYS: dict[str, Any] = {
    "garbage": lambda: (b"\xff" * 100, []),
    "an unknown kind": lambda: (wire.encode(b"?", 1, b"text"), []),
    "too few parts": lambda: (wire.encode(wire.RAISED, 1, b"text"), []),
    "no file": lambda: (FILE, []),
    "a pipe": lambda: (FILE, [os.pipe()[0]]),
    "a socket": lambda: (FILE, [socket.socketpair()[0].detach()]),
    "a folder": lambda: (FILE, [os.open("/", os.O_RDONLY)]),
    "a file of 4 TiB": lambda: (FILE, [open_file(HUGE)]),
}


@pytest.mark.parametrize("how", WAYS)
def test_a_report_that_cannot_be_read_ends_the_launch(
    start_method: str, how: str, tmp_path: Path
) -> None:
    context = start_processes(
        send, (how, str(tmp_path)), 2, join=False, start_method=start_method, grace_period=0.2
    )
    stage = Stage(str(tmp_path), LONG)
    texts = set()
    for _ in range(2):
        with pytest.raises(ProcessExitedException, match="what it sent cannot be read") as caught:
            context.wait()
        assert caught.value.error_index == 0
        assert [one.collateral for one in caught.value.failures] == [False, True]
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert is_gone(int(stage.await_cue("busy")))


def test_too_many_files_are_closed(tmp_path: Path) -> None:
    """The surplus is closed, and does not look like too few descriptors."""
    channel, theirs = SocketChannel.open()
    file = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(file, b"\x80\x04N.")
    with socket.socket(fileno=theirs) as sock:
        socket.send_fds(sock, [FILE], [file, file, file])
    os.close(file)
    report = channel.receive()
    assert report is not None
    assert bytes(report.result or b"") == b"\x80\x04N."
    channel.close()


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver", "command"])
def test_a_result_that_cannot_be_mapped_ends_the_launch(start_method: str, tmp_path: Path) -> None:
    done = run_program("cannot_map_result.py", start_method, str(tmp_path))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("process 0 was lost: what it sent cannot be read: OSError")
    assert lines[0].endswith("Cannot allocate memory")
    assert lines[-1] == "False"


# Too few descriptors


@pytest.fixture
def no_descriptors() -> Iterator[list[int]]:
    """A list for descriptors that leave no other one to this process until they are closed."""
    held: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield held
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def take_all(held: list[int]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass


def test_a_result_is_received_once_there_is_a_descriptor(no_descriptors: list[int]) -> None:
    channel, theirs = SocketChannel.open()
    reporter = Reporter(theirs)
    reporter.returned(bytes(LARGE), wanted=True)
    os.close(theirs)
    take_all(no_descriptors)
    for _ in range(2):
        with pytest.raises(UnreceivedError) as caught:
            channel.receive()
    assert "ulimit -n" in caught.value.report.text
    os.close(no_descriptors.pop())  # one is enough: what it holds is then copied
    report = channel.receive()
    assert report is not None
    assert len(report.result or b"") > LARGE
    channel.close()


def give_large(rank: int, event: Any) -> bytes:
    event.wait()
    return bytes(LARGE)


def test_without_descriptors_success_is_still_success(
    start_method: str, no_descriptors: list[int]
) -> None:
    from procession import get_context

    event = get_context(start_method).Event()
    context = start_processes(
        give_large, (event,), 2, join=False, collect_results=True, start_method=start_method
    )
    take_all(no_descriptors)
    event.set()
    assert context.wait()
    while no_descriptors:
        os.close(no_descriptors.pop())
    assert context.results() == [bytes(LARGE)] * 2


def test_without_descriptors_the_failure_is_that_of_the_rank(
    start_method: str, no_descriptors: list[int]
) -> None:
    from procession import ProcessRaisedException, get_context

    event = get_context(start_method).Event()
    context = start_processes(raise_after, (event,), 2, join=False, start_method=start_method)
    take_all(no_descriptors)
    event.set()
    with pytest.raises(ProcessRaisedException, match="boom"):
        context.wait()


def raise_after(rank: int, event: Any) -> None:
    event.wait()
    if rank == 0:
        raise ValueError("boom")
    Stage(".", LONG).work()


def test_a_remote_result_without_a_descriptor_is_a_missing_result_of_its_rank(
    no_descriptors: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN", "")
    context = start_processes(
        give_when_there, (str(tmp_path / "go"),), 1, join=False, collect_results=True,
        start_method="command", options=standin.options(),
    )  # fmt: skip
    take_all(no_descriptors)
    (tmp_path / "go").symlink_to("anywhere")
    assert context.wait()
    while no_descriptors:
        os.close(no_descriptors.pop())
    with pytest.raises(ResultError, match=r"rank 0 .*ulimit -n"):
        context.results()


def give_when_there(rank: int, path: str) -> bytes:
    while not os.path.islink(path):
        time.sleep(0.002)
    return bytes(LARGE)


# Connections of agents


def make_garbage(kind: str) -> bytes:
    head = {
        "no marshal": b"\xff\xff\xff\xff",
        "a list without end": b"[\xe8\x03\0\0",
        "nothing": b"",
    }.get(kind, b"")
    size = (1 << 31) if kind == "an endless head" else len(head)
    return REPORT + struct.pack(">IQ", size, 0) + head


GARBAGE = ["no marshal", "a list without end", "nothing", "an endless head"]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_a_connection_is_named_each_time(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far = Link(server.accept()[0])
    with near:
        near.sendall(make_garbage(kind))
        for _ in range(2):
            with pytest.raises(GarbledError, match="what came is no frame"):
                await_frame(far)
    far.close()


def test_a_body_without_a_descriptor_for_it_is_all_that_is_lost(no_descriptors: list[int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = Link(socket.create_connection(server.getsockname()))
        far = Link(server.accept()[0])
    take_all(no_descriptors)
    near.send(RESULT, 1, memoryview(bytes(LARGE)))
    near.send(REPORT, "after it")
    os.close(no_descriptors.pop())  # for poll, and none for a file
    no_descriptors.append(os.dup(0))
    while (frame := far.receive()) is None:
        near.flush()
    assert frame.body == -1
    assert frame.error is not None
    while (frame := far.receive()) is None:
        near.flush()
    assert frame == (REPORT, "after it", -1, None)
    near.close()
    far.close()


def give_or_work(rank: int) -> None:
    if rank == 1:
        Stage(".", LONG).work()


@pytest.mark.parametrize("kind", [*GARBAGE, "no report", "other classes"])
def test_an_agent_that_sends_garbage_ends_the_launch(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import marshal

    sent = make_garbage(kind)
    if kind not in GARBAGE:
        head = marshal.dumps({"kind": 5, "time": 0} if kind == "other classes" else ["text"])
        sent = REPORT + struct.pack(">IQ", len(head), 0) + head
    monkeypatch.setenv("STANDIN", "")
    program = str(PROGRAMS / "agent_that_sends_bytes.py")
    more = f"command = [{sys.executable!r}, {program!r}, {sent.hex()!r}]"
    with pytest.raises(ProcessExitedException, match="what it sent cannot be read") as caught:
        run(give_or_work, (), 2, start_method="command", options=standin.options(more),
            grace_period=1)  # fmt: skip
    assert caught.value.error_index == 0


# Stacks


def spoil_stacks(rank: int, folder: str) -> None:
    stage = Stage(folder, LONG)
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:procession-stacks"):
                fd = int(name)
        except OSError:
            continue
    for number in range(signal.SIGRTMAX - 3, signal.SIGRTMAX):
        signal.signal(number, lambda *_: os.truncate(fd, HUGE))
    stage.tell("ready", str(os.getpid()))
    stage.work()


def test_stacks_that_cannot_be_read_are_named(start_method: str, tmp_path: Path) -> None:
    context = start_processes(
        spoil_stacks, (str(tmp_path),), 1, join=False, start_method=start_method
    )
    Stage(str(tmp_path), LONG).await_cue("ready")
    assert "grown by" in context.dump_stacks()[0]
    context.terminate()


# Results


class Unloadable:
    """Pickles; raises where it is unpickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return raise_it, (self.kind,)


def raise_it(kind: type[BaseException]) -> None:
    raise kind("raised while unpickled")


def give_unloadable(rank: int, kind: type[BaseException]) -> Any:
    return Unloadable(kind) if rank == 1 else rank


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_result_that_cannot_be_unpickled_names_its_rank(
    start_method: str, kind: type[BaseException]
) -> None:
    with pytest.raises(ResultError, match=f"rank 1 .*unpickled: {kind.__name__}") as caught:
        run(give_unloadable, (kind,), 2, start_method=start_method)
    assert isinstance(caught.value.__cause__, kind)
