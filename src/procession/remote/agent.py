"""The agent: holds one rank on its host, for a caller that may be on another.

It connects to its caller's hub twice, is told what its rank is to do, and starts it as `spawn` would: what
`procession.commands` does for a caller, it does here.  Up go the rank's report and its exit code, down come
signals and questions.  When the caller is gone, or this agent is, the rank and all that it has started
end.  An agent exits with 0 whatever became of its rank, lest its engine stop the others for it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from typing import Any

from procession._cleanup import marks
from procession._launch.rendezvous import find_free_port
from procession._linux import fds
from procession._linux.syscalls import pidfd_open
from procession.remote import link as frames
from procession.remote.agent_connection import VERSION, read_boot_id
from procession.remote.handshake import greet_hub
from procession.remote.link import Link, await_end, await_frame, keep_alive
from procession.remote.placement import VARIABLE, unpack

_CONNECT_TIME = 10.0  # seconds for each step of the way to the hub


def main() -> None:
    """Hold one rank; the process's environment or standard input says for whom."""
    fds.fill_streams()
    given = list_inherited()
    marks.spare(0)  # it ends after what its rank has started, not with the caller's own
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Hydra sends it when another of its processes has ended; a handler, as ranks would inherit SIG_IGN
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a worker of Ray's has some blocked
    description = read_description()
    try:
        control, end, rank = connect(description)
    except OSError as error:
        host, port = description["hub"]
        sys.exit(
            f"procession: the agent on {socket.gethostname()} cannot reach its caller at {host}, port "
            f"{port}: {error}; the option 'advertise' must be an address that this host can reach"
        )
    except EOFError:
        sys.exit("procession: the caller has closed the connection to this agent")
    from procession.remote.agent_session import (
        AgentSession,  # the caller sees to the orders meanwhile
    )

    try:
        guard, payload = _find_guard(description), description.get("payload", -1)
        session = AgentSession(
            rank, control, end, [fd for fd in given if fd not in (guard, payload)], guard
        )
        session.prepare(payload)
    except EOFError:  # who could be told is gone
        return
    except BaseException:
        import traceback

        control.send(frames.UNABLE, traceback.format_exc())
        await_end(control)
        return
    session.hold()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Python's own end takes handlers away


def _find_guard(description: dict[str, Any]) -> int:
    """Return a descriptor that is readable when this agent is to end, whatever its caller says; or -1."""
    if description.get("with_parent"):
        return pidfd_open(os.getppid())
    return int(description.get("guard", -1))


def list_inherited() -> list[int]:
    """Return the descriptors that whoever started this process has handed over: PMI's, for one."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # the one that listed them
            pass
    return found


def read_description() -> dict[str, Any]:
    """Return what this agent was told by whoever placed it; its rank is not to see it."""
    text = os.environ.pop(VARIABLE, "") or sys.stdin.readline()
    if not text:
        sys.exit(
            f"procession: this agent finds neither {VARIABLE} nor a line on its standard input"
        )
    return unpack(text.strip())


def connect(description: dict[str, Any]) -> tuple[Link, Link, int]:
    """Connect to the hub; return both connections, and this agent's rank.

    Raises:
        OSError: that cannot be done.
        EOFError: the hub wants no more agents, or not this one.
    """
    control = _connect(description)
    hello = {
        "what": "control",
        "rank": find_rank(description),
        "has_payload": "payload" in description,
        **describe_host(description.get("address") or control.host),
    }
    try:
        control.send(frames.HELLO, hello)
        rank: int = await_frame(control).head
        end = _connect(description)
    except BaseException:
        control.close()
        raise
    end.send(frames.HELLO, {"what": "end", "rank": rank})
    return control, end, rank


def find_rank(description: dict[str, Any]) -> int:
    """Return this agent's rank, -1 where its engine does not tell."""
    for name in description["rank_variables"]:
        if name in os.environ:
            return int(os.environ[name])
    return int(description.get("rank", -1))


def describe_host(address: str) -> dict[str, Any]:
    """Return what the hub is told of this process and its host."""
    name, boot = socket.gethostname(), read_boot_id()
    spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "user")]
    return {
        "host": name,
        "pid": os.getpid(),
        "place": [name, boot, *spaces, os.getuid()],
        "boot": boot,
        "clock": time.monotonic_ns(),
        "version": VERSION,
        "master": [address, str(find_free_port())],
    }


def _connect(description: dict[str, Any]) -> Link:
    host, port = description["hub"]
    sock = socket.create_connection((host, port), _CONNECT_TIME)
    try:
        greet_hub(sock, description["secret"])
        keep_alive(sock, description["contact_timeout"])
    except BaseException:
        sock.close()
        raise
    return Link(sock)


if __name__ == "__main__":
    main()
