"""DP-SGD for Keras models on the JAX backend (Abadi et al., CCS 2016).

Each step takes a Poisson sample of the data, clips the gradient of every example, adds Gaussian
noise to the sum and lets the model's optimiser take the step. The noise is a floating-point
Gaussian from ``jax.random``, keyed afresh for each step from the operating system: usual practice
for a participant's own training, but not the exact arithmetic of ``tercet.crypto``, so that the
low bits of the weights are outside the proof (Mironov, CCS 2012).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import Stream, fresh_stream
from tercet.errors import InputError, ModelError
from tercet.privacy import accounting
from tercet.privacy.events import GaussianSum, Relation
from tercet.privacy.ledger import Ledger
from tercet.privacy.per_example import clipped_sum

Foreign = Any
"""A value of Keras or JAX, which have no types here."""

Report = Callable[[int, float, float | None], None]
"""Called after an epoch with its number (from 1), epsilon so far, and accuracy if measured."""

_MICROBATCH: Final = 64


class Account(NamedTuple):
    """Where a run is entered: a ledger, whose data, and for which model."""

    ledger: Ledger
    owner: str
    model: str


class History(NamedTuple):
    """What a run did.

    Attributes:
        noise_multiplier: deviation of the noise, in clipping norms.
        epsilon: after each epoch, by PLD, Poisson sampling.
        accuracy: on the validation data after each epoch; empty without.
        delta, relation: what epsilon refers to.
    """

    noise_multiplier: float
    epsilon: list[float]
    accuracy: list[float]
    delta: float
    relation: Relation


def fit(
    model: Foreign,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    epsilon: float,
    delta: float,
    epochs: int,
    batch_size: int,
    clip_norm: float,
    relation: Relation = Relation.ADD_OR_REMOVE,
    account: Account | None = None,
    validation: tuple[NDArray[Any], NDArray[Any]] | None = None,
    report: Report | None = None,
    microbatch_size: int = _MICROBATCH,
    stream: Stream | None = None,
) -> History:
    """Train ``model`` in place so that it is (epsilon, delta)-differentially private.

    One record is one row of ``x`` and ``y``; the number of rows counts as public. No training loss
    is reported, as that would be a release of its own.

    Args:
        model: a compiled Keras model on the JAX backend. Its optimiser gets the noisy mean
            gradient; its loss must be a sum or mean over examples.
        x: inputs, shape (n, ...).
        y: targets, shape (n, ...).
        epsilon: budget of this run, by PLD.
        delta: well below 1 / n.
        epochs: n / batch_size steps each.
        batch_size: expected size of a Poisson sample.
        clip_norm: bound of the L2 norm of one example's gradient.
        relation: the neighbouring relation.
        account: where the run is entered before it starts; it may refuse the run.
        validation: public data, on which accuracy is measured after each epoch.
        report: called after each epoch.
        microbatch_size: examples differentiated together; bounds the memory.
        stream: source of sampling and noise, for tests; a stream that somebody else can draw
            protects nobody.

    Raises:
        InputError: arguments are out of range or do not belong together.
        ModelError: the model is not compiled, not on JAX, adds losses of its own, or mixes the
            examples of a batch.
        RefusedError: the account's budget would be exceeded.
        NotFoundError: the account has no budget.
    """
    n = len(x)
    if len(y) != n or not 0 < batch_size <= n or epochs < 1 or not 0 < clip_norm < np.inf:
        raise InputError(
            f"{n} rows of x, {len(y)} of y, batch size {batch_size}, {epochs} epochs, "
            f"clipping norm {clip_norm}",
            "Give as many targets as inputs, a batch within the data, and positive numbers",
        )
    check_model(model)
    rate, steps = batch_size / n, max(round(n / batch_size), 1)
    multiplier = accounting.noise_multiplier(epsilon, delta, epochs * steps, rate, relation)
    if account is not None:
        event = GaussianSum(multiplier, epochs * steps, rate)
        account.ledger.spend(account.owner, account.model, [event])
    spent = accounting.epsilon_by_epoch(
        GaussianSum(multiplier, steps, rate), epochs, delta, relation
    )
    step = Step(model, clip_norm, multiplier, batch_size, microbatch_size)
    stream = stream or fresh_stream()
    accuracy: list[float] = []
    for epoch in range(epochs):
        for _ in range(steps):
            chosen = poisson_sample(n, rate, stream)
            step(x[chosen], y[chosen], stream.words(2))
        step.store()
        if validation is not None:
            accuracy.append(accuracy_on(model, *validation))
        if report is not None:
            report(epoch + 1, spent[epoch], accuracy[-1] if accuracy else None)
    return History(multiplier, spent, accuracy, delta, relation)


def poisson_sample(n: int, rate: float, stream: Stream) -> NDArray[np.int64]:
    """Return which of ``n`` records are in a sample, each with probability ``rate``."""
    if rate >= 1:
        return np.arange(n)
    return np.flatnonzero(stream.words(n) < np.uint64(int(rate * 2.0**64)))


class Step:
    """One step of DP-SGD, compiled for one model.

    Args:
        model: a compiled Keras model.
        clip_norm: C.
        multiplier: z; the noise on the sum has deviation z C.
        batch_size: expected size of a sample, by which the noisy sum is divided.
        microbatch_size: examples differentiated together.
    """

    def __init__(
        self,
        model: Foreign,
        clip_norm: float,
        multiplier: float,
        batch_size: int,
        microbatch_size: int,
    ) -> None:
        import jax
        import keras

        self._model = model
        self._jax = jax
        model.optimizer.build(model.trainable_variables)
        self.load()
        fixed = [jax.numpy.array(v.value) for v in model.non_trainable_variables]
        self._microbatch = microbatch_size
        # Layers such as dropout keep a seed; each example gets one of its own.
        variables = model.non_trainable_variables
        seeds = [i for i, v in enumerate(variables) if v.path.endswith("seed_generator_state")]
        loss_of = keras.losses.get(model.loss)
        jnp = jax.numpy

        def loss(weights: list[Foreign], example: tuple[Foreign, ...]) -> Foreign:
            row, target, key = example
            constants = list(fixed)
            for i in seeds:
                key, part = jax.random.split(key)
                constants[i] = jax.random.bits(part, fixed[i].shape, "uint32")
            answer, _ = model.stateless_call(weights, constants, row[None], training=True)
            return jnp.sum(loss_of(target[None], answer))

        def add(
            total: list[Foreign],
            weights: list[Foreign],
            x: Foreign,
            y: Foreign,
            mask: Foreign,
            key: Foreign,
        ) -> list[Foreign]:
            examples = (x, y, jax.random.split(key, len(mask)))
            more = clipped_sum(loss, weights, examples, mask, clip_norm)
            return [a + b for a, b in zip(total, more, strict=True)]

        def apply(
            total: list[Foreign], weights: list[Foreign], state: list[Foreign], key: Foreign
        ) -> tuple[list[Foreign], list[Foreign]]:
            keys = jax.random.split(key, len(total))
            mean = [
                (t + multiplier * clip_norm * jax.random.normal(k, t.shape, t.dtype)) / batch_size
                for t, k in zip(total, keys, strict=True)
            ]
            made: tuple[list[Foreign], list[Foreign]] = model.optimizer.stateless_apply(
                state, mean, weights
            )
            return made

        self._add, self._apply = jax.jit(add), jax.jit(apply)

    def load(self) -> None:
        """Go on from the model's present weights and its optimiser's state."""
        # Copies, here and in store(): Keras' own steps reuse the buffers of its variables.
        array = self._jax.numpy.array
        self._weights = [array(v.value) for v in self._model.trainable_variables]
        self._state = [array(v.value) for v in self._model.optimizer.variables]

    def __call__(self, x: NDArray[Any], y: NDArray[Any], words: NDArray[np.uint64]) -> None:
        """Take the step for the sample (x, y); ``words`` are two fresh random words."""
        jax = self._jax
        keys = [jax.random.wrap_key_data(np.array([w]).view(np.uint32)) for w in words]
        total = [jax.numpy.zeros_like(w) for w in self._weights]
        size = self._microbatch
        parts = jax.random.split(keys[1], max(-(-len(x) // size), 1))
        for number, start in enumerate(range(0, len(x), size)):
            rows, targets = _pad(x[start : start + size], size), _pad(y[start : start + size], size)
            mask = np.arange(start, start + size) < len(x)
            total = self._add(total, self._weights, rows, targets, mask, parts[number])
        self._weights, self._state = self._apply(total, self._weights, self._state, keys[0])

    def store(self) -> None:
        """Write weights and the optimiser's state back to the model."""
        model = self._model
        for variable, value in zip(
            [*model.trainable_variables, *model.optimizer.variables],
            [*self._weights, *self._state],
            strict=True,
        ):
            variable.assign(self._jax.numpy.array(value))


def _pad(rows: NDArray[Any], size: int) -> NDArray[Any]:
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def check_model(model: Foreign) -> None:
    """Refuse a model that DP-SGD cannot train.

    Raises:
        ModelError: it is not compiled, not on JAX, adds losses of its own, or mixes the examples
            of a batch.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise ModelError(
            f"Keras runs on {keras.backend.backend()}", "Set KERAS_BACKEND=jax before the import"
        )
    if not getattr(model, "compiled", False) or not model.built:
        raise ModelError("the model is not compiled or has no input shape", "Call model.compile")
    if model.losses:
        raise ModelError(
            "the model adds losses of its own, such as regularisers",
            "Take them out; an optimiser's weight decay does the same for weights",
        )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise ModelError(
                f"layer {layer.name!r} mixes the examples of a batch",
                "Use GroupNormalization, or set layer.trainable = False",
            )


def accuracy_on(model: Foreign, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the share of rows whose class, a number, a Keras classifier finds."""
    return float((np.argmax(model.predict(x, batch_size=1024, verbose=0), 1) == y).mean())
