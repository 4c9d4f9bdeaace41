"""Writes ``docs/functions.md``: contract, measured error and cost of each function.

python -m bench.functions
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.contracts import CONTRACTS, Contract
from bench.selection import section
from tercet.protocol.base import Share
from tercet.protocol.counting import Counting, count_rounds, zeros
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.protocol.rounds import finish

PAGE = Path(__file__).parents[1] / "docs" / "functions.md"
#: Elements on which a cost is counted; rounding to whole words hardly shows.
ELEMENTS = 64_000
GRID = 40_001

_HEAD = """\
# Functions

Written by `python -m bench.functions`; a test holds it to the code. Error: every result is within
a relative error of 1e-4 or the absolute error stated, whichever is larger. The error of three
parties exceeds the one measured here by at most one unit of the last place, since a truncation
rounds by its shares; tests hold the contract on both. Measured in the clear, on {grid} points of
the domain (a logarithmic grid where it is positive). Beyond the domain a function saturates: the
last column says where to, within 2^-f. Nothing wraps for |x| < 2^(b-1) units of the last place,
with b the width of comparisons: 62 unless a calibrated program narrows it. Bytes are payload
between the workers, an element.

| function | domain | absolute error allowed, f = 16 / 20 | measured, of what is allowed | largest \
absolute | bytes at b = 62 / 32 | rounds | beyond |
|---|---|---|---|---|---|---|---|
"""


def measure(contract: Contract, scale: int) -> tuple[float, float]:
    """Return the largest error relative to what is allowed, and the largest absolute one."""
    words = contract.grid(scale, GRID)
    share = Share((words.view(np.uint64),))
    result = finish(contract.run(Plaintext(), share, scale, 62, "f")).parts[0]
    got: NDArray[np.float64] = result.view(np.int64) / 2.0**scale
    exact = contract.exact(words / 2.0**scale)
    error = np.abs(got - exact)
    small = np.abs(exact) <= 1
    worst = float(error[small].max()) if small.any() else float("nan")
    return float((error / contract.tolerance(exact, scale)).max()), worst


def cost(contract: Contract, bits: int) -> tuple[float, int]:
    """Return bytes an element and rounds at 16 fractional bits."""
    counting = Counting(ReplicatedCost())
    x = Share((zeros((ELEMENTS,)),))
    rounds = count_rounds(contract.run(counting, x, 16, bits, "f"))
    return counting.bytes / ELEMENTS, rounds


def page() -> str:
    """Return the text of the page."""
    lines = [_HEAD.format(grid=f"{GRID:,}")]
    for contract in CONTRACTS:
        (r16, a16), (r20, a20) = measure(contract, 16), measure(contract, 20)
        (wide, rounds), (narrow, fewer) = cost(contract, 62), cost(contract, 32)
        lines.append(
            f"| {contract.name} | {contract.domain.replace('|', chr(92) + '|')} "
            f"| {contract.absolute[0]:.1e} / {contract.absolute[1]:.1e} "
            f"| {r16:.0%} / {r20:.0%} | {a16:.1e} / {a20:.1e} | {wide:.0f} / {narrow:.0f} "
            f"| {rounds} / {fewer} | {contract.beyond.replace('|', chr(92) + '|')} |\n"
        )
    lines += [_TAIL, section(), _SOURCES]
    return "".join(lines)


_TAIL = """
"Largest absolute" is taken where |f(x)| <= 1.

expm1 is exp less 1, exp2 and erfc are exp and erf of public multiples, whole powers are products,
max, min, clip, sign and comparisons are exact (one or two comparisons each), cumulative sums and
lookups at public places are local and exact. x / y (`divide`, about 800 bytes an element of x where
y has as many, 67 rounds; y is normalised once for all that it divides): within 1e-4 or 2 units for
|x| < 2^(30-f) and 2^-f <= |y| < 2^(30-f) (1 - 2^-6); a quotient beyond 2^14 saturates between 2^14
and 2^18. Softmax: absolute error 2^-f + 1e-5; log-softmax: 2^-f + 2e-5, both for up to 4,096
classes.
"""

_SOURCES = """
Sources: polynomials by Lawson's weighted minimax iteration (`bench/tables.py`); exp as a power of a
polynomial split after Paterson and Stockmeyer (1973); Newton's step for 1/x and x^-1/2; Goldschmidt
(1964) for the sum of a softmax; odd-even merge sort after Batcher (1968).
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
