"""A fork of a process that has initialised JAX, which hangs, is refused; one that has imported it is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

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
