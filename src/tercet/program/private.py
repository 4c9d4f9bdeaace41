"""Private sums of gradients: how clipped, with what noise, over which rows (DP-SGD, on integers).

A step sums the clipped gradients of its rows (Abadi et al., "Deep Learning with Differential
Privacy", CCS 2016) on the integers of ``GRID`` fractional bits. The unit of clipping is 2^p, the
power of two at or below the norm C: cotangents are traced in it, so that they have the same bits
whatever C is. The program clips to ``target``, a little below C; what its roundings add stays
within C (docs/private-training.md).
"""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from tercet.errors import ProgramError

#: Fractional bits of the sum before its noise, in units of 2^p, and most rows that it has room for.
GRID, MAX_ROOM = 40, 1 << 20
#: Fractional bits of ``target``, and the part of C that is left to roundings.
TARGET_BITS, SLACK = 7, Fraction(1, 64)
#: Clipping norms that the arithmetic has room for, and the largest noise multiplier.
MIN_CLIP, MAX_CLIP, MAX_MULTIPLIER = 2.0**-10, 2.0**10, 32.0
#: Least noise: a share of it then has a deviation of 2^29 units and more.
MIN_MULTIPLIER = 2.0**-10
#: Probability in a step that a row passes its checks and moves the sum by more than C.
UNNOTICED = 2.0**-64


class PrivateSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step releases to the optimizer.

    Attributes:
        clip_norm: C, the bound of the L2 norm of one row's gradient over all weights.
        noise_multiplier: z; two workers' noise together has the deviation z C for each weight.
        rows: rows of data in all.
        batch: rows that a step takes on average: each with probability batch / rows.
    """

    clip_norm: float
    noise_multiplier: float
    rows: int
    batch: int

    @property
    def rate(self) -> float:
        """Probability of a row to be in a step."""
        return self.batch / self.rows

    @property
    def exponent(self) -> int:
        """p: 2^p is the unit of clipping."""
        return math.frexp(self.clip_norm)[1] - 1

    @property
    def target(self) -> int:
        """Norm that is clipped to, in units of 2^(p - TARGET_BITS)."""
        return math.floor(self._relative * ((1 - SLACK) * (1 << TARGET_BITS)))

    @property
    def share_variance(self) -> int:
        """Variance of the noise of one worker, in squared units of the grid: half of (z C)^2."""
        deviation = Fraction(self.noise_multiplier) * self._relative
        return math.ceil(deviation * deviation * (1 << (2 * GRID - 1)))

    @property
    def _relative(self) -> Fraction:
        """C in units of 2^p: from 1 to 2, exactly."""
        return Fraction(2 * math.frexp(self.clip_norm)[0])

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            ProgramError: naming what is wrong.
        """
        if not MIN_CLIP <= self.clip_norm <= MAX_CLIP:  # NaN is refused too
            raise ProgramError(
                f"a clipping norm of {self.clip_norm}", f"Use {MIN_CLIP:g} to {MAX_CLIP:g}"
            )
        if not MIN_MULTIPLIER <= self.noise_multiplier <= MAX_MULTIPLIER:
            raise ProgramError(
                f"a noise multiplier of {self.noise_multiplier}",
                f"Use {MIN_MULTIPLIER:g} to {MAX_MULTIPLIER:g}",
            )
        if not 1 <= self.batch <= self.rows <= 1 << 40:
            raise ProgramError(
                f"{self.batch} rows a step on average, of {self.rows}", "Take at most all rows"
            )
