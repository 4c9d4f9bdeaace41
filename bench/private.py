"""What privacy costs: a step of DP-SGD beside Keras' own, and discrete Gaussian noise.

    python -m bench.private [--json FILE]

The post's CNN, batch 256, SGD. The plain step is ``train_on_batch``; both steps alternate, so that
a machine that changes its pace slows both.
"""

from __future__ import annotations

import os
import statistics

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras

from bench.common import Part, Target, main, spread, times
from tercet.crypto.discrete_gaussian import discrete_gaussian
from tercet.crypto.prg import fresh_stream
from tercet.data import load_digits
from tercet.frontend.digits import digits_model
from tercet.privacy.dp_sgd import Step

BATCH = 256
REPEATS = 30
SAMPLES = 10**6


def run() -> Part:
    """Run the benchmark."""
    part = Part("private", "DP-SGD and noise")
    digits, stream = load_digits(), fresh_stream()
    x, y = digits.x_train[:BATCH], digits.y_train[:BATCH]

    def compiled() -> keras.Model:
        model = digits_model(1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
        return model

    plain, step = compiled(), Step(compiled(), 1.0, 1.0, BATCH, 64)

    def private() -> None:
        step(x, y, stream.words(2))
        jax.block_until_ready(step._weights)

    seconds: dict[str, list[float]] = {"plain": [], "private": []}
    for repeat in range(REPEATS):
        warm = 2 if repeat == 0 else 0
        seconds["plain"] += times(lambda: plain.train_on_batch(x, y), 1, warm)
        seconds["private"] += times(private, 1, warm)
    for name, taken in seconds.items():
        part.rows.append({"what": f"{name} step, batch {BATCH}", **spread(taken)})
    ratio = statistics.median(seconds["private"]) / statistics.median(seconds["plain"])
    part.targets.append(Target("private step over plain step", ratio, 2, "times"))
    noise = times(lambda: discrete_gaussian(SAMPLES, 2**40, stream.words), 3, 1)
    part.rows.append({"what": f"{SAMPLES:,} discrete Gaussians", **spread(noise)})
    part.targets.append(Target(f"{SAMPLES:,} discrete Gaussians", statistics.median(noise), 2, "s"))
    return part


if __name__ == "__main__":
    main(run, __doc__)
