"""Sets a short default timeout of sockets at its import; `sets_socket_timeout` launches its function."""

from __future__ import annotations

import socket
import time

socket.setdefaulttimeout(0.05)
time.sleep(0.2)


def give(rank: int) -> int:
    time.sleep(0.1)
    return rank
