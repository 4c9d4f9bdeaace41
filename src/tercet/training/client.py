"""A client that may own data: it also approves trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tercet.privacy.dp_sgd import Account
from tercet.service.client import Client as ModelClient
from tercet.service.parties import Agreement, Party
from tercet.training.consent import approve

if TYPE_CHECKING:
    import keras


class Client(ModelClient):
    """Asks models that three workers hold in shares, contributes data, approves trainings.

    Close it, or use it in a ``with`` statement. One thread at a time.
    """

    def approve(
        self,
        agreement: str,
        *,
        account: Account | None = None,
        sampled: bool = False,
        model: keras.Model | None = None,
    ) -> Agreement:
        """Sign the agreement of this digest (or its first 8 digits or more) or name.

        Read its terms first: ``Party.find``, or ``tercet agreements`` on the command line.

        Args:
            agreement: of which one.
            account: pay for a private training from this budget (see ``privacy.Ledger``) first.
            sampled: charge what the model tells those who do not know which rows each step took.
                Parties and workers know it: by default nothing is taken off for sampling.
            model: the compiled model that it says to train: it is traced again, and signed for if
                the programs are the same. Its weights do not matter: the initial ones are the
                proposer's, in shares. Without it a signer trusts whoever proposed the programs.

        Raises:
            NotFoundError: if no such agreement concerns this identity, or there is no budget.
            RefusedError: if it promises a smaller epsilon than its noise gives, gives a step too
                little room, runs other programs than the model's, would exceed the budget, does
                not ask for this signature, or somebody has withdrawn.
        """
        with Party(self._connection.cluster, self._connection.identity) as party:
            found = party.find(agreement)
            return approve(party, found, account, sampled=sampled, model=model)
