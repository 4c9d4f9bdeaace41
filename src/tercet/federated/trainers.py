"""Local training of Keras models: plain, or by DP-SGD with the owner's ledger in between."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import fresh_stream
from tercet.errors import InputError
from tercet.federated.update import Arrays
from tercet.privacy import accounting
from tercet.privacy.dp_sgd import Account, Step, check_model, poisson_sample
from tercet.privacy.events import GaussianSum, Relation

Foreign = Any
"""A Keras model, which has no type here."""


class KerasTrainer:
    """Some epochs of ``model.fit`` from the weights of the round.

    The optimiser starts afresh in each round. Several trainers of one process may share a model:
    what they have learnt is not in it, but in the weights that they return.

    Args:
        model: a compiled Keras model; its weights are overwritten.
        x: inputs, shape (n, ...).
        y: targets, shape (n, ...).
        epochs: passes through the data in a round.
        batch_size: rows of a step.
    """

    def __init__(
        self,
        model: Foreign,
        x: NDArray[Any],
        y: NDArray[Any],
        *,
        epochs: int = 1,
        batch_size: int = 32,
    ) -> None:
        _check(model, x, y, epochs, batch_size)
        self._model, self._x, self._y = model, x, y
        self._epochs, self._batch = epochs, batch_size
        model.optimizer.build(model.trainable_variables)
        self._fresh = [np.array(v) for v in model.optimizer.variables]

    def __call__(self, weights: Arrays, round_number: int) -> Arrays:
        """Return the weights after training from ``weights``."""
        _load(self._model, weights, self._fresh)
        self._model.fit(self._x, self._y, epochs=self._epochs, batch_size=self._batch, verbose=0)
        return _weights(self._model)


class PrivateKerasTrainer:
    """DP-SGD in each round, entered in the owner's ledger before it starts.

    One record is one row of ``x`` and ``y``. Epsilon is by PLD over all rounds, Poisson sampling.

    Args:
        model: a compiled Keras model on the JAX backend, as for ``tercet.privacy.fit``. Trainers
            may share it.
        x: inputs, shape (n, ...).
        y: targets, shape (n, ...).
        epsilon: budget of all ``rounds`` together.
        delta: well below 1 / n.
        rounds: rounds of the federation.
        epochs: expected passes through the data in a round.
        batch_size: expected size of a Poisson sample.
        clip_norm: bound of the L2 norm of one example's gradient.
        account: whose ledger pays, and for which model. It may refuse a round.

    Raises:
        InputError: arguments are out of range or do not belong together.
        ModelError: the model cannot be trained privately.
    """

    def __init__(
        self,
        model: Foreign,
        x: NDArray[Any],
        y: NDArray[Any],
        *,
        epsilon: float,
        delta: float,
        rounds: int,
        clip_norm: float,
        epochs: int = 1,
        batch_size: int = 32,
        account: Account | None = None,
        relation: Relation = Relation.ADD_OR_REMOVE,
        microbatch_size: int = 64,
    ) -> None:
        _check(model, x, y, epochs, batch_size)
        check_model(model)
        if rounds < 1 or batch_size > len(x):
            raise InputError(
                f"{rounds} rounds, a batch of {batch_size} of {len(x)} rows",
                "Give a positive number of rounds, and a batch within the data",
            )
        self._model, self._x, self._y, self._account = model, x, y, account
        rate = batch_size / len(x)
        self._steps = epochs * max(round(len(x) / batch_size), 1)
        multiplier = accounting.noise_multiplier(
            epsilon, delta, rounds * self._steps, rate, relation
        )
        self.event = GaussianSum(multiplier, self._steps, rate)
        self._step = Step(model, clip_norm, multiplier, batch_size, microbatch_size)
        self._fresh = [np.array(v) for v in model.optimizer.variables]

    def __call__(self, weights: Arrays, round_number: int) -> Arrays:
        """Return the weights after a round of DP-SGD from ``weights``.

        Raises:
            RefusedError: the account's budget would be exceeded.
            NotFoundError: the account has no budget.
        """
        if self._account is not None:
            self._account.ledger.spend(self._account.owner, self._account.model, [self.event])
        _load(self._model, weights, self._fresh)
        self._step.load()
        stream = fresh_stream()
        for _ in range(self._steps):
            chosen = poisson_sample(len(self._x), self.event.sampling_rate, stream)
            self._step(self._x[chosen], self._y[chosen], stream.words(2))
        self._step.store()
        return _weights(self._model)


def _check(model: Foreign, x: NDArray[Any], y: NDArray[Any], epochs: int, batch_size: int) -> None:
    if len(x) != len(y) or not len(x) or epochs < 1 or batch_size < 1:
        raise InputError(
            f"{len(x)} rows of x, {len(y)} of y, {epochs} epochs, batch size {batch_size}",
            "Give as many targets as inputs, and positive numbers",
        )
    if not getattr(model, "compiled", False) or not model.built:
        raise InputError("the model is not compiled or has no input shape", "Call model.compile")


def _load(model: Foreign, weights: Arrays, optimizer: Arrays) -> None:
    model.set_weights(list(weights))
    for variable, value in zip(model.optimizer.variables, optimizer, strict=True):
        variable.assign(value)


def _weights(model: Foreign) -> Arrays:
    return [np.array(w) for w in model.get_weights()]
