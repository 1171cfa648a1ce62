"""The agent: a process that holds one rank on its host, for a caller that may be on another host.

It opens two connections to the caller's hub, receives the spec of its rank, and starts the rank as `spawn`
would, with `procession.commands`.  It sends the rank's report and exit code to the caller, and receives
signals and stack requests.  When the caller or this agent ends, the rank and everything that it started end,
too.  An agent exits with 0 even if its rank fails; otherwise its engine might stop the other agents.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from procession._cleanup import marks
from procession._launch.rendezvous import find_free_port
from procession._linux import fds
from procession._linux.syscalls import pidfd_open
from procession.remote import link as frames
from procession.remote.agent_connection import VERSION, read_boot_id
from procession.remote.handshake import greet_hub
from procession.remote.link import Link, await_end, await_frame, keep_alive
from procession.remote.messages import ControlHello, Description, EndHello, HostHello
from procession.remote.placement import VARIABLE, unpack

_TRIES = 3  # at connecting to the hub, where packets are lost
_CONNECT_TIME = 10.0  # seconds for each step of connecting to the hub


def run_agent(ends_with: int = -1) -> None:
    """Hold one rank; the environment or the standard input of this process describes the caller.

    Args:
        ends_with: a descriptor that becomes readable when this agent should end, whatever its caller says;
            -1 for none.
    """
    fds.fill_streams()
    given = list_inherited()
    marks.spare(0)  # it must outlive what its rank started, so it does not carry the launch's mark
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Hydra sends SIGUSR1 when another of its processes has ended; ranks would inherit SIG_IGN
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # workers of Ray block some signals
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
    # imported only now: the caller prepares the spec meanwhile
    from procession.remote.agent_session import AgentSession

    try:
        ends_with = ends_with if ends_with >= 0 else _find_ends_with(description)
        payload = description.get("payload", -1)
        session = AgentSession(
            rank, control, end, [fd for fd in given if fd not in (ends_with, payload)], ends_with
        )
        session.prepare(payload)
    except EOFError:  # the caller is gone
        return
    except BaseException:
        import traceback

        control.send(frames.UNABLE, traceback.format_exc())
        await_end(control)
        return
    session.hold()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the exit of Python removes handlers


def main() -> None:
    """Run an agent; the command in `Agents.argv` calls this."""
    run_agent()


def _find_ends_with(description: Description) -> int:
    """Return a descriptor that becomes readable when this agent should end, or -1."""
    if description.get("with_parent"):
        return pidfd_open(os.getppid())
    return int(description.get("ends_with", -1))


def list_inherited() -> list[int]:
    """Return the descriptors that the starter of this process passed on, for example that of PMI."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # the descriptor of the listing itself
            pass
    return found


def read_description() -> Description:
    """Return the description from this agent's engine; remove it, so that the rank does not see it."""
    text = os.environ.pop(VARIABLE, "") or sys.stdin.readline()
    if not text:
        sys.exit(
            f"procession: this agent finds neither {VARIABLE} nor a line on its standard input"
        )
    return unpack(text.strip())


def connect(description: Description) -> tuple[Link, Link, int]:
    """Connect to the hub; return both connections, and the rank of this agent.

    Raises:
        OSError: the connection fails.
        EOFError: the hub closed the connection: it has all its agents, or refuses this one.
    """
    control = _connect(description)
    hello: ControlHello = {
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
    ending: EndHello = {"what": "end", "rank": rank}
    end.send(frames.HELLO, ending)
    return control, end, rank


def find_rank(description: Description) -> int:
    """Return the rank of this agent, -1 if its engine does not give one."""
    for name in description["rank_variables"]:
        if name in os.environ:
            return int(os.environ[name])
    return int(description.get("rank", -1))


def describe_host(address: str) -> HostHello:
    """Return what the hub needs to know about this process and its host."""
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


def _connect(description: Description) -> Link:
    for _ in range(_TRIES - 1):
        try:
            return _try_to_connect(description)
        except TimeoutError:
            pass
    return _try_to_connect(description)


def _try_to_connect(description: Description) -> Link:
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
