"""Two hospitals train one model on records that neither may see of the other.

The Wisconsin breast cancer data (569 tumours, 30 numbers each): one hospital screens and has hardly
a malign case, the other treats and has hardly a benign one. Alone, neither learns what both learn
together. Each hospital plays its part as a process of its own with its own identity would: it
contributes its records as shares, reads the terms and approves them. The model is trained on
shares and stays shared: the hospitals ask it, and nobody ever holds it.

    python examples/two_hospitals.py        # needs pip install '.[keras]' scikit-learn
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

import tercet

HOSPITALS = ("hospital-a", "hospital-b")
EPOCHS, BATCH = 25, 16


def records(seed: int = 0) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[np.ndarray, ...]]:
    """Return each hospital's (x, y) and a test set of both kinds of patients.

    Of every hundred benign tumours 97 are on record at hospital A, of every hundred malign ones 97
    at hospital B.
    """
    x, y = load_breast_cancer(return_X_y=True)  # y is 1 for benign
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    train, test = (x[:400], y[:400]), (x[400:], y[400:])
    # A public scale: ranges of the measurements, as a textbook would state them.
    low, high = x.min(0), x.max(0)
    scaled = [2 * (a - low) / (high - low) - 1 for a, _ in (train, test)]
    usual = rng.random(len(train[1])) < 0.97
    screened = (train[1] == 1) == usual
    held = [(scaled[0][mine], train[1][mine]) for mine in (screened, ~screened)]
    return held, (scaled[1], test[1])


def new_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ],
        name="tumours",
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy")
    return model


def alone(x: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, ...]) -> float:
    """Accuracy of what one data set alone teaches, in the clear at its owner."""
    model = new_model()
    model.fit(x, np.eye(2)[y], epochs=EPOCHS, batch_size=BATCH, verbose=0)
    return accuracy(np.asarray(model(test[0])), test[1])


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(1) == labels).mean())


def together(cluster: tercet.LocalCluster) -> float:
    """Accuracy of what both teach together, on shares."""
    held, test = records()
    for name, (x, y) in zip(HOSPITALS, held, strict=True):
        with tercet.connect(cluster.as_party(name)) as hospital:
            hospital.contribute("tumours", x, y, classes=2)
    coordinator = cluster.as_party("hospital-a")
    training = tercet.propose(
        new_model(), coordinator, [f"{h}/tumours" for h in HOSPITALS], name="tumours",
        epochs=EPOCHS, batch_size=BATCH, checkpoint=100,
    )  # fmt: skip
    with tercet.connect(cluster.as_party("hospital-b")) as hospital:
        agreement = hospital.approve(training.id)
    print(f"agreed: {agreement.terms.steps} steps, model released to nobody")
    training.run()
    done = training.wait(lambda p: print(f"step {p.step} of {p.steps}", end="\r"))
    for step, loss in done.metrics["loss"][:: max(1, len(done.metrics["loss"]) // 5)]:
        print(f"step {step}: loss {loss:.3f}")

    tercet.serve("tumours", coordinator, max_rows=1000)
    with tercet.connect(cluster.as_party("hospital-b")) as hospital:
        return accuracy(np.asarray(hospital.predict("hospital-a/tumours", test[0])), test[1])


def main() -> None:
    held, test = records()
    for name, (x, y) in zip(HOSPITALS, held, strict=True):
        malign = np.mean(y == 0)
        print(f"{name} alone, {len(x)} records, {malign:.0%} malign: {alone(x, y, test):.1%}")
    with tercet.LocalCluster(parties=HOSPITALS) as cluster:
        print(f"both together, on shares: {together(cluster):.1%}")


if __name__ == "__main__":
    main()
