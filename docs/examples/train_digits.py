"""Trains a small network on scikit-learn's digits, data-parallel over ranks; numpy is all it needs.

    python docs/examples/train_digits.py 4 forkserver

Each rank holds a copy of the weights and computes the gradient of its share of every batch. The
gradients are summed over queues, so that all ranks take the same step: the weights come out as one
process would have them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from procession import get_context, rank_info, run

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Inboxes = list[SimpleQueue[Any]]

SIZES = (64, 32, 10)
BATCH = 120
RATE = 0.5


def load_digits() -> tuple[Array, Array]:
    """Return 1797 images of 8 x 8 pixels, in 0..1, and their digits, one-hot."""
    from sklearn import datasets

    images, digits = datasets.load_digits(return_X_y=True)
    return images / 16.0, np.eye(10)[digits]


def first_weights() -> list[Array]:
    """Return the weights that training begins with."""
    random = np.random.default_rng(seed=0)
    shapes = [(SIZES[0], SIZES[1]), (SIZES[1],), (SIZES[1], SIZES[2]), (SIZES[2],)]
    return [random.normal(0.0, 0.1, shape) for shape in shapes]


def predict(weights: list[Array], images: Array) -> tuple[Array, Array]:
    """Return the hidden layer, and the probability of each digit."""
    hidden = np.tanh(images @ weights[0] + weights[1])
    scores = hidden @ weights[2] + weights[3]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, powers / powers.sum(axis=1, keepdims=True)


def gradient(weights: list[Array], images: Array, digits: Array) -> Array:
    """Return the gradient of the cross-entropy, summed over the images, as one long row."""
    hidden, chances = predict(weights, images)
    error = chances - digits
    back = (error @ weights[2].T) * (1.0 - hidden**2)
    parts = [images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
    return np.concatenate([part.ravel() for part in parts])


def all_reduce(row: Array, rank: int, inboxes: Inboxes) -> Array:
    """Return the sum of all ranks' rows, the same to the last bit in each of them."""
    if rank > 0:
        inboxes[0].put((rank, row))
        total: Array = inboxes[rank].get()
        return total
    rows = dict([(0, row), *(inboxes[0].get() for _ in inboxes[1:])])
    total = sum((rows[other] for other in sorted(rows)), start=np.zeros_like(row))
    for inbox in inboxes[1:]:
        inbox.put(total)
    return total


def train(
    rank: int, images: Array, digits: Array, steps: int, inboxes: Inboxes
) -> tuple[list[Array], float]:
    """Train on this rank's share of each batch; return the weights and their accuracy."""
    weights = first_weights()
    ends = np.cumsum([part.size for part in weights])[:-1]
    order = np.random.default_rng(seed=1)
    for _ in range(steps):
        batch = order.choice(len(images), BATCH, replace=False)[rank :: len(inboxes)]
        total = all_reduce(gradient(weights, images[batch], digits[batch]), rank, inboxes)
        for part, change in zip(weights, np.split(total, ends), strict=True):
            np.subtract(part, (RATE / BATCH) * change.reshape(part.shape), out=part)
    right = predict(weights, images)[1].argmax(axis=1) == digits.argmax(axis=1)
    info = rank_info()
    if rank == 0 and info is not None:
        print(
            f"{info.nprocs} ranks by {info.start_method}: {right.mean():.1%} of {len(right)} right"
        )
    return weights, float(right.mean())


def launch(nprocs: int, start_method: str, steps: int = 300) -> list[tuple[list[Array], float]]:
    """Train with some ranks; return what each of them came to."""
    images, digits = load_digits()
    context = get_context(start_method)
    inboxes = [context.SimpleQueue() for _ in range(nprocs)]
    try:
        return run(train, (images, digits, steps, inboxes), nprocs, start_method=start_method)
    finally:
        for inbox in inboxes:
            inbox.close()


if __name__ == "__main__":
    launch(
        int(sys.argv[1]) if len(sys.argv) > 1 else 4,
        sys.argv[2] if len(sys.argv) > 2 else "spawn",
    )
