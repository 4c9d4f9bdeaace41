"""Linear regression as a step program made by hand, and parties that train it on three workers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from tercet.crypto.prg import fresh
from tercet.program.builder import Builder
from tercet.program.program import Program, Role, encode
from tercet.program.training import Kind, StepInput, Training, encode_training
from tercet.ring import fixed
from tercet.runtime.sampling import Shuffle
from tercet.service.cluster import Cluster, LocalCluster
from tercet.service.contributor import Contributor
from tercet.service.messages import Deposited
from tercet.service.package import Package, package_digest
from tercet.service.parties import Agreement
from tercet.service.training_messages import Tensor
from tercet.service.training_party import TrainingParty
from tercet.service.training_terms import Reference, TrainingTerms

WIDTH, BATCH = 3, 8
RATE = 0.125
PARTIES = ("coordinator", "hospital-a", "hospital-b")


def step_program(width: int = WIDTH) -> Training:
    """w <- w - rate * x^T (x w - y) / batch, and the sum of squared errors."""
    b = Builder(16)
    w = b.input("w", Role.STATE, (width, 1))
    x = b.input("x", Role.DATA, (BATCH, width))
    y = b.input("y", Role.DATA, (BATCH, 1))
    rate = b.input("rate", Role.STEP, ())
    error = b.emit("sub", b.emit("truncate", b.emit("matmul", x, w), shift=16), y)
    turned = b.emit("transpose", x, axes=(1, 0))
    slope = b.emit("truncate", b.emit("matmul", turned, error), shift=16)
    factor = b.emit("broadcast", rate, shape=(width, 1))
    move = b.emit("truncate", b.emit("mul", slope, factor), shift=16)
    after = b.emit("sub", w, move)
    squares = b.emit("truncate", b.emit("mul", error, error), shift=16)
    loss = b.emit("reshare", b.emit("sum", squares, axes=(0,)))
    return Training(
        b.finish(after, loss), ("loss",), (StepInput("rate", Kind.TABLE, (RATE / BATCH,)),)
    )


def prediction(width: int = WIDTH) -> Program:
    b = Builder(16)
    x = b.input("input", Role.INPUT, (-1, width))
    w = b.input("weights", Role.WEIGHT, (width, 1))
    product = b.emit("truncate", b.emit("matmul", x, w), shift=16)
    return b.finish(b.emit("reshare", product))


def package(training: Training | None = None, serving: bool = True) -> bytes:
    return msgspec.msgpack.encode(
        Package(
            encode_training(training or step_program()),
            serving=encode(prediction()) if serving else b"",
            weights={"weights": "w"} if serving else {},
        )
    )


def data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, WIDTH))
    return x, x @ np.array([[1.5], [-0.5], [0.25]])


def contribute(cluster: Cluster, name: str, *arrays: np.ndarray, **other: object) -> Deposited:
    with Contributor(cluster.config, cluster.owner) as owner:
        return owner.contribute(name, *arrays, **{"scale": 16, **other})  # type: ignore[arg-type]


def initial(cluster: Cluster, name: str) -> Deposited:
    with Contributor(cluster.config, cluster.owner) as owner:
        words = {"w": fixed.encode(np.zeros((WIDTH, 1)), 16)}
        return owner.deposit(name, words, {"w": Tensor((WIDTH, 1), 16)})


def reference(told: Deposited) -> Reference:
    return Reference(told.contribution.id, told.digest, told.owner_key, told.full_name)


def terms(
    cluster: LocalCluster, name: str, states: Deposited, given: Sequence[Deposited], **other: object
) -> TrainingTerms:
    epochs = int(other.get("epochs", 1))  # type: ignore[call-overload]
    rows = sum(g.contribution.rows for g in given)
    if other.get("columns"):
        rows = given[0].contribution.rows
    signers = {states.owner_key: None, **{g.owner_key: None for g in given}}
    fields = {
        "name": name,
        "workers": tuple(w.identity.fingerprint for w in cluster.config.worker),
        "signers": tuple(signers),
        "program": package_digest(package()),
        "states": reference(states),
        "data": tuple(map(reference, given)),
        "epochs": epochs,
        "steps": epochs * (rows // BATCH),
        "batch_size": BATCH,
        "seed": fresh(32),
        "checkpoint": 10,
        "metrics": ("loss",),
        "owner": cluster.as_party("coordinator").owner.fingerprint,
        "serving": True,
        "receivers": (cluster.as_party("coordinator").owner.fingerprint,),
        "weights": ("w",),
    }
    return TrainingTerms(**{**fields, **other})  # type: ignore[arg-type]


def party(cluster: LocalCluster, name: str) -> TrainingParty:
    return TrainingParty(cluster.config, cluster.as_party(name).owner)


def approve(cluster: LocalCluster, agreement: Agreement, names: Sequence[str] = PARTIES) -> None:
    for name in names:
        with party(cluster, name) as one:
            one.approve(one.find(agreement.id))


def in_the_clear(
    agreed: TrainingTerms, x: np.ndarray, y: np.ndarray, steps: int | None = None
) -> np.ndarray:
    """The weights after the agreed steps, in float64, in the public order of the rows."""
    order, w = Shuffle(agreed.seed, len(x), BATCH), np.zeros((x.shape[1], 1))
    for step in range(agreed.steps if steps is None else steps):
        rows = order.rows(step)
        w -= RATE / BATCH * x[rows].T @ (x[rows] @ w - y[rows])
    return w
