"""The coordinator's port belongs to the launch: no other process gets it, and no other host reaches it."""

from __future__ import annotations

import errno
import socket
from contextlib import closing

import pytest

import xla_ranks
from procession import ProcessRaisedException, run
from procession_xla.coordinator import Reservation

CPU = {"platform": "cpu", "distributed": True}


def test_no_other_process_gets_a_reserved_port() -> None:
    with closing(Reservation()) as reservation:
        host, _, port = reservation.address.rpartition(":")
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use") as caught:
                other.bind((host, int(port)))
        assert caught.value.errno == errno.EADDRINUSE
        given = [open_ephemeral() for _ in range(500)]
        ports = {one.getsockname()[1] for one in given}
        for one in given:
            one.close()
        assert int(port) not in ports
    with socket.socket() as other:
        other.bind((host, int(port)))


def open_ephemeral() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def test_the_coordinator_listens_on_loopback_only() -> None:
    seen = run(xla_ranks.find_listeners, nprocs=2, start_method="xla", options=CPU, timeout=60)
    assert seen[0]
    assert all(one in ("0100007F", "0000000000000000FFFF00000100007F") for one in seen[0])


def test_a_coordinator_whose_port_is_in_use_is_an_error_and_no_crash() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        options = {**CPU, "coordinator": address}
        with pytest.raises(ProcessRaisedException, match=f"{address} is in use already"):
            run(xla_ranks.see, nprocs=2, start_method="xla", options=options, timeout=60)


def test_an_option_names_the_coordinator() -> None:
    with closing(Reservation()) as reservation:
        options = {**CPU, "coordinator": reservation.address}
        env = {"JAX_COORDINATOR_BIND_ADDRESS": reservation.address}
        seen = run(
            xla_ranks.see, nprocs=2, start_method="xla", options=options, env=env, timeout=60
        )
    assert [one.processes for one in seen] == [2, 2]


def test_ranks_stop_waiting_for_one_that_does_not_connect() -> None:
    options = {"platform": "cpu", "initialization_timeout": 1}
    with pytest.raises(ProcessRaisedException, match="all ranks must do so"):
        run(
            xla_ranks.leave_the_others_waiting,
            nprocs=2,
            start_method="xla",
            options=options,
            timeout=60,
        )
