"""A participant: trains on its own data, charges its own ledger, contributes its update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.crypto.prg import fresh
from tercet.errors import InputError, RefusedError
from tercet.federated.aggregation import Receipt, Session
from tercet.federated.consent import Consent
from tercet.federated.update import Arrays, Vector, change
from tercet.privacy.dp_sgd import Account

Trainer: TypeAlias = Callable[[Arrays, int], Arrays]
"""Local training: takes the weights of the round and its number, returns weights after training.

``KerasTrainer`` and ``PrivateKerasTrainer`` are two; for another framework, write one."""

_COIN_BYTES: Final = 8


class Participant:
    """One data owner. Its data, its ledger and its update never leave its process.

    Args:
        identity: by which the workers know it.
        trainer: trains on its data.
        minimum, known, account: on what conditions it takes part; see ``Consent``. A round beyond
            the account's budget is refused here, before anything is trained.
        weight: above 0 to 1, its weight in a weighted mean: its examples over those of the largest.
        rate: probability with which it takes part in a round, drawn anew by itself in each (Poisson
            sampling); everybody's, and that of the run (``train``), should be the same.
    """

    def __init__(
        self,
        identity: Identity,
        trainer: Trainer,
        *,
        minimum: int = 2,
        known: Sequence[PublicIdentity] | None = None,
        account: Account | None = None,
        weight: float = 1.0,
        rate: float = 1.0,
    ) -> None:
        if not 0 < weight <= 1:
            raise InputError(
                f"a weight of {weight}", "Give a number above 0, at most 1: of the largest it is 1"
            )
        if not 0 < rate <= 1:
            raise InputError(f"a rate of {rate}", "Give a probability: above 0, at most 1")
        self.identity = identity
        self.consent = Consent(identity, minimum=minimum, known=known, account=account)
        self._trainer = trainer
        self._weight = weight
        self._rate = rate

    def take_part(self, number: int, weights: Arrays, session: Session) -> Receipt:
        """Take part in round ``number``, counted from 1.

        Raises:
            RefusedError: by its budget, by the workers, or as it has not drawn this round.
            InputError: training failed.
            TercetError: the workers did not take the update.
        """
        return self.contribute(number, self.learn(number, weights, session), session)

    def learn(self, number: int, weights: Arrays, session: Session) -> Vector:
        """Pay for the round, train, and return what changed: the first half of ``take_part``."""
        if int.from_bytes(fresh(_COIN_BYTES)) >= self._rate * 2 ** (8 * _COIN_BYTES):
            raise RefusedError("not drawn", "It takes part in other rounds")
        self.consent.pay(session.terms)
        return change(weights, self._trainer(weights, number))

    def contribute(self, number: int, update: Vector, session: Session) -> Receipt:
        """Send the update to the workers: the second half of ``take_part``."""
        weight = self._weight if session.terms.weighted else 1.0
        return session.contribute(number - 1, update, weight)
