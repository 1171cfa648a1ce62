"""Agents that an engine's worker has started end with it, whatever it has forked."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
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

WORKER = """
import os, sys, time
from procession.remote import host_agent

agent = host_agent(sys.argv[1], 0)
if os.fork() == 0:
    time.sleep(5)
    os._exit(0)
time.sleep(60)
"""


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
    """Here, before it was told what its rank is to do; a fork of the worker runs on."""
    command = [sys.executable, "-c", textwrap.dedent(WORKER), describe(hub)]
    worker = subprocess.Popen(command)
    connection = gather(hub)
    worker.kill()
    worker.wait()
    wait_until(partial(is_gone, connection.hello["pid"]), "the agent runs on", 2)
    connection.close()


def test_a_signal_to_the_group_of_a_worker_is_not_for_its_agent(hub: Hub) -> None:
    """Ray sends one once the worker is dead: to the caller, its rank is lost then, and was not stopped."""
    agent: Any = host_agent(describe(hub), 0)
    connection = gather(hub)
    assert os.getpgid(agent.pid) == agent.pid
    agent.stop()
    connection.close()


def test_an_agent_can_be_stopped_by_many(hub: Hub) -> None:
    """More often than once, from several threads."""
    import threading

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
