"""The audit: attacks succeed on a model that remembers, and fail on a private one."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import pytest

from tercet.crypto.prg import Stream
from tercet.data import load_digits
from tercet.errors import InputError
from tercet.privacy import fit
from tercet.privacy.audit.canary import epsilon_from_guesses, lower_bound, p_value, toss
from tercet.privacy.audit.inversion import invert
from tercet.privacy.audit.membership import confidence, likelihood_ratio, roc

COUNT = 400


def build(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10),
        ],
        name="remembers<all>",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


@pytest.fixture(scope="module")
def records() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Noisy labels: what is right for these records can only be remembered."""
    digits = load_digits()
    x, y = digits.x_train[: 3 * COUNT], digits.y_train[: 3 * COUNT].copy()
    words = Stream(bytes(16)).words(3 * COUNT)
    noisy = words % np.uint64(5) == 0
    y[noisy] = (words[noisy] >> np.uint64(8)) % np.uint64(10)
    names = ("members", "others", "reference")
    return {n: (x[i * COUNT :][:COUNT], y[i * COUNT :][:COUNT]) for i, n in enumerate(names)}


@pytest.fixture(scope="module")
def overfitted(records) -> keras.Model:
    model = build(1)
    model.fit(*records["members"], batch_size=32, epochs=40, verbose=0)
    return model


def scores(model, records) -> tuple[np.ndarray, np.ndarray]:
    return tuple(confidence(model, *records[name]) for name in ("members", "others"))


def test_a_model_that_remembers_is_found_out(overfitted, records) -> None:
    members, others = scores(overfitted, records)
    curve = roc(members, others)
    assert curve.auc > 0.6
    # With members drawn by coins (here: by position in a shuffled set) epsilon is above 0.
    assert lower_bound(members, others, 1e-5).epsilon > 0.2
    references = []
    for seed in (2, 3):
        model = build(seed)
        model.fit(*records["reference"], batch_size=32, epochs=40, verbose=0)
        references.append(np.concatenate(scores(model, records)))
    ratio = likelihood_ratio(np.concatenate([members, others]), references)
    assert roc(ratio[:COUNT], ratio[COUNT:]).auc > curve.auc - 0.02
    assert roc(ratio[:COUNT], ratio[COUNT:]).auc > 0.6


def test_a_private_model_is_not(records) -> None:
    model = build(1)
    fit(
        model, *records["members"], epsilon=0.5, delta=1e-4, epochs=5, batch_size=100,
        clip_norm=1.0, stream=Stream(bytes(16)),
    )  # fmt: skip
    members, others = scores(model, records)
    assert abs(roc(members, others).auc - 0.5) < 0.07
    assert lower_bound(members, others, 1e-4).epsilon <= 0.5


def test_curves() -> None:
    perfect = roc(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    assert (perfect.auc, perfect.tpr_at(0.0)) == (1.0, 1.0)
    assert roc(np.zeros(5), np.zeros(7)).auc == 0.5  # ties tell nothing
    mixed = roc(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    assert (mixed.auc, mixed.tpr_at(0.0), mixed.tpr_at(0.5)) == (0.75, 0.5, 1.0)
    for bad in (np.zeros(0), np.array([math.nan])):
        with pytest.raises(InputError):
            roc(bad, np.zeros(3))


def test_guesses_all_right_bound_epsilon_by_a_closed_form() -> None:
    # 100 right of 100: success^100 = 0.05.
    success = 0.05**0.01
    expected = math.log(success / (1 - success))
    assert epsilon_from_guesses(100, 100, 100, 0.0, 0.05) == pytest.approx(expected, abs=1e-3)
    assert epsilon_from_guesses(100, 100, 100, 1e-3, 0.05) < expected
    assert epsilon_from_guesses(100, 100, 50, 0.0, 0.05) == 0


def test_p_value_with_delta() -> None:
    # One guess of one canary, epsilon 0: right by chance 1/2; delta adds 2 m delta alpha, where
    # alpha is the mass just below, 1/2.
    assert p_value(1, 1, 1, 0.0, 0.01) == pytest.approx(0.5 + 2 * 0.01 * 0.5)
    assert p_value(10, 4, 0, 1.0, 0.0) == pytest.approx(1)


def test_the_bound_is_seldom_above_the_truth() -> None:
    # Scores of a mechanism of epsilon 1 on each coin: randomised response.
    source, wrong, shown = Stream(bytes(16)), 0, []
    for _ in range(60):
        coins = toss(400, source)
        truthful = source.words(400) * 2.0**-64 < 1 / (1 + math.exp(-1))
        told = np.where(truthful, coins, ~coins) + source.words(400) * 2.0**-66
        found = lower_bound(told[coins], told[~coins], 0.0)
        wrong += found.epsilon > 1
        shown.append(found.epsilon)
    assert wrong <= 7  # 3 are expected
    assert np.median(shown) > 0.4


def test_inversion_finds_the_class(overfitted) -> None:
    images = invert(overfitted, 10, steps=60)
    assert images.shape == (10, 28, 28, 1)
    assert images.min() >= 0 <= images.max() <= 1
    assert (overfitted.predict(images, verbose=0).argmax(1) == np.arange(10)).all()


def test_command_line_and_report(overfitted, records, tmp_path: Path) -> None:
    overfitted.save(tmp_path / "model.keras")
    for name in ("members", "others"):
        x, y = records[name]
        np.savez(tmp_path / name, x=x, y=y)
    command = [
        sys.executable, "-m", "tercet.cli", "audit", "model.keras", "--members", "members.npz",
        "--non-members", "others.npz", "--epsilon", "0.01", "--output", "out.html",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "epsilon is at least" in done.stdout
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"https?://|<script", page)
    assert "remembers&lt;all&gt;" in page
    assert "The claim is refuted." in page
    (tmp_path / "members.npz").write_bytes(b"no")
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot read members.npz")


def test_labels_that_are_no_classes(overfitted, records) -> None:
    x, y = records["members"]
    for bad in (y + 10, y - 20, y[:-1], y.astype(float)):
        with pytest.raises(InputError):
            confidence(overfitted, x, bad)
    with pytest.raises(InputError):
        likelihood_ratio(np.zeros(3), [np.zeros(3)])
