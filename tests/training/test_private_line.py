"""Private linear regression over real workers, beside float64: columns of two owners, kills."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

import tercet
from tercet.runtime.sampling import Poisson
from tercet.service.cluster import LocalCluster
from tercet.service.training_terms import TrainingTerms
from tests.service.processes import children, eventually
from tests.training.killing import killed
from tests.training.linear import PARTIES, party

RATE, BATCH, EPOCHS = 0.125, 40, 60
#: No row's gradient is larger, so that nothing but the noise tells it from float64. That of all
#: three workers moves a weight by 1.22 RATE / BATCH 0.032 = 1.2e-4 a step, by 3e-4 in the end.
PRIVACY = tercet.DPSGD(32.0, 1e-3)
CLOSE = 5e-3


def model(width: int) -> Any:
    import keras

    made = keras.Sequential([keras.Input((width,)), keras.layers.Dense(1)], name="line")
    made.layers[0].set_weights([np.zeros((width, 1)), np.zeros(1)])
    made.compile(keras.optimizers.SGD(RATE), "mean_squared_error")
    return made


def data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 4))
    y = x @ np.array([[1.5], [-0.5], [0.25], [-1.0]]) + 0.5 + rng.normal(0, 0.3, (rows, 1))
    return np.round(x * 2**16) / 2**16, y


def in_the_clear(terms: TrainingTerms, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights, and the bias below them, after the agreed steps without noise, in float64."""
    assert terms.privacy is not None
    order = Poisson(terms.seed, terms.privacy.sum, terms.batch_size)
    x, w = np.c_[x, np.ones(len(x))], np.zeros((x.shape[1] + 1, 1))
    for step in range(terms.steps):
        rows = order.sampled(step)
        w -= RATE / terms.privacy.sum.batch * 2 * x[rows].T @ (x[rows] @ w - y[rows])
    return w


def learned(training: tercet.Training, width: int) -> np.ndarray:
    return np.concatenate([w.reshape(-1, 1) for w in training.fetch(model(width)).get_weights()])


def agreed(cluster: LocalCluster, names: list[str], width: int, **other: Any) -> tercet.Training:
    training = tercet.propose(
        model(width), cluster.as_party("coordinator"), names, name="line", batch_size=BATCH,
        release="model", privacy=PRIVACY, **other,
    )  # fmt: skip
    for owner in PARTIES[1:]:
        with tercet.connect(cluster.as_party(owner)) as client:
            client.approve(training.id)
    return training


def test_columns_of_two_owners() -> None:
    x, y = data(200, 1)
    names = [f"patient {n:03}" for n in range(200)]
    shuffled = np.random.default_rng(0).permutation(200)
    with LocalCluster(quiet=True, parties=PARTIES) as cluster:
        for owner, columns, labels, order in (
            ("hospital-a", x[:, :1], y, np.arange(200)),
            ("hospital-b", x[:, 1:], None, shuffled),
        ):
            with tercet.connect(cluster.as_party(owner)) as client:
                given = None if labels is None else labels[order]
                client.contribute("ward", columns[order], given, ids=[names[n] for n in order])
        both = [f"{owner}/ward" for owner in PARTIES[1:]]
        training = agreed(cluster, both, 4, epochs=EPOCHS, columns=True)
        terms = training.agreement.terms
        assert (terms.columns, terms.privacy.sum.rows) == (True, 200)
        training.run()
        assert training.wait().status == "done"
        np.testing.assert_allclose(learned(training, 4), in_the_clear(terms, x, y), atol=CLOSE)


@pytest.mark.timeout(300)
def test_workers_that_are_killed() -> None:
    """Steps are repeated with fresh masks and fresh noise, and the end is as it would have been."""
    a, b = data(120, 1), data(80, 2)
    with LocalCluster(quiet=True, parties=PARTIES) as cluster:
        for owner, (x, y) in zip(PARTIES[1:], (a, b), strict=True):
            with tercet.connect(cluster.as_party(owner)) as client:
                client.contribute("ward", x, y)
        both = [f"{owner}/ward" for owner in PARTIES[1:]]
        training = agreed(cluster, both, 4, epochs=2 * EPOCHS, checkpoint=25)
        training.run()
        agreement = training.agreement
        with party(cluster, "coordinator") as one, killed(cluster, one, agreement, [1, 0]):
            before = one.progress(agreement)
            assert before.status == "running"
            (below,) = children(cluster.pids[2])  # a data plane that dies alone
            os.kill(below, signal.SIGKILL)
            eventually(lambda: one.progress(agreement).status == "done", 200)
            assert one.progress(agreement).step == agreement.terms.steps == 10 * EPOCHS
            x, y = (np.concatenate(both) for both in zip(a, b, strict=True))
            wanted = in_the_clear(agreement.terms, x, y)
            found = learned(training, 4)
        np.testing.assert_allclose(found, wanted, atol=CLOSE)
