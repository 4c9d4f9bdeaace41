"""The model of the original post, for the demo, the tests and the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Report = Callable[[int, int, float], None]


def digits_model(seed: int | None = None) -> Any:
    """Return the post's CNN, untrained: input 28 x 28 x 1, ten logits, 23,946 parameters."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if seed is not None:
        keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack: list[Any] = [keras.Input((28, 28, 1))]
    for filters in (16, 32, 64):
        stack += [layers.Conv2D(filters, 3), layers.AveragePooling2D(2), layers.ReLU()]
    stack += [layers.Flatten(), layers.Dense(10)]
    return keras.Sequential(stack, name="digits")


def train_digits(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    batch_size: int = 16,
    seed: int = 1,
    report: Report | None = None,
) -> Any:
    """Return the post's CNN after one epoch of Adam on ``x`` (n, 28, 28, 1) and labels ``y``.

    ``report`` is called with steps done, steps in all and the loss.
    """
    model = digits_model(seed)
    import keras

    class Progress(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if report is not None:
                report(batch + 1, -(-len(x) // batch_size), float((logs or {}).get("loss", 0)))

    model.compile(
        optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0, callbacks=[Progress()])
    return model
