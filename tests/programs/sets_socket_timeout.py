"""Launches where the caller, or the module of its function, sets a short default timeout of sockets.

Arguments: the start method; "caller" or "module".
"""

from __future__ import annotations

import socket
import sys

if sys.argv[2] == "caller":
    socket.setdefaulttimeout(0.05)

import socket_timeout  # it must come between the two settings

if sys.argv[2] == "module":
    socket.setdefaulttimeout(None)

from procession import run

print(run(socket_timeout.give, nprocs=2, start_method=sys.argv[1]))
