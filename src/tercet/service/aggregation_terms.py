"""The terms of a secure aggregation, which every participant and the server sign."""

from __future__ import annotations

from tercet.errors import RefusedError
from tercet.protocol.norm import MAX_BOUND
from tercet.service.messages import check_fingerprint
from tercet.service.terms import Terms

MAX_LENGTH = 1 << 26
MAX_ROUNDS = 1_000_000
MAX_DEADLINE = 7 * 24 * 3600
MAX_SCALE = 60
#: Largest variance of one worker's noise: three summands of noise then stay below 2^37 but with
#: probability below 2^-64, and a sum of 2,000 contributions below 2^36: nothing wraps, and all fits
#: into ``runtime.aggregation.SUM_BITS``.
MAX_VARIANCE = 1 << 61
#: Fractional bits of a weight, which lies in [0, 1].
WEIGHT_SCALE = 20


class AggregationTerms(Terms, frozen=True, kw_only=True, tag="aggregation"):
    """Rounds in which participants' updates are summed and only the sum is opened.

    Attributes:
        participants: fingerprints of those who may contribute, in ascending order.
        server: fingerprint of who receives the sums, and nobody else does.
        length: parameters of an update.
        minimum: contributors without which no sum is opened.
        bound: largest L2 norm of a contribution, in units of 2^-scale.
        scale: fractional bits of an update.
        variance: parameter of the discrete Gaussian that each worker adds to each element of the
            sum, in units of 2^(-2 scale); 0 for no noise.
        weighted: whether a contribution carries a weight from 0 to 1, whose sum is opened too.
        deadline: seconds from a round's first sign of life to its close.
        rounds: rounds in all.
    """

    participants: tuple[str, ...]
    server: str
    length: int
    minimum: int
    bound: int
    scale: int
    variance: int = 0
    weighted: bool = False
    deadline: int
    rounds: int

    @property
    def words(self) -> int:
        """Ring elements of a contribution: the update and, if any, its weight."""
        return self.length + self.weighted

    def check(self) -> None:
        """Refuse what makes no sense, or would open one participant's update.

        Raises:
            RefusedError: naming what is wrong.
        """
        super().check()
        for fingerprint in (*self.participants, self.server):
            check_fingerprint(fingerprint)
        if list(self.participants) != sorted(set(self.participants)):
            raise RefusedError("participants out of order", "Name each once, in ascending order")
        if set(self.signers) != {*self.participants, self.server}:
            raise RefusedError(
                "an aggregation that some party need not sign",
                "Every participant and the server sign it, and nobody else",
            )
        if not 2 <= self.minimum <= len(self.participants):
            raise RefusedError(
                f"a minimum of {self.minimum} of {len(self.participants)} contributors",
                "Ask for 2 at least: a sum of one is somebody's update",
            )
        for what, value, least, most in (
            ("parameters", self.length, 1, MAX_LENGTH),
            ("rounds", self.rounds, 1, MAX_ROUNDS),
            ("seconds to a deadline", self.deadline, 1, MAX_DEADLINE),
            ("fractional bits", self.scale, 0, MAX_SCALE),
            ("as a bound", self.bound, 1, MAX_BOUND),
            ("as a variance", self.variance, 0, MAX_VARIANCE),
        ):
            if not least <= value <= most:
                raise RefusedError(f"{value} {what}", f"Use {least} to {most}")
        if self.bound**2 < self.length:
            raise RefusedError(
                f"a bound of {self.bound} units for {self.length} parameters",
                "Take more fractional bits: rounding alone could exceed it",
            )
        if self.weighted and self.variance:
            raise RefusedError(
                "weights beside noise: the sum of weights would be opened without any",
                "Leave out one of the two",
            )
