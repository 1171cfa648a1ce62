"""JAX: a fork of a process that has initialised it, which hangs, is refused; on two hosts, it computes."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import standin
from procession import run
from procession.testing.hosts import NAME, FarHost, far_host, why_none
from scripts import execute

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="could not import 'jax': pip install jax"
)


def test_jax_that_is_imported_only_forks_without_a_word(tmp_path: Path) -> None:
    text = """
        import threading, warnings
        import jax, jax.numpy as jnp
        from procession import run

        def add(rank):
            return float(jnp.ones(3).sum())

        warnings.simplefilter("error", RuntimeWarning)
        print(run(add, nprocs=2, start_method="fork"), threading.active_count())
        """
    assert execute(tmp_path, text) == "[3.0, 3.0] 1\n"


def test_jax_that_is_initialised_is_an_error(tmp_path: Path) -> None:
    text = """
        import jax
        from procession import UnsafeForkError, run

        jax.devices()
        try:
            run(print, nprocs=2, start_method="fork")
        except UnsafeForkError as error:
            print(*error.reasons)
        """
    assert execute(tmp_path, text).startswith("XLA is initialised in this process (jax): ")


def test_what_the_error_of_jax_says_is_so(tmp_path: Path) -> None:
    text = """
        import jax, jax.numpy as jnp
        from procession import ProcessTimeoutError, run

        def multiply(rank):
            square = jnp.ones((300, 300))  # JAX 0.12 computes a sum of three in the calling thread
            return float((square @ square).sum())

        jax.devices()
        try:
            run(multiply, start_method="fork", options={"fork_check": "off"}, timeout=3)
        except ProcessTimeoutError:
            print("hung")
        """
    assert execute(tmp_path, text) == "hung\n"


def add_up(rank: int) -> tuple[float, str]:
    """Return the sum of all ranks' numbers, of which the first is 1, and the name of this host."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    jax.distributed.initialize(where, int(os.environ["WORLD_SIZE"]), rank)
    numbers: Any = multihost_utils.process_allgather(jnp.float32(rank + 1))
    jax.distributed.shutdown()
    return float(numbers.sum()), socket.gethostname()


def name_hosts(far: FarHost, path: Path) -> list[str]:
    """Return what to put before a command for it to know both hosts by name, as JAX's gloo needs."""
    names = {
        "localhost": "127.0.0.1",
        socket.gethostname(): far.near_address,
        NAME: far.far_address,
    }
    path.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
    shell = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", shell, str(path)]


def test_jax_computes_across_two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = why_none()
    if reason:
        pytest.skip(reason)
    monkeypatch.setenv("STANDIN", "")
    with far_host() as far:
        before = f"{list(far.prefix)!r} * rank + {name_hosts(far, tmp_path / 'hosts')!r}"
        options = standin.options(f"command = {before} + command", advertise=far.near_address)
        sums = run(add_up, nprocs=2, start_method="command", options=options, timeout=120)
    assert sums == [(3.0, socket.gethostname()), (3.0, NAME)]
