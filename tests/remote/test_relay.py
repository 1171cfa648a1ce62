"""Launches whose agents reach their caller through a relay, which an engine's calls carry."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

import ranks
from procession import (
    Availability,
    Launch,
    ProcessExitedException,
    ProcessRaisedException,
    Started,
    run,
    start_processes,
)
from procession.remote import CAPABILITIES, OPTIONS, Agents, HostedAgent, host_agent, start_agents
from procession.remote.link import is_unacknowledged
from procession.remote.placement import unpack
from procession.remote.relay import CallerRelay, WorkerRelay
from procession.remote.relay.tunnel import LIMIT, Item
from procession.testing.scratch import is_gone
from procession.testing.subject import wait_until
from procession.testing.times import patience

if sys.platform != "linux":
    pytest.skip("agents are for Linux", allow_module_level=True)


@dataclass
class Worker:
    """Stands in for a worker of an engine."""

    relay: WorkerRelay
    agent: HostedAgent

    def run(self) -> None:
        self.agent.wait()
        self.relay.finish()


@dataclass
class Engine:
    """A start method whose engine is this process: its threads carry the data."""

    name: str = "by relay"
    protocol_version: int = 1
    capabilities: Any = CAPABILITIES
    options: Any = OPTIONS
    placements: list[Placed] = field(default_factory=list)

    def availability(self) -> Availability:
        return Availability(True)

    def start(self, launch: Launch) -> Started:
        return start_agents(launch, self.place)

    def place(self, agents: Agents) -> Placed:
        self.placements.append(Placed(agents))
        return self.placements[-1]


class Placed:
    """The agents of one launch, and both ends of their relay."""

    def __init__(self, agents: Agents) -> None:
        description = unpack(agents.description)
        timeout = description["contact_timeout"]
        self.carries = threading.Event()
        self.carries.set()
        self.threads = ThreadPoolExecutor(3 * agents.nprocs)
        self.relay = CallerRelay(description["hub"], self, timeout)
        self.workers: list[Worker] = []
        for rank in range(agents.nprocs):
            relay = WorkerRelay(timeout)
            agent = host_agent(agents.description, rank, hub=relay.address, address="localhost")
            self.workers.append(Worker(relay, agent))
            self.threads.submit(self.workers[rank].run)
            self.relay.attach(rank)

    def pull(self, agent: int, seconds: float) -> None:
        if self.carries.is_set():
            call = self.threads.submit(self.workers[agent].relay.pull, seconds)
            call.add_done_callback(lambda done: self.relay.pulled(agent, done.result()))

    def push(self, agent: int, items: list[Item]) -> None:
        if self.carries.is_set():
            call = self.threads.submit(self.workers[agent].relay.push, items)
            call.add_done_callback(lambda _: self.relay.pushed(agent))

    def failure(self) -> str:
        return ""

    def explain(self) -> str:
        return ""

    def begun(self) -> None:
        pass

    def end(self, patience: float) -> None:
        for worker in self.workers:
            worker.agent.wait(patience)
            worker.agent.stop()
        self.relay.close()
        for worker in self.workers:
            worker.relay.close()
        self.threads.shutdown()


@pytest.fixture
def engine() -> Engine:
    return Engine()


def place_of(rank: int) -> tuple[int, int, str]:
    return rank, os.getpid(), os.environ["MASTER_ADDR"]


def test_ranks_get_the_address_of_their_host(engine: Engine) -> None:
    places = run(place_of, nprocs=3, start_method=engine)
    assert [rank for rank, _, _ in places] == [0, 1, 2]
    assert len({pid for _, pid, _ in places} | {os.getpid()}) == 4
    assert {address for _, _, address in places} == {"localhost"}


def turn(rank: int, data: bytes) -> bytes:
    return data[::-1]


def test_large_data_arrives_in_both_directions(engine: Engine) -> None:
    data = bytes(range(250)) * (50 * LIMIT // 4 // 250)  # about 50 MB
    (result,) = run(turn, (data,), nprocs=1, start_method=engine)
    assert result == data[::-1]


def test_a_failure_arrives_with_its_traceback(engine: Engine) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.fail_in, (1, "ValueError"), 2, start_method=engine)
    assert caught.value.failures[0].rank == 1
    assert "ValueError: boom" in str(caught.value)


def test_the_signal_that_killed_a_rank_is_reported(engine: Engine) -> None:
    context = start_processes(ranks.work, nprocs=2, start_method=engine, join=False)
    os.kill(context.pids()[1], signal.SIGKILL)
    with pytest.raises(ProcessExitedException) as caught:
        context.wait()
    assert (caught.value.failures[0].rank, caught.value.exit_code) == (1, -signal.SIGKILL)


def count_hangups(rank: int, path: str) -> int:
    """Count hangups until SIGTERM arrives."""
    hangups: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(f"{len(hangups)} hangups"))
    with open(path, "w"):
        pass
    time.sleep(ranks.LONG)
    return len(hangups)


def test_signals_and_stack_requests_arrive(engine: Engine, tmp_path: Any) -> None:
    path = tmp_path / "ready"
    context = start_processes(
        count_hangups, (str(path),), nprocs=1, start_method=engine, join=False
    )
    wait_until(path.exists, "the rank does not start")
    process: Any = context.processes[0]
    process.send_signal(signal.SIGHUP)
    assert process.ask_stacks()
    stacks = wait_until(process.take_stacks, "the rank does not answer")
    assert "count_hangups" in stacks
    process.terminate()
    with pytest.raises(ProcessExitedException) as caught:
        context.wait()
    assert caught.value.failures[0].message == "1 hangups"


def test_a_report_is_read_before_the_end_that_follows_it(engine: Engine) -> None:
    for _ in range(3):  # an end that overtakes its report would be a failure
        assert run(turn, (b"ab" * LIMIT,), nprocs=2, start_method=engine) == [b"ba" * LIMIT] * 2


def vanish_caller(placed: Placed) -> None:
    placed.relay.close()


def vanish_carrier(placed: Placed) -> None:
    placed.carries.clear()


def vanish_worker(placed: Placed) -> None:
    placed.workers[1].relay.close()


@pytest.mark.parametrize("vanish", [vanish_caller, vanish_carrier, vanish_worker])
def test_a_rank_is_lost_and_ends_if_a_part_of_its_relay_vanishes(
    engine: Engine, vanish: Callable[[Placed], None]
) -> None:
    context = start_processes(
        ranks.work, nprocs=2, start_method=engine, join=False, options={"contact_timeout": 3}
    )
    pids = context.pids()
    vanish(engine.placements[0])
    before = time.monotonic()
    with pytest.raises(ProcessExitedException) as caught:
        context.wait()
    assert time.monotonic() - before < 3 + patience(3)
    assert "contact with its agent" in str(caught.value)
    for pid in pids:
        wait_until(partial(is_gone, pid), "it runs on", 5)


def test_a_killed_agent_is_lost_at_once(engine: Engine) -> None:
    context = start_processes(ranks.work, nprocs=2, start_method=engine, join=False)
    pids = context.pids()
    os.kill(engine.placements[0].workers[1].agent.pid, signal.SIGKILL)
    before = time.monotonic()
    with pytest.raises(ProcessExitedException) as caught:
        context.wait()
    assert time.monotonic() - before < patience(2)
    assert caught.value.failures[0].rank == 1
    for pid in pids:
        wait_until(partial(is_gone, pid), "it runs on", 2)


@pytest.fixture
def served() -> Iterator[socket.socket]:
    """A listener that stands in for a hub."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def pair(served: socket.socket) -> Iterator[tuple[WorkerRelay, CallerRelay]]:
    """Both ends of a relay, connected by threads."""
    worker = WorkerRelay()

    class Direct:
        def pull(self, agent: int, seconds: float) -> None:
            threading.Thread(
                target=lambda: caller.pulled(agent, worker.pull(seconds)), daemon=True
            ).start()

        def push(self, agent: int, items: list[Item]) -> None:
            def do() -> None:
                worker.push(items)
                caller.pushed(agent)

            threading.Thread(target=do, daemon=True).start()

    caller = CallerRelay(served.getsockname(), Direct())
    caller.attach(0)
    yield worker, caller
    caller.close()
    worker.close()


def test_each_direction_of_a_connection_ends_separately(
    pair: tuple[WorkerRelay, CallerRelay], served: socket.socket
) -> None:
    with socket.create_connection(pair[0].address) as there:
        here, _ = served.accept()
        with here:
            there.sendall(b"up")
            there.shutdown(socket.SHUT_WR)
            assert here.recv(10) == b"up"
            assert here.recv(10) == b""
            here.sendall(b"down")
            here.close()
            assert there.recv(10) == b"down"
            assert there.recv(10) == b""


def test_a_connection_ends_if_the_hub_does_not_listen(
    pair: tuple[WorkerRelay, CallerRelay], served: socket.socket
) -> None:
    served.close()
    with socket.create_connection(pair[0].address) as there:
        assert there.recv(10) == b""


ROUNDS = 20
SIZE = 3 << 20


def test_data_keeps_its_order_across_connections(
    pair: tuple[WorkerRelay, CallerRelay], served: socket.socket
) -> None:
    """Data sent on the second after the first is acknowledged is not readable before all of the first."""
    with (
        socket.create_connection(pair[0].address) as first,
        socket.create_connection(pair[0].address) as second,
    ):
        ends = [served.accept()[0] for _ in range(2)]
        sender = threading.Thread(target=send_in_turn, args=(first, second), daemon=True)
        sender.start()
        got = 0
        for number in range(ROUNDS):
            while not select.select(ends[1:], [], [], 0)[0]:
                if select.select(ends, [], [], 5)[0] == ends[:1]:
                    got += len(ends[0].recv(1 << 16))
            while got < SIZE * (number + 1):
                got += len(ends[0].recv(1 << 20, socket.MSG_DONTWAIT))
            assert ends[1].recv(1) == bytes([number])
        sender.join()
        for end in ends:
            end.close()


def send_in_turn(first: socket.socket, second: socket.socket) -> None:
    for number in range(ROUNDS):
        first.sendall(bytes(SIZE))
        while is_unacknowledged(first.fileno()):
            time.sleep(0.001)
        second.sendall(bytes([number]))


def send_until_blocked(sock: socket.socket, most: int) -> int:
    """Send zeros until there has been no room for seconds, but not more than ``most``; return how many."""
    sock.settimeout(patience(2))
    sent = 0
    try:
        while sent < most:
            sent += sock.send(bytes(1 << 20))
    except TimeoutError:
        pass
    return sent


def test_unread_data_makes_its_sender_wait(
    pair: tuple[WorkerRelay, CallerRelay], served: socket.socket
) -> None:
    """The relay holds a limited number of bytes, and delivers all of them later."""
    most = (
        64 * LIMIT
    )  # far more than `LIMIT` at each end, in one call, and in four sockets' buffers
    with socket.create_connection(pair[0].address) as sender:
        reader, _ = served.accept()
        with reader:
            sent = send_until_blocked(sender, most)
            assert sent < most
            sender.shutdown(socket.SHUT_WR)
            assert sum(map(len, iter(lambda: reader.recv(1 << 20), b""))) == sent


def test_more_connections_than_an_agent_has_are_refused(
    pair: tuple[WorkerRelay, CallerRelay], served: socket.socket
) -> None:
    several = [socket.create_connection(pair[0].address) for _ in range(17)]
    try:
        with several[-1] as last:
            assert last.recv(10) == b""
    finally:
        for each in several:
            each.close()
