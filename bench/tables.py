"""Fits the polynomials of ``tercet.function`` and writes ``src/tercet/function/tables.py``.

    python -m bench.tables

Weighted minimax by Lawson's iteration (iteratively reweighted least squares on a Chebyshev
basis). SciPy comes with JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit, ndtr

Real = NDArray[np.float64]
Function = Callable[[Real], Real]

OUT = Path(__file__).parents[1] / "src" / "tercet" / "function" / "tables.py"
#: Comparisons with a bound are coarse: pieces reach beyond it by this much.
OVERLAP = 2.0**-5
GRID = 2.0**-3


def minimax(
    function: Function, low: float, high: float, degree: int, weight: Function | None = None
) -> tuple[float, list[float]]:
    """Return the largest weighted error of a polynomial on [low, high] and its coefficients."""
    t = np.cos(np.linspace(0, np.pi, 801))
    z = (low + high) / 2 + (high - low) / 2 * t
    y, w = function(z), np.ones_like(z) if weight is None else weight(z)
    basis = np.polynomial.chebyshev.chebvander(t, degree)
    lawson, best = np.full_like(z, 1 / z.size), (np.inf, np.zeros(degree + 1))
    for _ in range(150):
        root = np.sqrt(lawson) * w
        c = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        error = np.abs((basis @ c - y) * w)
        best = min(best, (float(error.max()), c), key=lambda pair: pair[0])
        lawson = lawson * (error + 1e-3 * error.max())
        lawson /= lawson.sum()
    series = np.polynomial.Chebyshev(best[1], domain=[low, high])
    power = series.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1])
    return best[0], [float(c) for c in np.pad(power.coef, (0, degree + 1 - len(power.coef)))]


def bounds_for(
    functions: list[Function], last: float, pieces: int, degree: int
) -> tuple[float, list[float]]:
    """Return the smallest error that ``pieces`` pieces on [0, last] reach, and their bounds."""

    def reach(error: float) -> list[float]:
        start, found = 0.0, []
        while start < last and len(found) < pieces:
            steps = np.arange(start + GRID, last + GRID / 2, GRID)
            low, high = 0, len(steps)
            while high - low > 1:
                middle = (low + high) // 2
                span = start - OVERLAP, float(steps[middle]) + OVERLAP
                fits = all(minimax(f, *span, degree)[0] <= error for f in functions)
                low, high = (middle, high) if fits else (low, middle)
            start = float(steps[low])
            found.append(start)
        return found

    small, large = 1e-8, 1e-3
    while large / small > 1.15:
        error = float(np.sqrt(small * large))
        small, large = (small, error) if reach(error)[-1] >= last else (error, large)
    return large, reach(large)


def _mish(x: Real) -> Real:
    return x * np.tanh(np.logaddexp(0, x))


#: Name: (what is added right of 0, left of 0 or None if the same, tail, last bound, exponent of
#: the unit, pieces, degree), all as functions of |x|.
PIECES: dict[str, tuple[Function, Function | None, float, float, int, int, int]] = {
    "SIGMOID": (expit, None, 1.0, 11.75, 3, 3, 6),
    "TANH": (np.tanh, None, 1.0, 6.125, 2, 3, 6),
    "ERF": (erf, None, 1.0, 3.25, 1, 3, 6),
    "GELU": (lambda z: -z * ndtr(-z), None, 0.0, 4.625, 2, 3, 6),
    "GELU_TANH": (
        lambda z: -z * expit(-2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)),
        None, 0.0, 4.5, 2, 3, 6,
    ),
    "SILU": (lambda z: -z * expit(-z), None, 0.0, 14.5, 3, 4, 6),
    "SOFTPLUS": (lambda z: np.log1p(np.exp(-z)), None, 0.0, 11.75, 3, 3, 6),
    "MISH": (lambda z: _mish(z) - z, lambda z: _mish(-z), 0.0, 14.5, 3, 5, 6),
}  # fmt: skip


def _relative(function: Function) -> Function:
    return lambda z: 1 / function(z)


def _exp_weight(floor: float) -> Function:
    # The result is the fourth power: its error is 4 y^3 times that of y = exp(4 u).
    return lambda u: 4 * np.exp(12 * u) / np.maximum(np.exp(16 * u), floor) + 0.001


def _format(values: Any) -> str:
    return "(" + ", ".join(f"{v:.15g}" for v in values) + ")"


def main() -> None:
    """Write the tables."""
    out = [
        '"""Coefficients, powers ascending. Written by ``python -m bench.tables``: do not edit."""',
        "", "from tercet.function.pieces import Pieces", "",
    ]  # fmt: skip

    def single(name: str, note: str, fit: tuple[float, list[float]]) -> None:
        out.append(f"#: {note}: {fit[0]:.2g}.")
        out.append(f"{name} = {_format(fit[1])}")
        print(name, fit[0])

    quarter: Function = lambda u: np.exp(4 * u)  # noqa: E731
    single(
        "EXP", "exp(4 u) on [-0.75, 0.66], error of the fourth power relative to max(y, 0.2)",
        minimax(quarter, -0.75, 0.66, 8, _exp_weight(0.2)),
    )  # fmt: skip
    single(
        "EXP_NEGATIVE", "exp(4 u) on [-1.15, 0.01], absolute error of the fourth power",
        minimax(quarter, -1.15, 0.01, 8, lambda u: 4 * np.exp(12 * u) + 1e-3),
    )  # fmt: skip
    span = (0.2455, 1.0)
    inverse: Function = lambda m: 1 / m  # noqa: E731
    root: Function = lambda m: m**-0.5  # noqa: E731
    single(
        "RECIPROCAL", "1 / m on [1/4, 1], relative error",
        minimax(inverse, *span, 4, _relative(inverse)),
    )  # fmt: skip
    single("RSQRT", "m^-1/2 on [1/4, 1], relative error", minimax(root, *span, 4, _relative(root)))
    single(
        "LOG", "log(3/4 + v) on [-1/4, 1/4], absolute error",
        minimax(lambda v: np.log(0.75 + v), 0.4910 - 0.75, 0.25, 6),
    )  # fmt: skip
    for name, (right, left, tail, last, unit, pieces, degree) in PIECES.items():
        both = [right] if left is None else [right, left]
        error, bounds = bounds_for(both, last, pieces, degree)
        print(name, error, bounds)
        starts = [0.0, *bounds[:-1]]
        sides = []
        for function in both:
            rows = []
            for low, high in zip(starts, bounds, strict=True):
                _, c = minimax(function, low - OVERLAP, high + OVERLAP, degree)
                rows.append(_format(c * 2.0 ** (unit * np.arange(degree + 1))))
            sides.append("(" + ", ".join(rows) + ",)")
        out.append(f"#: Error {error:.2g}.")
        out.append(
            f"{name} = Pieces({unit}, {_format(bounds)}, {tail}, {sides[0]}"
            + (f", {sides[1]})" if left is not None else ")")
        )
    OUT.write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
