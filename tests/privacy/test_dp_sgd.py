"""DP-SGD: exact clipping, the right noise, Poisson samples, refusals before data are touched."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import pytest

from tercet.crypto.prg import Stream
from tercet.data import load_digits
from tercet.errors import InputError, ModelError, NotFoundError, RefusedError
from tercet.frontend.digits import digits_model
from tercet.privacy.accounting import epsilon
from tercet.privacy.dp_sgd import Account, Step, fit, poisson_sample
from tercet.privacy.events import GaussianSum
from tercet.privacy.ledger import Budget, Ledger
from tercet.privacy.per_example import clipped_sum

RUN = {"epsilon": 3.0, "delta": 1e-4, "epochs": 1, "batch_size": 20, "clip_norm": 1.0}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def stream(number: int = 1) -> Stream:
    return Stream(number.to_bytes(16, "big"))


def linear(learning_rate: float = 0.5, inputs: int = 4) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(3, kernel_initializer="zeros")]
    )
    model.compile(optimizer=keras.optimizers.SGD(learning_rate), loss=LOSS)
    return model


def data(n: int = 200, inputs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    words = stream(7).words(n * inputs).astype(np.float64) * 2.0**-64
    x = (words.reshape(n, inputs) - 0.5).astype(np.float32)
    return x, np.argmax(x[:, :3], 1)


def test_clipped_sums_are_those_of_one_example_after_another() -> None:
    import jax

    digits = load_digits()
    x, y = digits.x_train[:12], digits.y_train[:12]
    model = digits_model(3)
    fixed = [v.value for v in model.non_trainable_variables]
    weights = [v.value for v in model.trainable_variables]

    def loss(weights, example):
        return LOSS(example[1][None], model.stateless_call(weights, fixed, example[0][None])[0])

    mask = np.arange(12) != 5
    found = jax.jit(clipped_sum, static_argnums=0)(loss, weights, (x, y), mask, 1.65)
    expected = [np.zeros(w.shape) for w in weights]
    norms = []
    alone = jax.jit(jax.grad(loss))
    for i in np.flatnonzero(mask):
        gradient = [np.asarray(g) for g in alone(weights, (x[i], y[i]))]
        norms.append(np.sqrt(sum(float((g**2).sum()) for g in gradient)))
        expected = [
            e + g * min(1, 1.65 / norms[-1]) for e, g in zip(expected, gradient, strict=True)
        ]
    assert min(norms) < 1.65 < max(norms)  # some are clipped and some are not
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_one_example_moves_the_sum_by_the_norm_at_most() -> None:
    x = np.array([[1e15, 1, 1, 1], [np.nan, 0, 0, 0], [np.inf, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    weights = [np.ones((4,), np.float32)]
    loss = lambda w, example: (w[0] * example[0]).sum()  # noqa: E731
    for i, norm in enumerate([1.0, 0.0, 0.0, 0.0]):
        (total,) = clipped_sum(loss, weights, (x[i : i + 1],), np.array([True]), 1.0)
        assert np.linalg.norm(total) == pytest.approx(norm, abs=1e-6), i
    # 1e30 squared overflows float32: such a gradient counts as zero, it does not pass unclipped.
    (total,) = clipped_sum(loss, weights, (x[:1] * 1e15,), np.array([True]), 1.0)
    assert np.linalg.norm(total) == 0


def test_the_step_is_the_noisy_mean() -> None:
    x, y = data()
    model = linear(learning_rate=1.0, inputs=4)
    start = [v.numpy() for v in model.trainable_variables]
    quiet, noisy = (Step(model, 0.5, z, 100, 64) for z in (1e-9, 1.0))
    changes = []
    for step in (quiet, noisy):
        step(x[:130], y[:130], stream().words(2))
        step.store()
        changes.append(
            [v.numpy() - s for v, s in zip(model.trainable_variables, start, strict=True)]
        )
        for variable, value in zip(model.trainable_variables, start, strict=True):
            variable.assign(value)
    # By hand: logits are 0, so a gradient is (softmax - onehot) x; divided by 100, not by 130.
    error = np.full((130, 3), 1 / 3) - np.eye(3)[y[:130]]
    kernels = x[:130, :, None] * error[:, None, :]
    norms = np.sqrt((kernels**2).sum((1, 2)) + (error**2).sum(1))
    factor = np.minimum(1, 0.5 / norms)
    np.testing.assert_allclose(
        changes[0][0], -(kernels * factor[:, None, None]).sum(0) / 100, atol=1e-6
    )
    np.testing.assert_allclose(changes[0][1], -(error * factor[:, None]).sum(0) / 100, atol=1e-6)


def test_noise_has_the_deviation_of_the_accountant() -> None:
    model = linear(learning_rate=1.0, inputs=4000)
    step = Step(model, 0.5, 2.0, 10, 4)
    nothing = np.zeros((0, 4000), np.float32), np.zeros(0, np.int64)
    draws = []
    for number in (1, 2):
        before = model.trainable_variables[0].numpy()
        step(*nothing, stream(number).words(2))
        step.store()
        draws.append(before - model.trainable_variables[0].numpy())
    for draw in draws:  # an empty sample is noise alone: deviation z C / batch = 0.1
        assert abs(draw.std() / 0.1 - 1) < 4 / np.sqrt(2 * draw.size)
        assert abs(draw.mean()) < 4 * 0.1 / np.sqrt(draw.size)
    correlation = np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(draws[0].size)


def test_samples_are_poisson() -> None:
    source = stream()
    samples = [poisson_sample(1000, 0.05, source) for _ in range(2000)]
    sizes = np.array([len(s) for s in samples])
    assert abs(sizes.mean() - 50) < 4 * np.sqrt(47.5 / 2000)
    assert abs(sizes.var() / 47.5 - 1) < 4 * np.sqrt(2 / 2000)
    each = np.bincount(np.concatenate(samples), minlength=1000)
    assert abs(each.var() / 95 - 1) < 4 * np.sqrt(2 / 1000)
    assert len(poisson_sample(10, 1.0, source)) == 10


def test_a_run_is_entered_learns_and_keeps_its_budget(tmp_path: Path) -> None:
    x, y = data(2000)
    ledger = Ledger(tmp_path / "ledger.db")
    account = Account(ledger, "ward", "linear")
    model = linear()
    run = RUN | {"epsilon": 4.0, "epochs": 3, "batch_size": 200, "account": account}
    run["stream"] = stream()
    with pytest.raises(NotFoundError):
        fit(model, x, y, **run)
    ledger.allow("ward", "linear", Budget(5.0, 1e-4))
    told = []
    history = fit(model, x, y, **run, validation=(x, y), report=lambda *line: told.append(line))
    assert told == list(zip([1, 2, 3], history.epsilon, history.accuracy, strict=True))
    assert history.epsilon == sorted(history.epsilon)
    assert history.epsilon[-1] == pytest.approx(4.0, rel=2e-3)
    assert history.accuracy[-1] > 0.6
    (event,) = ledger.events("ward", "linear")
    assert event == GaussianSum(history.noise_multiplier, 30, 0.1)
    assert history.epsilon[-1] == pytest.approx(epsilon([event], 1e-4).epsilon, rel=2e-3)
    before = [v.numpy() for v in model.trainable_variables]
    with pytest.raises(RefusedError):
        fit(model, x, y, **run)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_dropout_draws_for_each_example() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=LOSS)
    start = [v.numpy() for v in model.trainable_variables]
    step = Step(model, 100.0, 1e-9, 64, 64)
    x = np.ones((64, 4), np.float32)
    step(x, np.zeros(64, np.int64), stream().words(2))
    step.store()
    change = model.trainable_variables[0].numpy() - start[0]
    # One mask for all 64 would leave whole rows at zero or all equal.
    rows = np.abs(change).sum(1)
    assert (rows > 0).all()
    assert len(np.unique(np.round(rows, 5))) > 1


def test_models_that_cannot_be_private_are_refused() -> None:
    x, y = data()
    mixing = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    with pytest.raises(ModelError, match="not compiled"):
        fit(mixing, x, y, **RUN)
    mixing.compile(optimizer="sgd", loss=LOSS)
    with pytest.raises(ModelError, match="mixes the examples"):
        fit(mixing, x, y, **RUN)
    penalised = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer="l2")]
    )
    penalised.compile(optimizer="sgd", loss=LOSS)
    with pytest.raises(ModelError, match="losses of its own"):
        fit(penalised, x, y, **RUN)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"batch_size": 201},
        {"epochs": 0},
        {"clip_norm": 0.0},
        {"clip_norm": np.inf},
        {"epsilon": 0.0},
        {"delta": 0.0},
    ],
)
def test_arguments_out_of_range(change: dict[str, float]) -> None:
    x, y = data()
    with pytest.raises(InputError):
        fit(linear(), x, y, **RUN | change)


def test_as_many_targets_as_inputs() -> None:
    x, y = data()
    with pytest.raises(InputError):
        fit(linear(), x, y[:-1], **RUN)
