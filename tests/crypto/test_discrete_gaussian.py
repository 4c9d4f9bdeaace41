"""The discrete Gaussian against its exact distribution; a test stream makes runs repeatable."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from tercet.crypto import discrete_gaussian as module
from tercet.crypto.discrete_gaussian import discrete_gaussian
from tercet.crypto.prg import Stream, fresh_stream
from tercet.errors import InputError

SAMPLES = 200_000


def stream(number: int) -> Stream:
    return Stream(number.to_bytes(16, "big"))


def masses(variance: Fraction) -> dict[int, float]:
    """The probability of every integer within 12 sigma, by the definition."""
    reach = 12 * math.isqrt(math.ceil(variance)) + 12
    weights = {x: math.exp(-x * x / (2 * float(variance))) for x in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    return {x: w / total for x, w in weights.items()}


def p_value(samples: np.ndarray, variance: Fraction) -> float:
    """The chance of so large a chi-square; rare values are taken together."""
    expected = {x: p * len(samples) for x, p in masses(variance).items()}
    values, counts = np.unique(samples, return_counts=True)
    observed = dict(zip(values.tolist(), counts.tolist(), strict=True))
    common = [x for x, e in expected.items() if e >= 10]
    pairs = [(observed.get(x, 0), expected[x]) for x in common]
    rest = len(samples) - sum(e for _, e in pairs)
    pairs.append((len(samples) - sum(o for o, _ in pairs), max(rest, 1e-9)))
    statistic = sum((o - e) ** 2 / e for o, e in pairs)
    return float(mpmath.gammainc((len(pairs) - 1) / 2, statistic / 2, regularized=True))


@pytest.mark.parametrize("variance", [Fraction(1, 50), Fraction(1, 3), 1, Fraction(5, 2), 9, 400])
def test_frequencies_are_the_exact_ones(variance: Fraction) -> None:
    samples = discrete_gaussian(SAMPLES, variance, stream(1).words)
    assert samples.dtype == np.int64
    assert p_value(samples, Fraction(variance)) > 1e-3


def test_the_test_tells_distributions_apart() -> None:
    samples = discrete_gaussian(SAMPLES, Fraction(5, 2), stream(2).words)
    assert p_value(samples, Fraction(5, 2) * Fraction(101, 100)) < 1e-3 or (
        p_value(samples, Fraction(5, 2) * Fraction(99, 100)) < 1e-3
    )
    # A rounded Gaussian of the same parameter, the usual mistake, has 1/12 more variance.
    uniform = stream(3).words(2 * SAMPLES).astype(np.float64).reshape(2, -1) * 2.0**-64
    normal = np.sqrt(-2 * np.log1p(-uniform[0])) * np.cos(2 * np.pi * uniform[1])
    assert p_value(np.rint(normal * 2.5**0.5).astype(np.int64), Fraction(5, 2)) < 1e-6


@pytest.mark.parametrize("variance", [Fraction(2**61, 3), Fraction(10**12 + 1, 7), 2**80, 2**91])
def test_wide_noise(variance: Fraction) -> None:
    samples = discrete_gaussian(SAMPLES, variance, stream(4).words)
    unit = samples / math.sqrt(variance)
    assert abs(unit.mean()) < 4 / math.sqrt(SAMPLES)
    assert abs((unit**2).mean() - 1) < 4 * math.sqrt(2 / SAMPLES)
    for limit in (1, 2, 3, 4):
        tail = math.erfc(limit / math.sqrt(2))
        count = np.count_nonzero(np.abs(unit) > limit)
        assert abs(count - SAMPLES * tail) < 4 * math.sqrt(SAMPLES * tail) + 1
    low = np.bincount(samples & 63, minlength=64)  # the lowest bits are uniform
    statistic = ((low - SAMPLES / 64) ** 2).sum() / (SAMPLES / 64)
    assert float(mpmath.gammainc(63 / 2, statistic / 2, regularized=True)) > 1e-3


@pytest.mark.parametrize("variance", [Fraction(1, 3), Fraction(22, 7), 2**61 + 1])
def test_the_filter_decides_as_the_integers_do(
    variance: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    filtered = discrete_gaussian(2000, variance, stream(5).words)
    decided = 0

    def count(word: int, probability: Fraction, words: module.Words) -> bool:
        nonlocal decided
        decided += 1
        return is_below(word, probability, words)

    is_below = module._is_below
    monkeypatch.setattr(module, "_is_below", count)
    monkeypatch.setattr(module, "_MARGIN", 2.0)
    np.testing.assert_array_equal(discrete_gaussian(2000, variance, stream(5).words), filtered)
    assert decided > 4000


def test_undecided_bits_are_drawn_on_demand() -> None:
    third = 2**64 // 3
    rest = iter([2**64 // 3, 0])
    words = lambda n: np.array([next(rest)], np.uint64)  # noqa: E731
    assert module._is_below(third - 1, Fraction(1, 3), words)
    assert not module._is_below(third + 1, Fraction(1, 3), words)
    assert not module._is_below(2**63, Fraction(1, 2), words)
    assert module._is_below(third, Fraction(1, 3), words)  # equal for 128 bits, then below
    assert next(rest, None) is None


def test_zero_is_not_drawn_twice_as_often() -> None:
    # The two signs of the discrete Laplace must not both count for zero.
    samples = module._discrete_laplace(SAMPLES, 1, stream(6).words)
    assert abs((samples == 0).mean() - math.tanh(0.5)) < 4 * 0.5 / math.sqrt(len(samples))


def test_noise_is_fresh() -> None:
    first, second = (discrete_gaussian(50, 2**60, fresh_stream().words) for _ in range(2))
    assert len(set(first.tolist()) | set(second.tolist())) == 100


def test_bounds() -> None:
    assert discrete_gaussian(0, 1, stream(0).words).shape == (0,)
    for n, variance in ((-1, 1), (1, 0), (1, -1), (1, 2**93), (1, Fraction(1, 2**41))):
        with pytest.raises(InputError):
            discrete_gaussian(n, variance, stream(0).words)
