"""Forks ranks that use JAX, from a process that has used it or not; prints what becomes of them.

Argument: "imported" (JAX is imported, no more), "refused" (it is initialised, and the fork check is on) or
"hangs" (it is initialised, and the check is off).
"""

from __future__ import annotations

import sys
import threading
import warnings

import jax
import jax.numpy as jnp

from procession import ProcessTimeoutError, UnsafeForkError, run


def add(rank: int) -> float:
    return float(jnp.ones(3).sum())


def multiply(rank: int) -> float:
    square = jnp.ones((300, 300))  # JAX 0.12 computes a sum of three in the calling thread
    return float((square @ square).sum())


def fork_once_imported() -> None:
    warnings.simplefilter("error", RuntimeWarning)
    print(run(add, nprocs=2, start_method="fork"), threading.active_count())


def fork_once_initialised() -> None:
    jax.devices()
    try:
        run(print, nprocs=2, start_method="fork")
    except UnsafeForkError as error:
        print(*error.reasons)


def fork_unchecked() -> None:
    jax.devices()
    try:
        run(multiply, start_method="fork", options={"fork_check": "off"}, timeout=3)
    except ProcessTimeoutError:
        print("hung")


if __name__ == "__main__":
    {"imported": fork_once_imported, "refused": fork_once_initialised, "hangs": fork_unchecked}[
        sys.argv[1]
    ]()
