"""Optimizers against Keras, step by step, and the public numbers that a step brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.training import steps

ROWS, COUNT = 16, 12

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda o: o.SGD(0.1),
    "schedule": lambda o: o.SGD(o.schedules.ExponentialDecay(0.5, 5, 0.5)),
    "momentum": lambda o: o.SGD(0.1, momentum=0.9),
    "nesterov": lambda o: o.SGD(0.1, momentum=0.9, nesterov=True),
    "clipnorm": lambda o: o.SGD(0.1, clipnorm=0.05),
    "global clipnorm": lambda o: o.SGD(0.1, global_clipnorm=0.3),
    "clipvalue": lambda o: o.SGD(0.1, clipvalue=0.01),
    "adam": lambda o: o.Adam(0.01),
    "adamw": lambda o: o.AdamW(0.01),
    "rmsprop": lambda o: o.RMSprop(0.01, momentum=0.5),
}


def _model(optimizer: Any, *layers: Any) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    stack = [keras.Input((20,)), dense(16, activation="relu"), *layers, dense(3)]
    model = keras.Sequential(stack)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def _batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1, (20, 3))
    rows = [rng.normal(0, 1, (ROWS, 20)).astype(np.float32) for _ in range(COUNT)]
    return [(x, np.eye(3, dtype=np.float32)[(x @ true).argmax(1)]) for x in rows]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str) -> None:
    import keras

    from tercet.frontend.training import load_state, trace_training

    model = _model(OPTIMIZERS[name](keras.optimizers))
    traced = trace_training(model, ROWS, COUNT, metrics=("loss", "accuracy"))
    batches = _batches()
    run = list(steps.on_three(traced, iter(batches)))
    before = model.get_weights()
    losses = []
    for x, y in batches:
        losses.append(float(model._compile_loss(y, model(x))))
        model.train_on_batch(x, y)
    wanted = model.get_weights()
    load_state(model, traced, steps.decoded(traced, run[-1][0]))
    # Adam divides by the root of a square: where a gradient is tiny, its rounding counts.
    bound = 0.05 if "adam" in name else 2e-3
    moved = max(np.abs(a - b).max() for a, b in zip(wanted, before, strict=True))
    for ours, theirs in zip(model.get_weights(), wanted, strict=True):
        assert np.abs(ours - theirs).max() <= bound * moved
    for (_, sums, _), loss in zip(run, losses, strict=True):
        assert abs(sums["loss"] / ROWS - loss) <= 2e-3 * loss


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_out_of_range_saturate(name: str, shared: bool) -> None:
    """Gradients 100, -100, 20 count as 1.875 with their signs, so that steps are as in float32."""
    import keras

    from tercet.frontend.optimizers import LARGEST
    from tercet.frontend.training import load_state, trace_training

    rate, tiny = 0.01, 2.0**-16
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.zeros((5, 1))])
    model.compile(getattr(keras.optimizers, name)(rate), "mean_squared_error")
    x = np.array([[1.0, -1.0, 0.2, 0.015, tiny], [0, 0, 0, 0, tiny]])
    y = np.array([[-100.0], [100.0 - 4 * tiny]])  # a gradient of 4 tiny^2 = 9e-10 for the last
    wanted = [100.0, -100.0, 20.0, 1.5, 4 * tiny**2]
    np.testing.assert_allclose((x.T @ -y)[:, 0], wanted, rtol=1e-9)
    traced = trace_training(model, 2, 30)
    run = (steps.on_three if shared else steps.in_the_clear)(traced, [(x, y)] * 30)
    states = [steps.decoded(traced, state) for state, *_ in run]
    load_state(model, traced, states[0])
    first = model.get_weights()[0][:, 0]
    # The step of a first gradient: a rate, for RMSprop over the root of 1 - rho.
    one = rate if "Adam" in name else rate / np.sqrt(0.1)
    np.testing.assert_allclose(first[:4] / one, [-1, 1, -1, -1], rtol=5e-3)
    assert abs(first[4]) <= 0.05 * one
    for number, state in enumerate(states, start=1):
        load_state(model, traced, state)
        moved = np.abs(model.get_weights()[0][:, 0])
        assert moved.max() <= 1.01 * one * number
        squares = next(v for n, v in state.items() if n.endswith("mean square"))
        assert squares.min() >= 0
        assert squares.max() <= 1.01 * (2**6 * LARGEST) ** 2
    theirs = keras.models.clone_model(model)
    theirs.layers[0].set_weights([np.zeros((5, 1))])
    theirs.compile(getattr(keras.optimizers, name)(rate), "mean_squared_error")
    for _ in range(30):
        theirs.train_on_batch(x, y)
    ours, wanted = model.get_weights()[0][:4, 0], theirs.get_weights()[0][:4, 0]
    np.testing.assert_allclose(ours, wanted, rtol=0.05)


@pytest.mark.parametrize("loss", ["mean_squared_error", "mean_absolute_error", "huber"])
def test_targets_far_from_the_first_outputs(loss: str) -> None:
    """Residuals of hundreds times the factor of gradients: the update that float32 makes."""
    import keras

    from tercet.frontend.training import load_state, trace_training

    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), loss)
    x = np.random.default_rng(0).uniform(-1, 1, (32, 3))
    y = x @ np.array([[10.0], [-500.0], [200.0]]) + 1000.0
    traced = trace_training(model, 32, 20)
    *_, (state, *_) = steps.on_three(traced, [(x, y)] * 20)
    for _ in range(20):
        model.train_on_batch(x, y)
    wanted = model.get_weights()
    load_state(model, traced, steps.decoded(traced, state))
    for ours, theirs in zip(model.get_weights(), wanted, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-3 * max(np.abs(theirs).max(), 1)


def test_dropout_multiplies_by_a_public_mask() -> None:
    import keras

    from tercet.frontend.training import trace_training
    from tercet.ring.fixed import decode
    from tercet.runtime.training import step_values

    model = _model(keras.optimizers.SGD(1.0), keras.layers.Dropout(0.25))
    traced = trace_training(model, ROWS, 3)
    first, again, second = (
        step_values(traced.training, n, steps.SEED)["mask 1"] for n in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    mask = decode(first, 14)
    assert set(np.unique(mask.round(3))) == {0.0, 1.333}
    assert abs((mask > 0).mean() - 0.75) < 0.15
    x, y = _batches()[0]
    kernel = model.layers[2].kernel
    hidden = np.maximum(x @ model.layers[0].kernel.numpy(), 0) * mask
    z = hidden @ kernel.numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    state, _ = next(steps.in_the_clear(traced, iter([(x, y)])))
    name = traced.variables[kernel.path.split("/", 1)[1]]
    found = traced.arrays[name] - steps.decoded(traced, state)[name]
    wanted = hidden.T @ (p - y) / ROWS
    assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_batch_norm_keeps_its_statistics() -> None:
    import keras

    from tercet.frontend.training import load_state, trace_training

    model = _model(keras.optimizers.SGD(0.1), keras.layers.BatchNormalization())
    traced = trace_training(model, ROWS, COUNT)
    batches = _batches()
    *_, (state, _, _) = steps.on_three(traced, iter(batches))
    for x, y in batches:
        model.train_on_batch(x, y)
    wanted = model.get_weights()
    load_state(model, traced, steps.decoded(traced, state))
    for ours, theirs in zip(model.get_weights(), wanted, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-3
