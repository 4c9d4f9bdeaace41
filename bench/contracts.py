"""The functions with a contract: what each computes, where, and how well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf as exact_erf
from scipy.special import expit, ndtr

from tercet.function.exponential import HIGHEST, exp
from tercet.function.gates import gelu, gelu_tanh, mish, silu, softplus
from tercet.function.logarithm import log, log1p
from tercet.function.maximum import absolute
from tercet.function.odd import erf, sigmoid, tanh
from tercet.function.power import power
from tercet.function.reciprocal import reciprocal
from tercet.function.root import rsqrt, sqrt
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps

Real = NDArray[np.float64]
#: (protocol, x, fractional bits, width of comparisons, place)
Function = Callable[[Protocol, Share, int, int, str], Steps[Share]]

#: Every result is within this relative error or the absolute one, whichever is larger.
RELATIVE = 1e-4


@dataclass(frozen=True)
class Contract:
    """A function, its domain in units of 2^-f and what holds beyond it.

    ``low`` and ``high`` take f; the grid is logarithmic where ``low`` is positive. ``absolute``
    is the absolute error at f = 16 and at f = 20.
    """

    name: str
    run: Function
    exact: Callable[[Real], Real]
    low: Callable[[int], float]
    high: Callable[[int], float]
    domain: str
    beyond: str
    absolute: tuple[float, float] = (2.0**-15, 1.2e-5)
    both_signs: bool = False

    def tolerance(self, exact: Real, scale: int) -> Real:
        """Return the largest error allowed at each exact value."""
        limit = self.absolute[0] if scale <= 16 else self.absolute[1]
        return np.maximum(RELATIVE * np.abs(exact), max(limit, 2.0 ** (1 - scale)))

    def grid(self, scale: int, count: int) -> NDArray[np.int64]:
        """Return ring elements over the whole domain, its ends and the powers of two."""
        low, high = self.low(scale), self.high(scale)
        if low > 0:
            first, last = max(1.0, low * 2.0**scale), high * 2.0**scale
            words = np.unique(
                np.concatenate(
                    (
                        np.geomspace(first, last, count).astype(np.int64),
                        np.arange(int(first), int(first) + count // 16),
                        2 ** np.arange(62, dtype=np.int64),
                        [int(last)],
                    )
                )
            )
            words = words[(words >= int(first)) & (words <= int(last))]
            return np.concatenate((words, -words)) if self.both_signs else words
        return np.rint(np.linspace(low, high, count) * 2.0**scale).astype(np.int64)


def _fixed(value: float) -> Callable[[int], float]:
    return lambda scale: value


def _unit(scale: int) -> float:
    return 2.0**-scale


def _top(scale: int) -> float:
    return 2.0 ** (30 - scale) * (1 - 2.0**-6) - 2.0**-scale


def _half_top(scale: int) -> float:
    # An odd number of fractional bits is made even.
    return _top(scale + scale % 2) if scale % 2 else _top(scale)


def _mish(x: Real) -> Real:
    return np.asarray(x * np.tanh(np.logaddexp(0, x)))


def _gelu_tanh(x: Real) -> Real:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _everywhere(
    name: str, run: Function, exact: Callable[[Real], Real], beyond: str, reach: float = 30.0
) -> Contract:
    return Contract(name, run, exact, _fixed(-reach), _fixed(reach), "all x", beyond)


_SATURATED = "x >= 2^(30-f) (1 - 2^-6): the value there"

CONTRACTS = (
    Contract(
        "exp", exp, np.exp, _fixed(-30.0), lambda f: HIGHEST - 2.0**-f, "x < 10.3125",
        "x > 10.34375: 2^15; x < -11.8125: 0",
    ),
    Contract(
        "log", log, np.log, _unit, _top, "2^-f <= x < 2^(30-f) (1 - 2^-6)",
        f"x <= 0: -f log 2; {_SATURATED}",
    ),
    Contract(
        "log1p", log1p, np.log1p, lambda f: 2.0**-f - 1, lambda f: 60.0,
        "2^-f <= 1 + x < 2^(30-f) (1 - 2^-6)", "as log of 1 + x",
    ),
    Contract(
        "reciprocal", lambda p, x, f, b, at: reciprocal(p, x, f, b, True, at), lambda x: 1 / x,
        _unit, _top, "2^-f <= |x| < 2^(30-f) (1 - 2^-6)",
        f"x = 0: a number between 2^f and 2^(f+4); {_SATURATED}", both_signs=True,
    ),
    Contract(
        "reciprocal, x >= 0", lambda p, x, f, b, at: reciprocal(p, x, f, b, False, at),
        lambda x: 1 / x, _unit, _top, "2^-f <= x < 2^(30-f) (1 - 2^-6)", "as above",
    ),
    Contract(
        "rsqrt", rsqrt, lambda x: x**-0.5, _unit, _half_top, "2^-f <= x < 2^(30-f) (1 - 2^-6)",
        f"x <= 0: a number between 2^(f/2) and 2^(f/2+3); {_SATURATED}",
    ),
    Contract(
        "sqrt", sqrt, np.sqrt, _unit, _half_top, "0 <= x < 2^(30-f) (1 - 2^-6)",
        f"x < 0: 0; {_SATURATED}",
    ),
    Contract(
        "power 2.5", lambda p, x, f, b, at: power(p, x, 2.5, f, b, at), lambda x: x**2.5,
        _unit, _fixed(60.0), "2^-f <= x, x^p < 2^14.8", "x <= 0: as 2^-f; x^p > 2^15: 2^15",
    ),
    _everywhere("sigmoid", sigmoid, expit, "|x| > 11.75: 0 or 1"),
    _everywhere("tanh", tanh, np.tanh, "|x| > 6.125: -1 or 1"),
    _everywhere("erf", erf, exact_erf, "|x| > 3.25: -1 or 1"),
    _everywhere("gelu", gelu, lambda x: x * ndtr(x), "|x| > 4.625: max(x, 0)"),
    _everywhere("gelu (tanh form)", gelu_tanh, _gelu_tanh, "|x| > 4.5: max(x, 0)"),
    _everywhere("silu", silu, lambda x: x * expit(x), "|x| > 14.5: max(x, 0)"),
    _everywhere("softplus", softplus, lambda x: np.logaddexp(0, x), "|x| > 11.75: max(x, 0)"),
    _everywhere("mish", mish, _mish, "|x| > 14.5: max(x, 0)"),
    _everywhere("abs", lambda p, x, f, b, at: absolute(p, x, b, at), np.abs, "exact"),
)  # fmt: skip
