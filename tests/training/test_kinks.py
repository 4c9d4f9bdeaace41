"""The post's CNN at batch 128 on images of MNIST: every gradient within 1e-3 of float32.

A value next to the kink of its ReLU falls on either side by roundings, and its row's gradient with
it. That happens to one of 456,704 values once in some 30 steps from fresh weights and once in some
200 after a little training; in float32 itself once in some 400 (docs/training-step.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.training import steps

BOUND, ROWS = 1e-3, 128
#: Nearer to 0 than this, a value may fall on either side; roundings before it are a tenth of it.
NEAR = 2.0**-20
Rows = tuple[np.ndarray, np.ndarray]


def _model(seed: int, training: int = 0) -> Any:
    """Return the CNN with fresh weights, or after some steps, as the workers hold them."""
    import keras

    from tercet.frontend.digits import digits_model

    model = digits_model(seed)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    if training:
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
        for x, y in _batches(training):
            model.train_on_batch(x, y)
    model.set_weights([np.rint(w * 2.0**24) / 2.0**24 for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(1.0), loss)
    return model


def _batches(count: int) -> Iterator[Rows]:
    from tercet.data import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.y_train))
    for rows in np.resize(order, (count, ROWS)):
        yield digits.x_train[rows], np.eye(10, dtype=np.float32)[digits.y_train[rows]]


def _reference(model: Any, x: np.ndarray, y: np.ndarray, dtype: Any) -> tuple[Any, Any]:
    """Return the gradients in ``dtype`` and what every ReLU takes, by JAX."""
    import jax
    from jax import lax

    def loss(weights: list[Any], x: Any) -> Any:
        before = []
        for kernel, bias in zip(weights[0:6:2], weights[1:6:2], strict=True):
            z = lax.conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "VALID")
            z = z.transpose(0, 2, 3, 1) + bias
            n, h, w, c = z.shape
            z = z[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
            before.append(z.sum((2, 4)) / 4)
            x = jax.nn.relu(before[-1])
        scores = jax.nn.log_softmax(x.reshape(len(x), -1) @ weights[6] + weights[7])
        return -(scores * y).sum() / len(y), before

    with jax.enable_x64(dtype is np.float64):
        weights = [w.astype(dtype) for w in model.get_weights()]
        found, before = jax.jit(jax.grad(loss, has_aux=True))(weights, x.astype(dtype))
        return [np.asarray(g, np.float64) for g in found], [np.asarray(z) for z in before]


def _error(traced: Any, model: Any, state: Any, wanted: list[np.ndarray]) -> float:
    """Return the largest error of a gradient relative to its layer's largest."""
    after = steps.decoded(traced, state)
    paths = [v.path.split("/", 1)[1] for v in model.trainable_variables]
    names = [traced.variables[p] for p in paths]
    found = [traced.arrays[n] - after[n] for n in names]
    off = [np.abs(f - g).max() for f, g in zip(found, wanted, strict=True)]
    large = [np.abs(g).max() for g in wanted]
    return max(max(off[n : n + 2]) / max(large[n : n + 2]) for n in range(0, len(off), 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_batches_in_the_clear(seed: int) -> None:
    """In the workers' arithmetic, all rows, against float32 and float64."""
    from tercet.frontend.training import trace_training

    model = _model(seed)
    traced = trace_training(model, ROWS, 1)
    for x, y in _batches(2):
        state, _ = next(steps.in_the_clear(traced, [(x, y)]))
        for dtype in (np.float32, np.float64):
            wanted, _ = _reference(model, x, y, dtype)
            assert _error(traced, model, state, wanted) <= BOUND


def test_batches_on_shares() -> None:
    """Of rows without a value that roundings turn: which of the others differ is up to the keys."""
    from tercet.frontend.training import trace_training

    model = _model(1)
    traced = trace_training(model, ROWS, 1)
    for x, y in _batches(2):
        _, before = _reference(model, x, y, np.float64)
        near = [((np.abs(z) < NEAR) & (z != 0)).reshape(len(z), -1).any(1) for z in before]
        clear = np.flatnonzero(~np.any(near, 0))
        assert len(clear) > 0.75 * ROWS
        rows = np.resize(clear, ROWS)
        x, y = x[rows], y[rows]
        state, *_ = next(steps.on_three(traced, [(x, y)]))
        wanted, _ = _reference(model, x, y, np.float32)
        assert _error(traced, model, state, wanted) <= BOUND


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("training", "most"), [(0, 10), (100, 4)])
def test_kinks_turn_rarely(training: int, most: int) -> None:
    """All rows of 60 batches on shares: a turned value is rare, and not far off even then."""
    from tercet.frontend.training import trace_training

    model = _model(1, training)
    traced = trace_training(model, ROWS, 1)
    errors = []
    for x, y in _batches(60):
        state, *_ = next(steps.on_three(traced, [(x, y)]))
        errors.append(_error(traced, model, state, _reference(model, x, y, np.float32)[0]))
    turned = sum(e > BOUND for e in errors)
    print(f"{turned} of 60 steps beyond 1e-3, median {np.median(errors):.1e}, {max(errors):.1e}")
    assert turned <= most
    assert np.median(errors) < BOUND / 5
