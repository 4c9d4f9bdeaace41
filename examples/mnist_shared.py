"""Two owners train the post's CNN on MNIST, on shares, and compare with the same run in the clear.

    python examples/mnist_shared.py [mnist.npz] [--epochs 1] [--batch 128] [--rate 0.1]

Without a file it takes the part of MNIST that ships (12,000 images).
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import tercet
from tercet.data import Digits, load_digits
from tercet.runtime.sampling import Shuffle
from tercet.service.training_terms import TrainingTerms

OWNERS = ("left", "right")


def new_model(rate: float) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *(
                layer
                for filters in (16, 32, 64)
                for layer in (
                    layers.Conv2D(filters, 3),
                    layers.AveragePooling2D(2),
                    layers.ReLU(),
                )
            ),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    return model


def right(model: keras.Model, digits: Digits) -> np.ndarray:
    """Which of the test images the model names rightly."""
    scores = model.predict(digits.x_test, batch_size=500, verbose=0)
    return scores.argmax(1) == digits.y_test


def in_the_clear(digits: Digits, terms: TrainingTerms, rate: float) -> np.ndarray:
    """What the same steps on the same rows in the same order get right, in float32."""
    model, labels = new_model(rate), np.eye(10)[digits.y_train]
    order = Shuffle(terms.seed, len(labels), terms.batch_size)
    for step in range(terms.steps):
        rows = order.rows(step)
        model.train_on_batch(digits.x_train[rows], labels[rows])
    return right(model, digits)


def on_shares(
    digits: Digits, epochs: int, batch: int, rate: float
) -> tuple[np.ndarray, float, TrainingTerms]:
    """Return what is right, seconds and terms; the model is released to measure it."""
    with tercet.LocalCluster(parties=OWNERS, quiet=True) as cluster:
        half = len(digits.x_train) // 2
        for name, part in zip(OWNERS, (slice(half), slice(half, None)), strict=True):
            with tercet.connect(cluster.as_party(name)) as owner:
                owner.contribute("digits", digits.x_train[part], digits.y_train[part], classes=10)
        model = new_model(rate)
        training = tercet.propose(
            model, cluster.as_party("left"), [f"{o}/digits" for o in OWNERS], name="digits",
            epochs=epochs, batch_size=batch, release="model", checkpoint=100,
        )  # fmt: skip
        with tercet.connect(cluster.as_party("right")) as owner:
            owner.approve(training.id)
        started = time.monotonic()
        training.run()

        def show(p: tercet.TrainingProgress) -> None:
            loss = p.metrics["loss"][-1][1] if p.metrics else float("nan")
            print(f"\rstep {p.step} of {p.steps}, loss {loss:.3f}", end="", flush=True)

        training.wait(show)
        seconds = time.monotonic() - started
        print()
        return right(training.fetch(model), digits), seconds, training.agreement.terms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1)
    options = parser.parse_args()
    digits = load_digits(options.data)
    shared, seconds, terms = on_shares(digits, options.epochs, options.batch, options.rate)
    print(f"on shares: {shared.mean():.2%}")
    plain = in_the_clear(digits, terms, options.rate)
    print(
        f"test accuracy: in the clear {plain.mean():.2%}, on shares {shared.mean():.2%}, "
        f"in {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
