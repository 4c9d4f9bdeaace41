"""Training steps among three processes over TLS on this machine.

    python -m bench.training [--json FILE]

One SGD step of the post's CNN and of a dense network 784-128-128-10 at batch 128, and a logistic
regression on 100,000 rows of 100 columns, 10 epochs of batches of 1,000; both networks with DP-SGD,
128 rows of 60,000 on average and room for 222. Each step is a session of
its own on state that stays at the workers; prints medians, payload bytes and rounds. The control
plane takes no part.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.common import Part, Target, main, spread
from bench.parties import run_parties, slowest
from tercet.net.link import TlsTransport
from tercet.program.private import PrivateSum
from tercet.program.program import Role
from tercet.program.training import Training
from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import deal, expand
from tercet.ring import fixed
from tercet.runtime.noise import NoiseAhead
from tercet.runtime.session import Measure, Session
from tercet.runtime.training import noise_inputs, noise_words, run_step, step_values

if TYPE_CHECKING:
    from tercet.frontend.training import TracedTraining

#: Clipping to 1, z = 1.
PRIVACY = PrivateSum(1.0, 1.0, 60_000, 128)
_SEED = hashlib.sha256(b"benchmark").digest()


@dataclass(frozen=True)
class Work:
    """A traced training and the data that every step takes."""

    name: str
    training: Training
    words: dict[str, np.ndarray]
    steps: int


def measure(work: Work) -> dict[str, Any]:
    """Run steps among three processes; the slowest worker counts."""
    shares = deal_work(work)
    reports = run_parties(lambda transport, index: _party(transport, work, shares[index]))
    return slowest(reports) | {"cpu": statistics.mean(r["cpu"] for r in reports)}


def deal_work(work: Work) -> list[dict[str, Share]]:
    """Return what each worker holds of the state and the rows."""
    secret = [*work.training.inputs(Role.STATE), *work.training.inputs(Role.DATA)]
    dealt = deal({i.name: work.words[i.name] for i in secret})
    return [
        {i.name: expand(pair, i.name, work.words[i.name].shape) for i in secret} for pair in dealt
    ]


def _party(transport: TlsTransport, work: Work, shares: dict[str, Share]) -> dict[str, Any]:
    seconds, bytes_sent, rounds, cpu = [], 0, 0, 0.0
    noise = NoiseAhead()
    for number in range(work.steps + 1):
        if number == 1:
            cpu = time.process_time()
        started = time.perf_counter()
        after, took = one_step(transport, work, shares, number, noise)
        shares = {**shares, **after}
        if number:  # the first one warms up
            seconds.append(time.perf_counter() - started)
        bytes_sent, rounds = took.bytes_sent, took.rounds
    cpu = (time.process_time() - cpu) / work.steps
    logging.disable()  # what follows is the end of the links
    return {"seconds": seconds, "bytes": bytes_sent, "rounds": rounds, "cpu": cpu}


def one_step(
    transport: TlsTransport,
    work: Work,
    shares: dict[str, Share],
    number: int,
    ahead: NoiseAhead | None = None,
) -> tuple[dict[str, Share], Measure]:
    """Run a step in a session of its own; return the new state and what it took."""
    training = work.training
    data = {i.name: shares[i.name] for i in training.inputs(Role.DATA)}
    state = {i.name: shares[i.name] for i in training.inputs(Role.STATE)}
    constants = {i.name: work.words[i.name] for i in training.inputs(Role.PUBLIC)}
    nonces = [hashlib.sha256(f"{w} {number}".encode()).digest() for w in range(3)]
    session = Session(transport, (nonces[0], nonces[1], nonces[2]), training.digest())
    public = {**constants, **step_values(training, number, _SEED, _SEED)}
    noise = None
    if ahead is not None and training.privacy is not None:
        drawn = ahead.take(noise_words(training), training.privacy.share_variance)
        noise = noise_inputs(training, drawn)
    ((after, _),), took = session.run(
        [run_step(training, session.protocol(0), state, data, public, noise)], 60
    )
    session.close()
    return after, took


def works() -> list[Work]:
    """Trace what is measured."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    layers = keras.layers
    cnn = []
    for filters in (16, 32, 64):
        cnn += [layers.Conv2D(filters, 3), layers.AveragePooling2D(2), layers.ReLU()]
    dense = [layers.Dense(128, activation="relu"), layers.Dense(128, activation="relu")]
    classes, binary = "categorical_crossentropy", "binary_crossentropy"
    pixels, flat, columns = (28, 28, 1), (784,), (100,)
    end = layers.Flatten(), layers.Dense(10)
    return [
        _work("the post's CNN, batch 128", pixels, [*cnn, *end], classes, 128, 9),
        _work(
            "dense 784-128-128-10, batch 128", flat, [*dense, layers.Dense(10)], classes, 128, 15
        ),
        _work("logistic regression, batch 1,000", columns, [layers.Dense(1)], binary, 1000, 40),
        _work("the post's CNN, private", pixels, [*cnn, *end], classes, 222, 9, PRIVACY),
        _work(
            "dense 784-128-128-10, private",
            flat,
            [*dense, layers.Dense(10)],
            classes,
            222,
            15,
            PRIVACY,
        ),
    ]


def _work(
    name: str,
    shape: tuple[int, ...],
    layers: list[Any],
    loss: str,
    rows: int,
    steps: int,
    privacy: PrivateSum | None = None,
) -> Work:
    import keras

    from tercet.frontend.training import trace_training

    model = keras.Sequential([keras.Input(shape), *layers])
    made = {
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
        "binary_crossentropy": keras.losses.BinaryCrossentropy,
    }[loss](from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=made)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (rows, *shape))
    width = model.output_shape[-1]
    y = (
        np.eye(width)[rng.integers(0, width, rows)]
        if width > 1
        else rng.integers(0, 2, (rows, 1)).astype(float)
    )
    return prepare(name, trace_training(model, rows, steps, privacy=privacy), x, y, steps)


def prepare(name: str, traced: TracedTraining, x: np.ndarray, y: np.ndarray, steps: int) -> Work:
    """Return the work of a traced training on these rows."""
    arrays = {**traced.arrays, "x": x, "y": y}
    words = {
        i.name: fixed.encode(arrays[i.name], i.type.scale)
        for i in traced.training.program.inputs
        if i.role not in (Role.STEP, Role.NOISE)
    }
    return Work(name, traced.training, words, steps)


def run() -> Part:
    """Run the benchmark."""
    # JAX has threads, which the children of a fork leave alone.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    part = Part("training", "training steps among three processes over TLS")
    medians = []
    for work in works():
        took = measure(work)
        medians.append(statistics.median(took["seconds"]))
        row = {"step": work.name} | spread(took["seconds"])
        row |= {"cpu_ms_a_worker": took["cpu"] * 1e3}
        row |= {"bytes": took["bytes"], "rounds": took["rounds"]}
        part.rows.append(row)
    part.targets += [
        Target("one step of the CNN", medians[0], 0.5, "s"),
        Target("one step of the dense network", medians[1], 0.08, "s"),
        Target("logistic regression, 1,000 steps", medians[2] * 1000, 30, "s"),
    ]
    part.notes.append("the CNN's step: MP-SPDZ 4.8 s, CrypTen 2.8 s (2 parties)")
    part.notes.append("the dense network's: MP-SPDZ 0.25 s")
    return part


if __name__ == "__main__":
    main(run, __doc__)
