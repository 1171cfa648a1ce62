"""Bad options are refused before any rank starts, and the room of a cluster is computed."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from procession import BackendUnavailableError, get_backend, run
from procession.testing.listing import run_python
from procession_ray.options import Options, read_options
from procession_ray.slots import count_slots, tell_amounts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_cpus": "2"}, "num_cpus"),
        ({"num_cpus": True}, "num_cpus"),
        ({"num_gpus": -1}, "num_gpus"),
        ({"num_gpus": 1.5}, "whole number"),
        ({"num_cpus": 0}, "must take something"),
        ({"resources": ["GPU"]}, "resources"),
        ({"resources": {"slot": "1"}}, "slot"),
        ({"strategy": "pack"}, "STRICT_SPREAD"),
        ({"transport": "tcp"}, "connect"),
        ({"runtime_env": "env"}, "runtime_env"),
        ({"autoscaling": 1}, "autoscaling"),
    ],
)
def test_a_bad_option_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        read_options(given)


def test_what_a_rank_takes() -> None:
    assert read_options({"start_timeout": 5}) == Options()
    assert Options().demand == {"CPU": 1}
    given = {"num_cpus": 0, "num_gpus": 0.5, "resources": {"slot": 1}}
    assert read_options(given).demand == {"GPU": 0.5, "slot": 1}


def test_an_option_of_another_start_method_is_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="python"):
        run(abs, nprocs=1, start_method="ray", options={"python": "python3"})


NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}, {"slot": 9.0}]


@pytest.mark.parametrize(
    ("demand", "strategy", "slots"),
    [
        ({"CPU": 1.0}, "PACK", 6),
        ({"CPU": 1.0}, "SPREAD", 6),
        ({"CPU": 1.0}, "STRICT_PACK", 4),
        ({"CPU": 1.0}, "STRICT_SPREAD", 2),
        ({"CPU": 3.0}, "PACK", 1),
        ({"CPU": 0.1}, "STRICT_PACK", 40),
        ({"CPU": 1.0, "GPU": 0.5}, "PACK", 2),
        ({"TPU": 1.0}, "PACK", 0),
        ({"TPU": 1.0}, "STRICT_PACK", 0),
    ],
)
def test_the_room_for_ranks_is_computed(
    demand: dict[str, float], strategy: str, slots: int
) -> None:
    assert count_slots(NODES, demand, strategy) == slots


def test_the_message_has_the_amounts() -> None:
    message = tell_amounts({"CPU": 1, "GPU": 0.5}, {"CPU": 8}, {"CPU": 2.5})
    assert message == (
        "each takes CPU: 1, GPU: 0.5; the cluster has free CPU: 2.5 of 8, GPU: 0 of 0"
    )


def test_a_missing_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes soon and names the address; a new interpreter is used, since this may be connected."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    script = f"""
import time, procession
begun = time.monotonic()
try:
    procession.run(abs, nprocs=1, start_method="ray", options={{"address": "127.0.0.1:{port}"}})
except procession.BackendUnavailableError as error:
    print(error, time.monotonic() - begun < 5)
"""
    done = run_python("-c", script, path=sys.path)
    assert f"no Ray answers at the address 127.0.0.1:{port}" in done.stdout
    assert done.stdout.split()[-1] == "True", done.stdout + done.stderr


def test_the_backend_is_unavailable_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="pip install ray"):
        get_backend("ray")


def test_availability_does_not_import_ray() -> None:
    script = """
import sys, time
from procession_ray.backend import RayBackend
begun = time.perf_counter()
assert RayBackend().availability().ok
print(time.perf_counter() - begun < 0.05, "ray" in sys.modules)
"""
    assert run_python("-c", script, path=sys.path).stdout.split() == ["True", "False"]
