"""Train a small network on handwritten digits with JAX, its batch spread over the devices of all ranks.

    python docs/examples/train_digits_xla.py [RANKS [DEVICES_PER_RANK]]

Every rank runs the same program on arrays that belong to all of them (JAX's multi-controller model). Each
holds a share of the batch, XLA sums the gradients, and all end up with the weights that one process finds.
"""

from __future__ import annotations

import sys
from typing import Any

from procession import run

BATCH = 1792  # of 1,797 digits: it divides by any number of devices that is a power of two
HIDDEN = 32
RATE = 0.5


def load_digits() -> tuple[Any, Any]:
    """Return the pixels, scaled to 0..1, and the digits."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return (pixels[:BATCH] / 16).astype("float32"), digits[:BATCH]


def train(rank: int, steps: int) -> tuple[dict[str, Any], float]:
    """Train; return the weights, as numpy arrays, and the share of digits that they tell right."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("batch",))  # those of all ranks
    by_batch = NamedSharding(mesh, PartitionSpec("batch"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def spread(values: Any) -> Any:
        return jax.make_array_from_callback(values.shape, by_batch, lambda part: values[part])

    def predict(weights: dict[str, Any], pixels: Any) -> Any:
        return jnp.tanh(pixels @ weights["in"]) @ weights["out"]

    def loss(weights: dict[str, Any], pixels: Any, digits: Any) -> Any:
        told = jax.nn.log_softmax(predict(weights, pixels))
        return -told[jnp.arange(len(digits)), digits].mean()

    def step(weights: dict[str, Any], pixels: Any, digits: Any) -> Any:
        gradients = jax.grad(loss)(weights, pixels, digits)
        return jax.tree.map(lambda weight, slope: weight - RATE * slope, weights, gradients)

    def count_right(weights: dict[str, Any], pixels: Any, digits: Any) -> Any:
        return (predict(weights, pixels).argmax(axis=1) == digits).sum()

    chance = np.random.default_rng(0)
    first = {
        "in": chance.normal(0, 0.1, (64, HIDDEN)).astype("float32"),
        "out": chance.normal(0, 0.1, (HIDDEN, 10)).astype("float32"),
    }
    weights = jax.device_put(first, everywhere)
    batch = tuple(map(spread, load_digits()))
    improve = jax.jit(step, out_shardings=everywhere)
    for _ in range(steps):  # one at a time: JAX 0.10 can deadlock on the CPU with more under way
        weights = jax.block_until_ready(improve(weights, *batch))
    right = jax.jit(count_right, out_shardings=everywhere)(weights, *batch)
    return jax.tree.map(np.asarray, weights), int(right) / BATCH


def launch(nprocs: int, devices_per_rank: int = 1, steps: int = 100, **options: Any) -> list[Any]:
    """Train on CPU devices, and return what each rank found."""
    chosen = {
        "platform": "cpu",
        "devices_per_rank": devices_per_rank,
        "distributed": True,
        **options,
    }
    return run(train, (steps,), nprocs, start_method="xla", options=chosen)


if __name__ == "__main__":
    ranks, devices = (int(text) for text in (sys.argv[1:] + ["2", "1"][len(sys.argv) - 1 :])[:2])
    [(_, right), *_] = launch(ranks, devices)
    print(f"{ranks} ranks of {devices} devices: {right:.1%} of {BATCH} right")
