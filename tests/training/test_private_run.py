"""A private training of two owners over three real workers, from the terms to the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import tercet
from tercet.cli.training import show_agreement
from tercet.errors import InputError, RefusedError
from tercet.service.cluster import LocalCluster

ROWS = 300
OWNERS = ("hospital-a", "hospital-b")


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=("coordinator", *OWNERS)) as cluster:
        for number, name in enumerate(OWNERS):
            rng = np.random.default_rng(number)
            x = rng.normal(size=(ROWS, 4))
            y = (x[:, 0] - x[:, 1] > 0).astype(int)
            with tercet.connect(cluster.as_party(name)) as client:
                client.contribute("ward", x, y, classes=2)
        yield cluster


def model() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(2)]
    made = keras.Sequential([keras.Input((4,)), *layers])
    made.compile(
        keras.optimizers.SGD(0.2, momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    return made


def propose(three: LocalCluster, name: str, **settings: Any) -> tercet.Training:
    given = {
        "privacy": tercet.DPSGD(1.0, 1.5, 1e-4),
        "epochs": 4,
        "batch_size": 60,
        "release": "model",
        **settings,
    }
    data = [f"{owner}/ward" for owner in OWNERS]
    return tercet.propose(model(), three.as_party("coordinator"), data, name=name, **given)


def test_two_owners_train_privately(
    three: LocalCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    training = propose(three, "private", checkpoint=10)
    terms = training.agreement.terms
    promised = terms.privacy
    assert terms.metrics == ()
    assert terms.steps == 40
    assert (promised.sum.rows, promised.sum.batch) == (600, 60)
    assert 60 < terms.batch_size < 130
    assert promised.sampled_epsilon < promised.epsilon
    with pytest.raises(RefusedError, match="is not signed by"):
        training.run()
    show_agreement(training.agreement, {})
    told = capsys.readouterr().out
    for said in ("epsilon", "delta 0.0001", "clipped to 1", "60 of 600", "noise multiplier 1.5"):
        assert said in " ".join(told.split()), told
    for owner in OWNERS:
        tercet.find_training(three.as_party(owner), training.id).approve()
    training.run()
    assert training.wait().status == "done"
    made = training.fetch(model())
    x = np.random.default_rng(9).normal(size=(500, 4))
    scores = np.asarray(made(x.astype(np.float32)))
    assert np.mean(scores.argmax(1) == (x[:, 0] - x[:, 1] > 0)) > 0.8
    other = propose(three, "again", checkpoint=10)
    for owner in OWNERS:
        tercet.find_training(three.as_party(owner), other.id).approve()
    other.run()
    other.wait()
    changed = other.fetch(model())
    # Another seed and other noise: another model.
    assert not np.allclose(changed.get_weights()[0], made.get_weights()[0], atol=1e-3)


def test_a_convolution_is_trained_privately(three: LocalCluster) -> None:
    """Scans of two owners: which half is brighter."""
    import keras

    def scans(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, rows)
        x = rng.uniform(0, 0.5, (rows, 8, 8, 1))
        x[np.arange(rows), :, 2 + 4 * y] += 0.5
        return x, y

    def small() -> Any:
        keras.utils.set_random_seed(1)
        k = keras.layers
        layers = [k.Conv2D(8, 3), k.AveragePooling2D(2), k.ReLU(), k.Flatten(), k.Dense(2)]
        made = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        made.compile(keras.optimizers.SGD(0.2, momentum=0.9), loss)
        return made

    for number, name in enumerate(OWNERS):
        with tercet.connect(three.as_party(name)) as client:
            client.contribute("scans", *scans(ROWS, number), classes=2)
    training = tercet.propose(
        small(), three.as_party("coordinator"), [f"{owner}/scans" for owner in OWNERS],
        name="scans", epochs=4, batch_size=60, release="model",
        privacy=tercet.DPSGD(1.0, 1.0, 1e-4),
    )  # fmt: skip
    for owner in OWNERS:
        tercet.find_training(three.as_party(owner), training.id).approve()
    training.run()
    assert training.wait().status == "done"
    x, y = scans(400, 9)
    scores = np.asarray(training.fetch(small())(x.astype(np.float32)))
    assert np.mean(scores.argmax(1) == y) > 0.85


def test_terms_that_promise_too_much_are_not_signed(three: LocalCluster) -> None:
    training = propose(three, "promises")
    terms = training.agreement.terms
    better = msgspec.structs.replace(terms.privacy, epsilon=0.5, sampled_epsilon=0.1)
    training.agreement = replace(
        training.agreement, terms=msgspec.structs.replace(terms, privacy=better)
    )
    with pytest.raises(RefusedError, match=r"the terms say epsilon 0\.500, but their noise gives"):
        training.approve()


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"batch_size": 601}, InputError, "a batch of 601 rows, and 600 rows in all"),
        ({"metrics": ("loss",)}, InputError, "without noise"),
    ],
)
def test_refused_proposals(
    three: LocalCluster, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        propose(three, "bad", **settings)


@pytest.mark.parametrize("noise", [None, 0.01])
def test_a_program_with_other_noise_than_agreed_is_refused(
    three: LocalCluster, monkeypatch: pytest.MonkeyPatch, noise: float | None
) -> None:
    from tercet.training import parties, programs

    def other(*given: Any) -> programs.TrainingPrograms:
        *rest, privacy = given
        if noise is None:
            return programs.trace(*rest, None)
        return programs.trace(*rest, msgspec.structs.replace(privacy, noise_multiplier=noise))

    monkeypatch.setattr(parties, "trace", other)
    with pytest.raises(RefusedError, match="other clipping or noise than was agreed on"):
        propose(three, "weaker")


def test_terms_with_a_metric_or_another_number_of_rows_are_refused(three: LocalCluster) -> None:
    terms = propose(three, "terms").agreement.terms
    for change, text in (
        ({"metrics": ("loss",)}, "without noise"),
        ({"privacy": msgspec.structs.replace(terms.privacy, delta=0.0)}, "delta 0"),
        (
            {
                "privacy": msgspec.structs.replace(
                    terms.privacy,
                    sum=msgspec.structs.replace(terms.privacy.sum, noise_multiplier=0.0),
                )
            },
            "noise multiplier of 0",
        ),
    ):
        with pytest.raises(RefusedError, match=text):
            msgspec.structs.replace(terms, **change).check()
