"""2,000 steps of Adam on MNIST in the arithmetic of the workers, against Keras."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.training import steps

STEPS, ROWS = 2000, 32


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_steps_of_adam_stay_with_keras() -> None:
    import keras

    from tercet.data import load_digits
    from tercet.frontend.training import load_state, trace_training

    digits = load_digits()
    model = _small()
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.CategoricalCrossentropy(True))
    traced = trace_training(model, ROWS, STEPS)
    rng = np.random.default_rng(0)
    labels = np.eye(10, dtype=np.float32)[digits.y_train]

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(STEPS):
            rows = rng.choice(len(labels), ROWS, replace=False)
            yield digits.x_train[rows], labels[rows]

    kept = list(batches())
    initial = model.get_weights()
    for x, y in kept:
        model.train_on_batch(x, y)
    plain = _accuracy(model, digits)
    model.set_weights(initial)
    state: dict[str, np.ndarray] = {}
    for number, (after, _) in enumerate(steps.in_the_clear(traced, kept)):
        state = after
        if number % 100 == 99:
            worst = max(np.abs(v).max() for v in steps.decoded(traced, state).values())
            assert worst < 2**10, number
            print(f"step {number + 1}: largest number of the state {worst:.3g}", flush=True)
    load_state(model, traced, steps.decoded(traced, state))
    ours = _accuracy(model, digits)
    print(f"accuracy {ours:.4f}, Keras {plain:.4f}")
    assert abs(ours - plain) <= 0.005


def _small() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers, stack = keras.layers, []
    for filters in (8, 16):
        stack += [layers.Conv2D(filters, 3), layers.AveragePooling2D(2), layers.ReLU()]
    stack += [layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def _accuracy(model: Any, digits: Any) -> float:
    scores = model.predict(digits.x_test, verbose=0)
    return float((scores.argmax(1) == digits.y_test).mean())


def test_loss_curve_of_two_hundred_steps() -> None:
    """Within 1 % of Keras at every step, on shares from step to step."""
    import keras

    from tercet.data import load_digits
    from tercet.frontend.training import trace_training

    digits = load_digits()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [layers.AveragePooling2D(4), layers.Flatten(), layers.Dense(16, activation="relu")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *stack, layers.Dense(10)])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    traced = trace_training(model, ROWS, 200, metrics=("loss",))
    rng = np.random.default_rng(0)
    labels = np.eye(10, dtype=np.float32)[digits.y_train]
    chosen = [rng.choice(len(labels), ROWS, replace=False) for _ in range(200)]
    batches = [(digits.x_train[rows], labels[rows]) for rows in chosen]
    for (_, sums, _), (x, y) in zip(steps.on_three(traced, batches), batches, strict=True):
        wanted = float(loss(y, model(x, training=True)))
        model.train_on_batch(x, y)
        assert abs(sums["loss"] / ROWS - wanted) <= 0.01 * wanted
