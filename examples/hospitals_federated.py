"""Ten hospitals train a digit classifier; data, updates and ledgers stay with each of them.

    python examples/hospitals_federated.py [--data mnist.npz] [--hospitals 10] [--epsilon 8]

No two hospitals have the same mixture of digits. The model is trained three times from the same
start: by plain federated averaging, in which a server sees every update; by secure aggregation on
three workers; and with user-level noise on the sums as well, each hospital keeping a ledger. The
noise covers all that one hospital holds, so that it is the number of hospitals that decides what
it costs: try --hospitals 100.

The classifier is linear, on few features, since noise of a given privacy grows with the length of
an update: projections onto the principal components of 500 test images that count as public,
without their labels. The other test images measure the accuracy.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from tercet import LocalCluster
from tercet.data import load_digits
from tercet.federated import KerasTrainer, Participant, UserLevel, train
from tercet.privacy import Account, Budget, Ledger

PUBLIC = 500


def features(images: np.ndarray, public: np.ndarray, count: int) -> np.ndarray:
    """Project onto ``count`` principal components of ``public``, half whitened; scale to norm 3."""
    flat, known = (a.reshape(len(a), -1).astype(np.float64) for a in (images, public))
    mean = known.mean(0)
    _, sizes, components = np.linalg.svd(known - mean, full_matrices=False)
    made = (flat - mean) @ components[:count].T / np.sqrt(sizes[:count])
    return (3 * made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def mixtures(labels: np.ndarray, hospitals: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal the examples out: shares of each digit are drawn from Dirichlet(0.5)."""
    dealt: list[list[int]] = [[] for _ in range(hospitals)]
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.cumsum(rng.dirichlet(np.full(hospitals, 0.5)))[:-1] * len(rows)
        for mine, part in zip(dealt, np.split(rows, cuts.astype(int)), strict=True):
            mine.extend(part)
    # Nobody goes without: an example at random for whoever has none.
    return [np.array(mine or [rng.integers(len(labels))]) for mine in dealt]


def classifier(inputs: int, learning_rate: float) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(10, kernel_initializer="zeros")],
        name="digits",
    )
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def plain(model: keras.Model, trainers: Sequence[KerasTrainer], rounds: int) -> None:
    """Federated averaging in the clear."""
    weights = model.get_weights()
    for number in range(1, rounds + 1):
        trained = [trainer(weights, number) for trainer in trainers]
        weights = [np.mean(parts, 0) for parts in zip(*trained, strict=True)]
    model.set_weights(weights)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run all three; return their accuracies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a full mnist.npz; the shipped part by default")
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epsilon", type=float, default=8.0, help="user-level, of all rounds")
    parser.add_argument("--delta", type=float, default=1e-3)
    parser.add_argument("--clip-norm", type=float, default=0.5)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("hospitals.html"), help=".png or .html")
    options = parser.parse_args(arguments)

    digits, rng = load_digits(options.data), np.random.default_rng(options.seed)
    public, rest = digits.x_test[:PUBLIC], slice(PUBLIC, None)
    x = features(digits.x_train, public, options.features)
    validation = features(digits.x_test[rest], public, options.features), digits.y_test[rest]
    dealt = mixtures(digits.y_train, options.hospitals, rng)
    names = [f"hospital-{i}" for i in range(options.hospitals)]
    keras.utils.set_random_seed(options.seed)
    model = classifier(options.features, options.learning_rate)
    start = model.get_weights()
    trainers = [KerasTrainer(model, x[mine], digits.y_train[mine]) for mine in dealt]
    found: dict[str, float] = {}

    def remember(what: str) -> None:
        scores = model.predict(validation[0], batch_size=4096, verbose=0)
        found[what] = float((scores.argmax(1) == validation[1]).mean())
        print(f"{what}: {found[what]:.1%} of {len(validation[1])} test images\n", flush=True)
        model.set_weights(start)

    began = time.perf_counter()
    plain(model, trainers, options.rounds)
    remember("plain federated averaging")
    with LocalCluster(parties=names) as cluster, tempfile.TemporaryDirectory() as folder:
        identities = [cluster.as_party(name).owner for name in names]
        # Updates are shorter than 50: this norm clips nothing.
        participants = [Participant(i, t) for i, t in zip(identities, trainers, strict=True)]
        train(
            model, participants, cluster, rounds=options.rounds, clip_norm=50.0,
            validation=validation,
        )  # fmt: skip
        remember("secure aggregation")
        privacy = UserLevel(options.epsilon, options.delta)
        guarded = []
        for identity, trainer in zip(identities, trainers, strict=True):
            # In truth each hospital's ledger is a file of its own, on its own machine.
            ledger = Ledger(Path(folder) / f"{identity.name}.db")
            ledger.allow(identity.name, "digits", Budget(options.epsilon, options.delta))
            account = Account(ledger, identity.name, "digits")
            guarded.append(Participant(identity, trainer, account=account, minimum=len(names) // 2))
        history = train(
            model, guarded, cluster, rounds=options.rounds, clip_norm=options.clip_norm,
            minimum=max(len(names) // 2, 2), privacy=privacy, validation=validation,
        )  # fmt: skip
        remember("secure aggregation and user-level noise")
        print(f"each hospital has spent {ledger.spent(identity.name, 'digits')}")
    history.plot(options.plot)
    print(f"{options.plot}: accuracy and epsilon by round")
    print(f"{time.perf_counter() - began:.0f} s in all")
    return found


if __name__ == "__main__":
    main()
