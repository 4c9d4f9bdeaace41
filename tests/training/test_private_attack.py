"""A party that chooses initial weights against the signs by which rows are checked.

The signs are linear conditions on what layers see, fewer than a layer may have inputs: whoever
knew them when it chose the weights could make inputs that meet them all, of a size whose square
wraps around to a small one. Every row would then move the sum by as much as it liked.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tercet.program.private import GRID, PrivateSum
from tercet.program.training import DATA_SCALE, Kind
from tercet.ring.fixed import encode
from tercet.runtime.training import step_values
from tests.training.noisy import exact_sums, squared_norm
from tests.training.steps import DRAWN, SEED

INPUTS, HIDDEN, CLASSES = 6, 512, 3
#: The square of what the second layer sees, modulo 2^64: what a small norm would give.
CLAIMED = 1 << 40
RING = 1 << 64


@pytest.fixture(scope="module")
def found() -> Any:
    import keras

    from tercet.frontend.training import trace_training

    layers = [keras.Input((INPUTS,)), keras.layers.Dense(HIDDEN), keras.layers.Dense(CLASSES)]
    made = keras.Sequential(layers)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.5), loss)
    return trace_training(made, 1, 10, privacy=PrivateSum(1.0, 1.0, 1, 1))


def too_large(a: np.ndarray) -> int:
    """Return how far the square of ``a`` modulo 2^64 is above ``CLAIMED``, or below it."""
    rest = (sum(int(v) ** 2 for v in a) - CLAIMED) % RING
    return rest - RING if rest >= RING // 2 else rest


def against(signs: np.ndarray) -> np.ndarray:
    """Return integers whose sums with each row of ``signs`` are small, and their square, too."""
    free = np.random.default_rng(1).normal(size=signs.shape[1])
    free -= signs.T @ np.linalg.lstsq(signs.T, free, rcond=None)[0]
    free /= np.abs(free).max()
    for k in range(100_000):
        a = np.round(free * (2.0**31.5) * (1 - k * 1e-6)).astype(np.int64)
        if abs(too_large(a)) < 1 << 50:
            break
    order = np.argsort(-np.abs(a))
    for i in (order[0], order[HIDDEN // 2], order[-2]):
        a[i] -= round(too_large(a) / (2 * int(a[i])))
    return a


@pytest.mark.parametrize("shared", [False, True])
def test_weights_chosen_before_the_signs_are_drawn_gain_nothing(found: Any, shared: bool) -> None:
    (name,) = (i.name for i in found.training.step_inputs if i.kind is Kind.SIGNS)
    drawn = step_values(found.training, 0, SEED, DRAWN)[name].astype(np.int64) - 1
    seen = drawn[INPUTS + HIDDEN : INPUTS + 2 * HIDDEN]  # a and d of the first layer, a of the next
    chosen = against(seen.T.astype(float))
    assert sum(int(v) ** 2 for v in chosen) > RING
    weights = {n: np.zeros(found.arrays[n].shape, np.uint64) for n in found.variables.values()}
    weights[list(weights)[1]] = (chosen << 8).astype(np.uint64)  # the bias: 24 bits, rounded to 16
    x = np.random.default_rng(0).normal(size=(1, INPUTS))
    rows = {"x": encode(x, DATA_SCALE), "y": encode(np.eye(CLASSES)[:1], DATA_SCALE)}

    def moved(signs: bytes) -> float:
        sums = exact_sums(found, rows | weights, shared, signs)
        return math.sqrt(squared_norm(sums)) / 2**GRID

    assert moved(DRAWN) > 1000, "the attack is none, and the test says nothing"
    for number in range(3):
        assert moved(bytes([number]) * 32) == 0
