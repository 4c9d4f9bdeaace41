"""What a data owner's process looks at before it signs, and pays before it trains."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import RefusedError
from tercet.federated.noise import event_of
from tercet.privacy.dp_sgd import Account
from tercet.service.aggregation_terms import AggregationTerms


class Consent:
    """The conditions on which a data owner takes part.

    Args:
        identity: by which the workers know it.
        minimum: least number of contributors that it accepts: the sum of so many is opened.
        known: the participants that it accepts; strangers could all be one, which makes the minimum
            worthless. Everybody, if None.
        account: the ledger that pays for user-level noise, and for which model. Without one,
            nothing is charged.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        minimum: int = 2,
        known: Sequence[PublicIdentity] | None = None,
        account: Account | None = None,
    ) -> None:
        self.identity = identity
        self._minimum = minimum
        self._known = None if known is None else {identity.fingerprint for identity in known}
        self._account = account

    def check(self, terms: AggregationTerms) -> None:
        """Look at an agreement before it is signed.

        Raises:
            RefusedError: it opens sums of fewer contributors than this owner accepts, names
                strangers, or has no noise although a budget is to be kept.
        """
        name = self.identity.name
        if terms.minimum < self._minimum:
            raise RefusedError(
                f"{terms.name!r} opens sums of {terms.minimum}, and {name} asks for "
                f"{self._minimum} contributors",
                "Raise the minimum of the run",
            )
        mine = self.identity.fingerprint
        if self._known is not None and set(terms.participants) - self._known - {mine}:
            raise RefusedError(
                f"{terms.name!r} names participants whom {name} does not know",
                "Compare fingerprints with them, and add them to those it knows",
            )
        if self._account is not None and not terms.variance:
            raise RefusedError(
                f"{name} has a privacy budget, and the sums of {terms.name!r} have no noise",
                "Run with user-level noise, or take part without an account",
            )

    def pay(self, terms: AggregationTerms) -> None:
        """Enter one round in the ledger, before anything is trained.

        Whether what is trained then arrives changes nothing of what was spent.

        Raises:
            RefusedError: the budget would be exceeded.
            NotFoundError: there is no budget.
        """
        event = event_of(terms)
        if self._account is not None and event is not None:
            self._account.ledger.spend(self._account.owner, self._account.model, [event])
