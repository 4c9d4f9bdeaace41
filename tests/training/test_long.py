"""2,000 steps of Adam on MNIST in the arithmetic of the workers, against Keras."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.training import steps

STEPS, ROWS = 2000, 32


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_steps_of_adam_stay_with_keras() -> None:
    import keras

    from tercet.data import load_digits
    from tercet.frontend.digits import digits_model
    from tercet.frontend.training import load_state, trace_training

    digits = load_digits()
    model = digits_model(0)
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
    for number, (after, _) in enumerate(steps.in_the_clear(traced, iter(kept))):
        state = after
        if number % 100 == 99:
            worst = max(np.abs(v).max() for v in steps.decoded(traced, state).values())
            assert worst < 2**10, number
            print(f"step {number + 1}: largest number of the state {worst:.3g}", flush=True)
    load_state(model, traced, steps.decoded(traced, state))
    ours = _accuracy(model, digits)
    print(f"accuracy {ours:.4f}, Keras {plain:.4f}")
    assert abs(ours - plain) <= 0.005


def _accuracy(model: object, digits: object) -> float:
    scores = model.predict(digits.x_test, verbose=0)  # type: ignore[attr-defined]
    return float((scores.argmax(1) == digits.y_test).mean())  # type: ignore[attr-defined]
