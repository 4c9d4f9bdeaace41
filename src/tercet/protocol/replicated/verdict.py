"""The verdict on contributions: one bit each, and nothing else of them, opened to the workers.

All comparisons of a contribution are the sign of a ring element that is not negative if it passes.
They are found in one go, exact on all 64 bits, combined by ANDs, and one bit is opened.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from tercet.protocol.base import Bits, Partial, Words
from tercet.protocol.norm import PROJECTIONS, projection_bound
from tercet.protocol.replicated.protocol import Replicated
from tercet.protocol.replicated.select import open_bits
from tercet.protocol.rounds import Steps

#: Comparisons of a contribution: two for each projection, norm, two for a weight; whole words.
_COLUMNS = 192
_WORD = 64


def verdicts(
    protocol: Replicated,
    projections: Partial,
    squares: Partial,
    weights: Partial | None,
    bound: int,
    heaviest: int,
    at: str,
) -> Steps[NDArray[np.bool_]]:
    """Return whether each contribution keeps the bound: (rows,), equal at all three workers.

    Args:
        protocol: this worker's side.
        projections: (rows, 64).
        squares: (rows,) squared norms modulo 2^64.
        weights: (rows,), which must lie in [0, ``heaviest``], if there are any.
        bound: B.
        heaviest: largest weight.
        at: place in the session.
    """
    rows = squares.size
    limit = np.asarray(np.uint64(projection_bound(bound)))
    slack = np.zeros((rows, _COLUMNS), np.uint64)
    slack[:, :PROJECTIONS] = projections.parts[0]
    slack[:, PROJECTIONS : 2 * PROJECTIONS] = -projections.parts[0]
    slack[:, 2 * PROJECTIONS] = -squares.parts[0]
    offsets = np.zeros(_COLUMNS, np.uint64)
    offsets[: 2 * PROJECTIONS] = limit
    offsets[2 * PROJECTIONS] = bound**2
    if weights is not None:
        slack[:, 2 * PROJECTIONS + 1] = weights.parts[0]
        slack[:, 2 * PROJECTIONS + 2] = -weights.parts[0]
        offsets[2 * PROJECTIONS + 2] = heaviest
    compared = cast("Partial", protocol.add_public(Partial((slack,)), offsets))
    failed = yield from protocol.negative(compared, 0, _WORD, f"{at}/compare")
    return (yield from _open_all(protocol, protocol.bit_not(failed), rows, at))


def _open_all(protocol: Replicated, passed: Bits, rows: int, at: str) -> Steps[NDArray[np.bool_]]:
    """AND the bits of each row and open the results."""
    table = tuple(p.reshape(rows, _COLUMNS // _WORD) for p in passed.parts)
    first, second, third = (Bits(tuple(t[:, i] for t in table), (rows * _WORD,)) for i in range(3))
    joined = yield from protocol.bit_and(first, second, f"{at}/and 0")
    joined = yield from protocol.bit_and(joined, third, f"{at}/and 1")
    half = _WORD // 2
    while half:
        shifted = Bits(tuple(p >> np.uint64(half) for p in joined.parts), joined.shape)
        joined = yield from protocol.bit_and(joined, shifted, f"{at}/within {half}")
        half //= 2
    lowest: Words = joined.parts[0] & np.uint64(1)
    opened = yield from open_bits(protocol.party, lowest, f"{at}/open")
    return opened.astype(np.bool_)
