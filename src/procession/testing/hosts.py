"""A second host on this machine: a network namespace with a name of its own, and a cable to it.

All else is shared, file system and process ids too.  It needs root, ``ip`` (iproute2) and util-linux.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

NAME = "far"
"""What the second host is called."""


@dataclass(frozen=True, slots=True)
class FarHost:
    """The second host: what to put before a command to run it there, and the addresses of both."""

    prefix: tuple[str, ...]
    near_address: str
    far_address: str
    link: str

    def cut(self) -> None:
        """Pull the cable."""
        _call("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _call("ip", "link", "set", self.link, "up")


def why_none() -> str:
    """Return why there can be no second host here; an empty string if there can."""
    if os.geteuid() != 0:
        return "only root can have a second host"
    try:
        with far_host():
            return ""
    except FileNotFoundError as error:
        return f"there is no {error.filename}: apt-get install iproute2 util-linux"
    except (OSError, subprocess.SubprocessError) as error:
        return f"this kernel or sandbox gives no network namespace: {error}"


@contextmanager
def far_host(*, named: bool = True) -> Iterator[FarHost]:
    """Provide a second host, with the name `NAME` unless it is to have this one's; all in it is ended after.

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
            raise OSError("unshare has failed")
        spaces = [f"{kind}=/proc/{holder.pid}/ns/{kind[2:]}" for kind in kinds]
        yield _plug_in(holder.pid, ("nsenter", *spaces))
    finally:
        holder.kill()  # the namespace ends with it, unless somebody else is in it, and so does the cable
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
