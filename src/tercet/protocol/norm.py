"""The L2 bound on a contribution, modulo 2^64 and without wrapping: constants and the plain test.

A squared norm modulo 2^64 says nothing about a vector that is large enough to wrap: one coordinate
of 2^32 has square 0. So the vector x is first put through 64 random projections

    z_r = <a_r - b, x> mod 2^64,    a_1, ..., a_64 and b uniform in {0, 1}^n,

drawn after x is fixed, each of which must lie in [-T, T], T = 7 B (a modular Johnson-Lindenstrauss
test after Gentry, Halevi and Lyubashevsky, Eurocrypt 2022, with a proof of its own for
the constants here: ``docs/aggregation.md``). Then the exact squared norm must be at most B^2.

* Whoever keeps the bound passes but with probability 128 e^-49 < 2^-63: a coefficient of z_r is
  0, 1 or -1 with probability 1/2, 1/4 and 1/4, sub-Gaussian with variance proxy 1/2.
* Whoever has ||x|| >= 8 T passes with probability at most 2^-64. Below that, ||x||^2 < 2^62, and
  the squared norm modulo 2^64 is the true one: the comparison with B^2 is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from tercet.crypto.prg import seed_stream
from tercet.protocol.base import Words
from tercet.ring import kernels

PROJECTIONS: Final = kernels.PROJECTIONS

#: Largest bound B: (8 T)^2 = (56 B)^2 < 2^62 then.
MAX_BOUND: Final = 1 << 25

_REACH: Final = 7


class Coefficients(NamedTuple):
    """The projections: bits of a_r in ``rows`` (ceil(n / 64), 64), of b in ``plane``."""

    rows: Words
    plane: Words

    def project(self, x: Words) -> Words:
        """Return z (64,) of a vector or of a summand of it: linear."""
        return kernels.project(x, self.rows, self.plane)


def coefficients(seed: bytes, length: int) -> Coefficients:
    """Expand the public seed (32 bytes) of a check for vectors of ``length`` elements."""
    (whole,) = coefficient_blocks(seed, length, -(-length // 64) * 64)
    return whole


def coefficient_blocks(seed: bytes, length: int, block: int) -> Iterator[Coefficients]:
    """Expand the same coefficients for ``block`` elements at a time, a multiple of 64.

    The projections of a vector are the sum of those of its blocks.
    """
    rows, plane = seed_stream(seed, "rows"), seed_stream(seed, "plane")
    for start in range(0, length, block):
        groups = -(-min(block, length - start) // 64)
        drawn = rows.words(groups * PROJECTIONS).reshape(groups, PROJECTIONS)
        yield Coefficients(drawn, plane.words(groups))


def projection_bound(bound: int) -> int:
    """Return T, the largest projection that passes, for the L2 bound B (1 to ``MAX_BOUND``)."""
    return _REACH * bound


def passes(update: Words, bound: int, seed: bytes) -> bool:
    """Return the verdict on a vector in the clear, by the definition: for tests."""
    z = coefficients(seed, len(update)).project(update).view(np.int64)
    limit = projection_bound(bound)
    square = sum(int(v) ** 2 for v in update.view(np.int64)) % (1 << 64)
    square -= (square >> 63) << 64
    return bool((z >= -limit).all() and (z <= limit).all()) and square <= bound**2
