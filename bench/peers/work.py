"""What the training scripts of every system share: the steps to do, the clock and the check.

Runs in each system's own environment, so it needs nothing but NumPy.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.peers.common import Weights, wire_bytes

RATE = 0.1
ROWS = 128
#: Steps that are timed after one that warms up, by the work.
REPEATS = {"cnn": 3, "dense": 5}
TITLES = {"cnn": "the post's CNN", "dense": "dense 784-128-128-10"}
LAYERS = {
    "cnn": ("conv0", "conv1", "conv2", "dense"),
    "dense": ("dense0", "dense1", "dense2"),
}


class Work(NamedTuple):
    """One SGD step: ``weights``, ``x`` and one-hot ``y`` before it, float32's weights after it."""

    name: str
    weights: Weights
    x: np.ndarray
    y: np.ndarray
    after: Weights

    def errors(self, got: Weights) -> tuple[float, float]:
        """Return how far the change of a layer's weights is off, in the layer where it is most.

        Returns:
            The largest difference over the largest change, and the norm of the difference over the
            norm of the change.
        """
        worst = (0.0, 0.0)
        for layer in LAYERS[self.name]:
            parts = [f"{layer}_{part}" for part in ("kernel", "bias")]
            change, off = (
                np.concatenate([(a[p].astype(float) - b[p]).ravel() for p in parts])
                for a, b in ((self.after, self.weights), (got, self.after))
            )
            largest = float(np.abs(off).max() / np.abs(change).max())
            norm = float(np.linalg.norm(off) / np.linalg.norm(change))
            worst = (max(worst[0], largest), max(worst[1], norm))
        return worst


def names_of(name: str) -> list[str]:
    """Return the names of the weights of a network, in Keras' order."""
    return [f"{layer}_{part}" for layer in LAYERS[name] for part in ("kernel", "bias")]


def save_works(path: str | Path, works: list[Work]) -> None:
    """Write the steps to do into one file."""
    arrays: dict[str, np.ndarray] = {}
    for work in works:
        arrays |= {f"{work.name}/x": work.x, f"{work.name}/y": work.y}
        arrays |= {f"{work.name}/before/{n}": v for n, v in work.weights.items()}
        arrays |= {f"{work.name}/after/{n}": v for n, v in work.after.items()}
    np.savez(path, **arrays)


def load_works(path: str | Path) -> list[Work]:
    """Return the steps to do."""
    with np.load(path, allow_pickle=False) as file:
        return [
            Work(
                name,
                {n: file[f"{name}/before/{n}"] for n in names_of(name)},
                file[f"{name}/x"],
                file[f"{name}/y"],
                {n: file[f"{name}/after/{n}"] for n in names_of(name)},
            )
            for name in REPEATS
        ]


def measure_step(
    work: Work,
    step: Callable[[], float],
    opened: Callable[[], Weights],
    rounds: Callable[[], int | None] = lambda: None,
) -> dict[str, Any]:
    """Time steps from the same weights, all on shares, and compare the weights after them.

    Args:
        work: the step.
        step: does one step on weights and rows that are shared already; returns its seconds.
        opened: returns the weights after the latest step, in plaintext.
        rounds: returns the rounds of the latest step, where a system counts them.
    """
    seconds, wire, errors = [], [], []
    for number in range(1 + REPEATS[work.name]):
        before = wire_bytes()
        took = step()
        after = wire_bytes()
        if number:
            seconds.append(took)
            if before is not None and after is not None:
                wire.append(after - before)
        told = rounds()
        errors.append(work.errors(opened()))
    return step_row(work.name, seconds, wire, told, errors)


def step_row(
    name: str,
    seconds: list[float],
    wire: list[int],
    rounds: int | None,
    errors: list[tuple[float, float]],
) -> dict[str, Any]:
    """Return what is reported of one step; the worst errors count."""
    return {
        "step": name,
        "median_seconds": statistics.median(seconds),
        "median_wire_bytes": statistics.median(wire) if wire else None,
        "rounds": rounds,
        "largest_error": max(largest for largest, _ in errors),
        "norm_error": max(norm for _, norm in errors),
        "seconds": seconds,
        "wire_bytes": wire,
        "errors": errors,
    }
