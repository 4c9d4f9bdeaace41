"""SGD steps with Tercet: the work for every system, and the time that Tercet takes for it.

    python -m bench.peers.tercet_training WORK.npz --export    # fresh weights, rows of MNIST
    python -m bench.peers.tercet_training WORK.npz

Three processes over TLS on weights and rows that are shared already, without the control plane, as
the peers; each step is a session with keys of its own.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from bench.parties import run_parties, slowest
from bench.peers.common import report, wire_bytes
from bench.peers.work import (
    RATE,
    REPEATS,
    ROWS,
    Work,
    load_works,
    names_of,
    save_works,
    step_row,
)
from bench.training import deal_work, one_step, prepare
from tercet.data import load_digits
from tercet.frontend.digits import digits_model
from tercet.frontend.training import TracedTraining, load_state, trace_training
from tercet.net.link import TlsTransport
from tercet.program.program import Role
from tercet.ring import fixed


def network(name: str) -> keras.Model:
    """Return a compiled network with fresh weights."""
    keras.utils.set_random_seed(1)
    if name == "cnn":
        model = digits_model()
    else:
        layers = keras.layers
        hidden = [layers.Dense(128, activation="relu") for _ in range(2)]
        model = keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])
    model.compile(
        keras.optimizers.SGD(RATE), keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    return model


def export(path: str) -> None:
    """Do each step in float32 and save what every system does."""
    digits = load_digits()
    works = []
    for name in REPEATS:
        model = network(name)
        # As every system may hold them, so that all start from the same.
        model.set_weights([np.rint(w * 2.0**24) / 2.0**24 for w in model.get_weights()])
        x = digits.x_train[:ROWS].reshape(ROWS, *model.input_shape[1:]).astype(np.float32)
        y = np.eye(10, dtype=np.float32)[digits.y_train[:ROWS]]
        before = dict(zip(names_of(name), model.get_weights(), strict=True))
        model.train_on_batch(x, y)
        after = dict(zip(names_of(name), model.get_weights(), strict=True))
        works.append(Work(name, before, x, y, after))
    save_works(path, works)


def run(work: Work) -> dict[str, Any]:
    """Time Tercet's steps and compare the weights after each."""
    model = network(work.name)
    model.set_weights([work.weights[n] for n in names_of(work.name)])
    traced = trace_training(model, len(work.x), 1)
    given = prepare(work.name, traced, work.x, work.y, REPEATS[work.name])
    shares = deal_work(given)
    with tempfile.TemporaryDirectory() as folder:

        def party(transport: TlsTransport, index: int) -> dict[str, Any]:
            seconds, wire, states, count, rounds = [], [], {}, 0, 0
            for number in range(given.steps + 1):
                before, started = wire_bytes(), time.perf_counter()
                after, took = one_step(transport, given, shares[index], number)
                crossed = wire_bytes()
                if number:  # the first one warms up
                    seconds.append(time.perf_counter() - started)
                    if before is not None and crossed is not None:
                        wire.append(crossed - before)
                count, rounds = took.bytes_sent, took.rounds
                # The first summand of each worker is all that it takes to put them together.
                states |= {f"{number}/{name}": s.parts[0] for name, s in after.items()}
            np.savez(f"{folder}/{index}.npz", **states)
            logging.disable()  # what follows is the end of the links
            return {"seconds": seconds, "bytes": count, "rounds": rounds, "wire": wire}

        reports = run_parties(party)
        errors = []
        for number in range(given.steps + 1):
            load_state(model, traced, _opened(traced, folder, number))
            got = dict(zip(names_of(work.name), model.get_weights(), strict=True))
            errors.append(work.errors(got))
    took = slowest(reports)
    return step_row(work.name, took["seconds"], reports[0]["wire"], took["rounds"], errors)


def _opened(traced: TracedTraining, folder: str, number: int) -> dict[str, np.ndarray]:
    """Return the state after a step, from what the three workers wrote."""
    parts = [np.load(f"{folder}/{index}.npz") for index in range(3)]
    state = {}
    for given in traced.training.inputs(Role.STATE):
        first, *others = (part[f"{number}/{given.name}"] for part in parts)
        state[given.name] = fixed.decode(sum(others, first), given.type.scale)
    return state


def main() -> None:
    """Export the work or measure Tercet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--export", action="store_true")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.path)
        return
    # JAX has threads, which the children of a fork leave alone.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    report([run(work) for work in load_works(arguments.path)])


if __name__ == "__main__":
    main()
