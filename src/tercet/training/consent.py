"""What a data owner's process does before it signs: checks the promise, pays for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tercet.errors import RefusedError
from tercet.privacy import accounting
from tercet.privacy.accounting import Guarantee
from tercet.privacy.dp_sgd import Account
from tercet.privacy.events import GaussianSum
from tercet.program.private import PrivateSum
from tercet.runtime.sampling import Poisson
from tercet.service.package import package_digest
from tercet.service.parties import Agreement, Party
from tercet.service.training_terms import TrainingTerms
from tercet.training.private import check_terms
from tercet.training.programs import trace

if TYPE_CHECKING:
    import keras


#: Numbers of a seed that a signer looks at, in less than a minute. For more, finding a seed with a
#: step that samples too many rows takes decades of processor time (at a delta of 1e-5).
_MOST_NUMBERS = 1 << 33


def check_privacy(agreement: Agreement) -> None:
    """Compute again what an agreement says of its noise, if it is about any.

    Raises:
        RefusedError: if it promises too much, or its steps have too little room.
        InputError: if no such terms can be kept (``private_terms``).
    """
    terms = agreement.terms
    if isinstance(terms, TrainingTerms) and terms.privacy is not None:
        check_terms(terms.privacy, terms.steps, terms.batch_size)
        _check_seed(terms, terms.privacy.sum)


def _check_seed(terms: TrainingTerms, made: PrivateSum) -> None:
    """Refuse a seed by which a step samples more rows than it has room for.

    By chance there is none; but whoever proposes draws the seed, and may draw again.
    """
    if terms.steps * made.rows > _MOST_NUMBERS:
        return
    sampling = Poisson(terms.seed, made, terms.batch_size)
    for step in range(terms.steps):
        if (count := sampling.count(step)) > terms.batch_size:
            raise RefusedError(
                f"the seed of {terms.name!r} makes step {step + 1} sample {count} rows, and there "
                f"is room for {terms.batch_size}",
                "Do not sign; a seed drawn at random does not do that",
            )


def check_program(agreement: Agreement, model: keras.Model) -> None:
    """Trace a compiled model again: the agreement is about the training of this model and no other.

    Workers and signers know the programs by their digest alone. That a private training clips and
    adds the noise of its terms is known to whoever traces the model with the same versions. The
    initial weights are not compared: they are the proposer's, in shares.

    Raises:
        RefusedError: if it is about another one, or no training.
        UnsupportedOperation, ModelError, InputError: if the model cannot be trained so.
    """
    terms = agreement.terms
    if not isinstance(terms, TrainingTerms):
        raise RefusedError(f"{terms.name!r} is not the training of a model", "Approve it without")
    traced = trace(
        model,
        terms.batch_size,
        terms.steps,
        terms.metrics,
        terms.serving,
        terms.privacy.sum if terms.privacy is not None else None,
    )
    if package_digest(traced.package) != terms.program:
        raise RefusedError(
            f"the programs of {terms.name!r} are not those of this model",
            "Ask for the model as it was compiled when the training was proposed, and use the "
            "same versions of Tercet, Keras and JAX; if they still differ, do not sign",
        )


def pay(agreement: Agreement, account: Account, *, sampled: bool = False) -> Guarantee:
    """Enter all steps of a private training in a ledger, durably, before it is signed.

    Entered once, whatever follows: signing again costs nothing more, and a training that fails or
    is withdrawn from stays charged.

    Args:
        agreement: what is to be signed.
        account: the ledger, and the budget in it.
        sampled: charge what the model tells those who do not know which rows each step took.
            Parties and workers know it: by default nothing is taken off for sampling.

    Returns:
        What is spent with it.

    Raises:
        RefusedError: the training adds no noise, or would exceed the budget; nothing is entered.
        NotFoundError: there is no budget.
    """
    terms = agreement.terms
    if not isinstance(terms, TrainingTerms) or terms.privacy is None:
        raise RefusedError(
            f"{account.owner!r} has a privacy budget, and {terms.name!r} is no training with noise",
            "Ask for one with privacy=, or approve it without a ledger",
        )
    made = terms.privacy.sum
    planned = GaussianSum(made.noise_multiplier, terms.steps, made.rate)
    events = [planned] if sampled else accounting.without_sampling([planned])
    return account.ledger.spend(account.owner, account.model, events, run=agreement.id)


def approve(
    party: Party,
    agreement: Agreement,
    account: Account | None = None,
    *,
    sampled: bool = False,
    model: keras.Model | None = None,
) -> Agreement:
    """Sign an agreement whose promise is true, after paying for it if there is an account.

    Raises:
        As ``check`` and ``sign``.
    """
    check(agreement, model)
    return sign(party, agreement, account, sampled=sampled)


def check(agreement: Agreement, model: keras.Model | None = None) -> None:
    """Check all that a signer can: the promise and, with a model, the programs.

    Raises:
        As ``check_privacy`` and ``check_program``.
    """
    check_privacy(agreement)
    if model is not None:
        check_program(agreement, model)


def sign(
    party: Party, agreement: Agreement, account: Account | None = None, *, sampled: bool = False
) -> Agreement:
    """Pay for an agreement that was checked, if there is an account, and sign it.

    Raises:
        As ``pay`` and ``Party.approve``.
    """
    if account is not None:
        pay(agreement, account, sampled=sampled)
    return party.approve(agreement)
