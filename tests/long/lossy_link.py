"""A link between two network namespaces that loses, delays, reorders and duplicates packets.

``tc qdisc ... netem`` does the same in the kernel, but not every kernel has it (CONFIG_NET_SCH_NETEM).  This
program needs only /dev/net/tun: it makes two TUN devices (Linux's Documentation/networking/tuntap.rst), one
in each namespace, and carries packets between them.  Each direction has the same faults.  It prints the
address of each end as JSON, and, when its standard input ends, how many packets met which fate.

Usage: lossy_link.py NAMESPACE FAULTS, with the path of the other namespace, and `Faults` as JSON.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from procession.testing.hosts import FarHost

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_LARGEST = 65535  # bytes of a packet


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to packets in each direction: probabilities, and seconds.

    A packet takes ``delay``, give or take up to ``jitter``: packets overtake each other.
    """

    loss: float
    delay: float = 0.05
    jitter: float = 0.01
    duplication: float = 0.05


class Wire:
    """Carries packets between two TUN devices."""

    def __init__(self, near: int, far: int, faults: Faults) -> None:
        self._other = {near: far, far: near}
        self._faults = faults
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._last_sent = {near: -1, far: -1}
        self.counts = Counter(dict.fromkeys(("sent", "lost", "duplicated", "overtaken"), 0))

    def carry(self) -> None:
        """Carry packets until standard input ends."""
        poll = select.poll()
        for fd in (sys.stdin.fileno(), *self._other):
            poll.register(fd, select.POLLIN)
        while True:
            self._deliver()
            pause = self._under_way[0][0] - time.monotonic() if self._under_way else None
            for fd, _ in poll.poll(None if pause is None else max(pause, 0) * 1000):
                if fd not in self._other:
                    return
                self._take(self._other[fd], os.read(fd, _LARGEST))

    def _take(self, target: int, packet: bytes) -> None:
        faults = self._faults
        self.counts["sent"] += 1
        if random.random() < faults.loss:
            self.counts["lost"] += 1
            return
        copies = 2 if random.random() < faults.duplication else 1
        self.counts["duplicated"] += copies - 1
        for _ in range(copies):
            due = time.monotonic() + faults.delay + random.uniform(-faults.jitter, faults.jitter)
            heapq.heappush(self._under_way, (due, self.counts["sent"], target, packet))

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, number, target, packet = heapq.heappop(self._under_way)
            self.counts["overtaken"] += number < self._last_sent[target]
            self._last_sent[target] = max(number, self._last_sent[target])
            try:
                os.write(target, packet)
            except OSError:  # the other namespace has ended
                self.counts["lost"] += 1


@contextmanager
def lossy_link(far: FarHost, faults: Faults) -> Iterator[FarHost]:
    """Provide a lossy link to another host in the block, beside the one that works.

    Yields the host, with the addresses of the lossy link.  After the block, it prints what packets met.
    """
    namespace = next(word for word in far.prefix if word.startswith("--net=")).partition("=")[2]
    command = [sys.executable, str(Path(__file__)), namespace, json.dumps(asdict(faults))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        near_address, far_address = json.loads(process.stdout.readline())
        yield replace(far, near_address=near_address, far_address=far_address)
        out, _ = process.communicate()
        counts = json.loads(out)
        print(f"{faults}: {counts}")
        assert counts["lost"] + counts["duplicated"] + counts["overtaken"], "nothing happened"


def main() -> int:
    """Make the devices, and carry packets."""
    namespace, faults = sys.argv[1], Faults(**json.loads(sys.argv[2]))
    pid = os.getpid()
    net = f"10.{150 + pid // 250 % 50}.{pid % 250}"
    near, far = f"near{pid}", f"far{pid}"
    devices = open_tun(near), open_tun(far)
    call("ip", "address", "add", f"{net}.1/24", "dev", near)
    call("ip", "link", "set", near, "up")
    call("ip", "link", "set", far, "netns", namespace)
    inside = ("nsenter", f"--net={namespace}", "ip")
    call(*inside, "address", "add", f"{net}.2/24", "dev", far)
    call(*inside, "link", "set", far, "up")
    print(json.dumps([f"{net}.1", f"{net}.2"]), flush=True)
    wire = Wire(*devices, faults)
    wire.carry()
    print(json.dumps(wire.counts))
    return 0


def open_tun(name: str) -> int:
    """Make a TUN device that lasts until its descriptor is closed; return the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(fd, _TUNSETIFF, request)
    return fd


def call(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
