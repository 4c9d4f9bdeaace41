"""A lower bound on epsilon from one training run (Steinke, Nasr, Jagielski, NeurIPS 2023).

Each canary is put into the training data or left out by a fair coin of its own. Whoever guesses
the coins from the model better than a mechanism with epsilon allows has shown that epsilon to be
exceeded.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import Stream, fresh_stream
from tercet.errors import InputError

# Shares of the canaries guessed on, half at each end. Which is best is not known before, so each
# is tested at its part of the significance.
_SHARES: Final = (0.02, 0.1, 0.5)
_LARGEST: Final = 30.0


class LowerBound(NamedTuple):
    """What a one-run audit shows.

    Attributes:
        epsilon: the run is not (epsilon', delta)-private for any epsilon' below this, with the
            confidence given; 0 shows nothing.
        delta: of the claim.
        confidence: 1 - significance.
        canaries: how many there were.
        guesses, correct: of the guess that gave the bound.
    """

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int


def toss(n: int, stream: Stream | None = None) -> NDArray[np.bool_]:
    """Return for each of ``n`` canaries whether it goes into the training data."""
    return ((stream or fresh_stream()).words(n) >> np.uint64(63)).astype(np.bool_)


def lower_bound(
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    delta: float,
    significance: float = 0.05,
) -> LowerBound:
    """Return the lower bound on epsilon that the scores of the canaries give.

    Args:
        members: scores, higher for members, of the canaries that were put in.
        others: scores of those left out.
        delta: of the claim.
        significance: chance to state too high a bound.

    Raises:
        InputError: there are no canaries of a kind.
    """
    if not len(members) or not len(others):
        raise InputError("canaries of one kind only", "Put each in by a fair coin of its own")
    scores = np.concatenate([members, others])
    truth = np.concatenate([np.ones(len(members), bool), np.zeros(len(others), bool)])
    # Equal scores, in an order that does not know the truth.
    mixed = np.argsort(Stream(bytes(16)).words(len(scores)))
    truth = truth[mixed][np.argsort(scores[mixed], kind="stable")]
    best = LowerBound(0.0, delta, 1 - significance, len(scores), 0, 0)
    for share in _SHARES:
        half = max(round(share * len(scores) / 2), 1)
        correct = int(truth[-half:].sum()) + int((~truth[:half]).sum())
        found = epsilon_from_guesses(
            len(scores), 2 * half, correct, delta, significance / len(_SHARES)
        )
        if found > best.epsilon or best.guesses == 0:
            best = best._replace(epsilon=found, guesses=2 * half, correct=correct)
    return best


def epsilon_from_guesses(
    canaries: int, guesses: int, correct: int, delta: float, significance: float
) -> float:
    """Return the largest epsilon that is refuted by ``correct`` of ``guesses`` (Theorem 5.2)."""
    low, high = 0.0, _LARGEST
    if p_value(canaries, guesses, correct, low, delta) > significance:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= significance:
            low = middle
        else:
            high = middle
    return low


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound the chance of so many correct guesses under (epsilon, delta)-privacy (Theorem 5.2)."""
    success = 1 / (1 + math.exp(-epsilon))
    mass = [_binomial(k, guesses, success) for k in range(guesses + 1)]
    beta = math.fsum(mass[correct:])
    # The worst that delta can add: it pays off most to lift a likely count just over the line.
    below = np.cumsum(mass[:correct][::-1]) if correct else np.zeros(0)
    alpha = float(np.max(below / np.arange(1, correct + 1), initial=0.0))
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def _binomial(k: int, n: int, p: float) -> float:
    if p == 1:
        return float(k == n)
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))
