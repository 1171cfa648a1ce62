"""The fork of a process that has initialised JAX would hang, and is refused; on two hosts JAX computes."""

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
from scripts import run_program

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="could not import 'jax': pip install jax"
)


def test_a_fork_after_the_import_of_jax_gives_no_warning() -> None:
    assert run_program("jax_in_forks.py", "imported").stdout == "[3.0, 3.0] 1\n"


def test_a_fork_once_jax_is_initialised_is_an_error() -> None:
    printed = run_program("jax_in_forks.py", "refused").stdout
    assert printed.startswith("XLA is initialised in this process (jax): ")


def test_an_unchecked_fork_of_initialised_jax_hangs_as_the_error_says() -> None:
    assert run_program("jax_in_forks.py", "hangs").stdout == "hung\n"


def add_up(rank: int) -> tuple[float, str]:
    """Return the sum of all ranks' numbers (1 for the first, 2 for the second), and this host's name."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    jax.distributed.initialize(where, int(os.environ["WORLD_SIZE"]), rank)
    numbers: Any = multihost_utils.process_allgather(jnp.float32(rank + 1))
    jax.distributed.shutdown()
    return float(numbers.sum()), socket.gethostname()


def name_hosts(far: FarHost, path: Path) -> list[str]:
    """Return a prefix for a command, with which it knows both hosts by name, as JAX's gloo needs."""
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
