"""The discrete Gaussian, sampled exactly on integers (Canonne, Kamath, Steinke, NeurIPS 2020).

A Gaussian in floating point cannot carry a privacy proof: the gaps between its values depend on
the value that it hides (Mironov, CCS 2012). Here every decision is a Bernoulli trial whose
probability is a rational number, decided exactly. A floating-point comparison serves as a filter
only: where its error could matter, about once in 2^31 trials, integers of any length decide.

The number of words drawn, and so the time, depends on the noise. Draw it before a moment that
somebody else observes depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

Words = Callable[[int], NDArray[np.uint64]]
"""Returns that many fresh uniform words, as ``tercet.crypto.prg.Stream.words`` does."""

_Integers = NDArray[np.int64]
_Flags = NDArray[np.bool_]

MIN_VARIANCE: Final = Fraction(1, 2**40)
MAX_VARIANCE: Final = Fraction(2**92)
"""Bounds of the variance: magnitudes then stay below 2^63 unless a trial of e^-1 succeeds 2^16
times in a row."""

# Trials closer to their probability than this are decided by integers. The floating-point error
# is below 2^-47 (see _exponential_trials).
_MARGIN = 2.0**-32
_ROUNDING: Final = 2.0**-40
# Samples drawn together: the arrays of a round stay in the cache.
_CHUNK: Final = 1 << 15
_WORD_BITS: Final = 64
_TO_UNIT: Final = 2.0**-_WORD_BITS


def discrete_gaussian(n: int, variance: Fraction | int, words: Words) -> _Integers:
    """Return ``n`` independent samples with P(x) proportional to exp(-x^2 / (2 variance)).

    Algorithm 3 of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy":
    a discrete Laplace of integer scale, accepted with probability exp(-gamma). 10^6 samples take
    about 1.5 s.

    Args:
        n: number of samples.
        variance: the parameter sigma^2, an exact rational, in units of the integers squared. The
            variance of the samples is at most this.
        words: the source of randomness; for noise that protects somebody,
            ``tercet.crypto.prg.fresh_stream().words``.

    Returns:
        An int64 array of shape (n,).

    Raises:
        InputError: ``n`` is negative, or the variance is out of bounds.
    """
    variance = Fraction(variance)
    if n < 0:
        raise InputError(
            f"{n} samples of noise", "Ask for a number of samples that is not negative"
        )
    if not MIN_VARIANCE <= variance <= MAX_VARIANCE:
        raise InputError(
            "the variance of the noise is not between 2^-40 and 2^92",
            "Choose a fixed-point scale at which the noise fits",
        )
    scale = math.isqrt(math.floor(variance)) + 1  # t = floor(sigma) + 1
    out = np.empty(n, np.int64)
    filled = 0
    while filled < n:
        # Somewhat more than three in four candidates are accepted.
        candidates = _discrete_laplace(min(_CHUNK, (n - filled) * 4 // 3 + 16), scale, words)
        accepted = candidates[_accept(candidates, variance, scale, words)][: n - filled]
        out[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return out


def _discrete_laplace(n: int, scale: int, words: Words) -> _Integers:
    """Return at most ``n`` samples with P(x) proportional to exp(-|x| / scale): Algorithm 2."""
    low = _below(n, scale, words)
    low = low[_exponential_trials(low / scale, lambda i: Fraction(int(low[i]), scale), words)]
    high = np.zeros(len(low), np.int64)
    going = np.arange(len(low))
    while len(going):
        going = going[_exponential_trials(np.ones(len(going)), lambda _: Fraction(1), words)]
        high[going] += 1
    magnitude: _Integers = low + scale * high
    negative = (words(len(low)) & np.uint64(1)).astype(np.bool_)
    kept: _Flags = ~(negative & (magnitude == 0))  # zero has one sign
    magnitude[negative] *= -1
    return magnitude[kept]


def _accept(samples: _Integers, variance: Fraction, scale: int, words: Words) -> _Flags:
    """Accept each sample y with probability exp(-(|y| - variance / scale)^2 / (2 variance))."""
    centre = variance / scale
    gamma = (np.abs(samples) - float(centre)) ** 2 / float(2 * variance)

    def exact(i: int) -> Fraction:
        return (abs(int(samples[i])) - centre) ** 2 / (2 * variance)

    return _exponential_trials(gamma, exact, words)


def _exponential_trials(
    gamma: NDArray[np.float64], exact: Callable[[int], Fraction], words: Words
) -> _Flags:
    """Decide one trial of probability exp(-gamma) for each element: Algorithm 1.

    exp(-gamma) is exp(-gamma / parts)^parts, where ``parts`` brings the exponent to 1 or below;
    any number that does will do. A trial of exp(-g), g <= 1, draws trials of g / k for
    k = 1, 2, ... until one fails, and succeeds if that k is odd.

    Args:
        gamma: exponents >= 0, each within 2^-48 (1 + gamma) of the exact one. Double precision
            gives that for ``_accept``: |y| and the centre c are rounded to 2^-52 of themselves,
            c <= sigma and |y| <= c + sigma sqrt(2 gamma).
        exact: the exact exponent of an element, asked for in doubt only.
        words: source of randomness.
    """
    parts = np.floor(gamma + _ROUNDING * (1 + gamma)) + 1
    share = gamma / parts
    left, k = parts.copy(), np.ones(len(gamma))
    accepted = np.zeros(len(gamma), np.bool_)
    active = np.arange(len(gamma))
    while len(active):
        probability = share[active] / k[active]
        drawn = words(len(active))
        unit = drawn * _TO_UNIT
        success = unit < probability
        for i in np.flatnonzero(np.abs(unit - probability) < _MARGIN):
            element = int(active[i])
            odds = exact(element) / (int(parts[element]) * int(k[element]))
            success[i] = _is_below(int(drawn[i]), odds, words)
        failed = active[~success]
        k[active[success]] += 1
        won = failed[k[failed] % 2 == 1]
        left[won] -= 1
        k[won] = 1
        accepted[won[left[won] == 0]] = True
        active = np.concatenate([active[success], won[left[won] > 0]])
    return accepted


def _is_below(word: int, probability: Fraction, words: Words) -> bool:
    """Decide whether a uniform real number that starts with the bits of ``word`` is below."""
    bits = _WORD_BITS
    while True:
        # The number lies in [word, word + 1) / 2^bits.
        limit = (probability.numerator << bits) // probability.denominator
        if word != limit:
            return word < limit
        if (limit * probability.denominator) == (probability.numerator << bits):
            return False
        word = (word << _WORD_BITS) | int(words(1)[0])
        bits += _WORD_BITS


def _below(n: int, bound: int, words: Words) -> _Integers:
    """Return ``n`` integers, uniform in [0, bound): bits of a word, rejected if too large."""
    mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
    out = words(n) & mask
    again = np.flatnonzero(out >= np.uint64(bound))
    while len(again):
        out[again] = words(len(again)) & mask
        again = again[out[again] >= np.uint64(bound)]
    return out.astype(np.int64)
