"""What a private training is asked for, and what it guarantees: its epsilons, its step's room."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tercet.errors import InputError, ProgramError, RefusedError
from tercet.privacy import accounting
from tercet.privacy.events import GaussianSum
from tercet.program.private import UNNOTICED, PrivateSum
from tercet.service.training_terms import PrivacyTerms

#: The part of delta that is left to steps that sample more rows than they have room for.
_OVERFLOW = 1e-3
_DO_NOT = "Do not sign; tell whoever proposed them"
#: Relative difference of an epsilon that another version of an accountant may make.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class DPSGD:
    """Differentially private training: clip each row's gradient, add noise to their sum.

    Attributes:
        clip_norm: bound C of the L2 norm of one row's gradient, 2^-10 to 2^10.
        noise_multiplier: z, up to 32: the noise that two of the three workers add together has
            the deviation z C. All three add 1.5 times its variance.
        delta: of the guarantee; below one over the number of rows.
    """

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("clip_norm", "noise_multiplier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} {value}", "Give a finite number above zero, such as 1.0")
        if not 0 < self.delta < 1:
            raise InputError(f"delta {self.delta}", "Give a probability, such as 1e-5")


def private_terms(asked: DPSGD, rows: int, batch: int, steps: int) -> PrivacyTerms:
    """Return what ``steps`` private steps guarantee.

    Args:
        asked: clipping norm, noise and delta.
        rows: rows of data in all.
        batch: rows that a step takes on average.
        steps: steps in all.

    Raises:
        InputError: if the arithmetic has no room for what is asked, or delta not for the
            probability that the checks of rows fail.
    """
    made = PrivateSum(float(asked.clip_norm), float(asked.noise_multiplier), rows, batch)
    try:
        made.check()
    except ProgramError as error:
        raise InputError(error.message, error.remedy) from None
    event = GaussianSum(made.noise_multiplier, steps, made.rate)
    overfull = 0.0 if batch == rows else _OVERFLOW * asked.delta
    left = asked.delta - overfull - steps * UNNOTICED
    if left < asked.delta / 2:
        raise InputError(
            f"delta {asked.delta}: as much is lost by {steps} steps whose checks may fail",
            f"Give at least {4 * steps * UNNOTICED:.1g}",
        )
    known = accounting.epsilon(accounting.without_sampling([event]), left).epsilon
    if batch == rows:
        return PrivacyTerms(made, asked.delta, known, known)
    sampled = accounting.epsilon([event], left).epsilon
    return PrivacyTerms(made, asked.delta, known, min(sampled, known))


def room(terms: PrivacyTerms, steps: int) -> int:
    """Return how many rows a step needs room for, so that sampling more costs no privacy.

    With probability t in all, some step samples more rows and leaves some out: delta grows by
    (1 + e^epsilon) t at most (Chua et al., "Scalable DP-SGD: Shuffling vs. Poisson Subsampling",
    NeurIPS 2024). t is bounded by Chernoff; it takes a thousandth of delta.
    """
    rows, batch = terms.sum.rows, terms.sum.batch
    wanted = (
        math.log(steps / (terms.delta * _OVERFLOW))
        + terms.sampled_epsilon
        + math.log1p(math.exp(-terms.sampled_epsilon))
    )
    low, high = batch, rows
    while low < high:
        middle = (low + high) // 2
        # More than ``middle`` are ``middle`` + 1; one row more than there are may be sampled.
        if _divergence(middle + 1, rows + 1, terms.sum.rate) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def check_terms(terms: PrivacyTerms, steps: int, size: int) -> None:
    """Compute all again, as somebody does who is asked to sign it.

    Args:
        terms: what is promised.
        steps: steps in all.
        size: rows that a step has room for.

    Raises:
        RefusedError: if the terms promise more than the noise gives, or a step has so little room
            that it would leave out rows for others.
        InputError: if there are no such terms (``private_terms``).
    """
    given = terms.sum
    asked = DPSGD(given.clip_norm, given.noise_multiplier, terms.delta)
    found = private_terms(asked, given.rows, given.batch, steps)
    for said, true in (
        (terms.epsilon, found.epsilon),
        (terms.sampled_epsilon, found.sampled_epsilon),
    ):
        if true > said * (1 + _TOLERANCE):
            raise RefusedError(
                f"the terms say epsilon {said:.3f}, but their noise gives {true:.3f}",
                _DO_NOT,
            )
    if size < (needed := room(terms, steps)):
        raise RefusedError(
            f"the terms give a step room for {size} rows, but their epsilon takes {needed}", _DO_NOT
        )


def _divergence(count: int, rows: int, rate: float) -> float:
    """Return n KL(count / n || rate): minus the logarithm of a bound of P(Binomial >= count)."""
    part = count / rows
    result = part * math.log(part / rate)
    if part < 1:
        result += (1 - part) * math.log((1 - part) / (1 - rate))
    return rows * result
