"""An agent ends with the engine's worker that started it, even if the worker has forked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from procession.remote import host_agent
from procession.remote.agent_connection import AgentConnection
from procession.remote.hub import Hub
from procession.remote.placement import pack
from procession.testing.scratch import is_gone
from procession.testing.subject import wait_until
from scripts import PROGRAMS


@pytest.fixture
def hub() -> Iterator[Hub]:
    one = Hub(1, "127.0.0.1", 0, 10)
    yield one
    one.close()


def describe(hub: Hub) -> str:
    return pack({"hub": hub.address, "secret": hub.secret, "contact_timeout": 10})


def gather(hub: Hub) -> AgentConnection:
    connections = hub.gather(time.monotonic() + 30, lambda: None)
    assert connections is not None
    return connections[0]


def test_an_agent_ends_with_its_worker_at_any_time(hub: Hub) -> None:
    """The worker dies before the agent has its rank's spec; a child that the worker forked runs on."""
    program = PROGRAMS / "worker_with_agent.py"
    worker = subprocess.Popen([sys.executable, str(program), describe(hub)])
    connection = gather(hub)
    worker.kill()
    worker.wait()
    wait_until(partial(is_gone, connection.hello["pid"]), "the agent still runs", 2)
    connection.close()


def test_an_agent_is_outside_the_process_group_of_its_worker(hub: Hub) -> None:
    """Ray signals the group of a dead worker: the caller must see a lost rank, not one that was stopped."""
    agent: Any = host_agent(describe(hub), 0)
    connection = gather(hub)
    assert os.getpgid(agent.pid) == agent.pid
    agent.stop()
    connection.close()


def test_several_threads_can_stop_an_agent(hub: Hub) -> None:
    agent: Any = host_agent(describe(hub), 0)
    connection = gather(hub)
    assert agent.wait(0.01) is None
    threads = [threading.Thread(target=agent.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_gone(connection.hello["pid"])
    assert agent.wait() is not None
    connection.close()
