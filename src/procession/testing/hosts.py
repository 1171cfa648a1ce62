"""A second host on this machine: a network namespace with another host name, and a virtual cable to it.

Both share all else, such as the file system and process ids.  This needs root, ``ip`` (iproute2) and
util-linux.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

NAME = "far"
"""The name of the second host."""


@dataclass(frozen=True, slots=True)
class FarHost:
    """The second host: the prefix of a command that runs there, and the addresses of both hosts."""

    prefix: tuple[str, ...]
    near_address: str
    far_address: str
    link: str

    def cut(self) -> None:
        """Cut the connection between the hosts."""
        _call("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Restore the connection."""
        _call("ip", "link", "set", self.link, "up")


def why_none() -> str:
    """Return why this machine cannot have a second host; an empty string if it can."""
    if os.geteuid() != 0:
        return "a second host needs root"
    try:
        with far_host():
            return ""
    except FileNotFoundError as error:
        return f"{error.filename} is missing: apt-get install iproute2 util-linux"
    except (OSError, subprocess.SubprocessError) as error:
        return f"this kernel or sandbox does not allow a network namespace: {error}"


@contextmanager
def far_host(*, named: bool = True) -> Iterator[FarHost]:
    """Provide a second host in the block.

    The namespace ends after the block, unless a process is still in it.

    Args:
        named: whether it has the name `NAME`; else it has this host's name.

    Raises:
        OSError, subprocess.SubprocessError: this machine does not allow it.
    """
    kinds = ("--net", "--uts") if named else ("--net",)
    begin = f"hostname {NAME}; echo; exec sleep infinity" if named else "echo; exec sleep infinity"
    holder = subprocess.Popen(
        ("unshare", *kinds, "sh", "-c", begin), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    try:
        if not holder.stdout.readline():
            raise OSError("unshare failed")
        spaces = [f"{kind}=/proc/{holder.pid}/ns/{kind[2:]}" for kind in kinds]
        yield _plug_in(holder.pid, ("nsenter", *spaces))
    finally:
        holder.kill()  # ends the namespace and the cable, unless another process is in it
        holder.stdout.close()
        holder.wait()


def _plug_in(pid: int, prefix: Sequence[str]) -> FarHost:
    link, net = f"proc{pid}", f"10.{200 + pid // 250 % 50}.{pid % 250}"
    _call("ip", "link", "add", link, "type", "veth", "peer", "eth0", "netns", str(pid))
    _call("ip", "address", "add", f"{net}.1/24", "dev", link)
    _call("ip", "link", "set", link, "up")
    for command in (f"address add {net}.2/24 dev eth0", "link set eth0 up", "link set lo up"):
        _call(*prefix, "ip", *command.split())
    _await_address(f"{net}.1")
    return FarHost(tuple(prefix), f"{net}.1", f"{net}.2", link)


def _await_address(address: str) -> None:
    with socket.create_server((address, 0)):
        pass


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
