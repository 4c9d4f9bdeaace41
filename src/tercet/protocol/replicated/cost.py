"""The stated cost of the replicated protocol, all three workers together."""

from __future__ import annotations

from tercet.protocol.base import Cost
from tercet.protocol.cost import CostModel
from tercet.protocol.replicated.comparison import comparison_cost

_WORD = 8


class ReplicatedCost(CostModel):
    """Formulas for ``docs/protocols.md``; tests hold the measured counters to them exactly."""

    def reshare(self, size: int) -> Cost:
        """One element from each worker."""
        return Cost(3 * _WORD * size, 1)

    def truncate(self, size: int, shift: int, partial: bool) -> Cost:
        """One element and one s-bit value to worker 2, two s-bit values to worker 0."""
        return Cost(_WORD * size + 3 * _narrow(size, shift) + _split(size, partial), 2)

    def truncate_fresh(self, size: int, shift: int, partial: bool) -> Cost:
        """One element and one s-bit value to worker 2, two elements to worker 0."""
        return Cost(3 * _WORD * size + _narrow(size, shift) + _split(size, partial), 2)

    def relu(self, size: int, shift: int, bits: int, partial: bool) -> Cost:
        """Truncation and multiple by r beside the comparison, which is opened."""
        sign = comparison_cost(bits, size, opened=True)
        return Cost(self.gate(size, shift, partial).bytes + sign.bytes, sign.rounds)

    def rectify(self, size: int, shift: int, bits: int, partial: bool) -> Cost:
        """A ReLU whose bit is lent as well."""
        relu = self.relu(size, shift, bits, partial)
        return Cost(relu.bytes + _plane(size), relu.rounds)

    def negative(self, size: int, shift: int, bits: int, partial: bool) -> Cost:
        """The comparison, which stays shared."""
        sign = comparison_cost(bits, size, opened=False)
        return Cost(sign.bytes + _split(size, partial), sign.rounds)

    def bit(self, size: int, position: int) -> Cost:
        """A comparison on the bits up to this one."""
        return self.negative(size, 0, position + 1, False)

    def bit_and(self, size: int) -> Cost:
        """One bit from each worker."""
        return Cost(3 * _plane(size), 1)

    def select(self, size: int) -> Cost:
        """Two elements to worker 2, two to worker 0, six bits to open."""
        return Cost(4 * _WORD * size + 6 * _plane(size), 2)

    def gate(self, size: int, shift: int, partial: bool) -> Cost:
        """Two or three elements to worker 2, two to worker 0, s-bit values with them."""
        lent = 2 + (shift > 0 or partial)
        low = _narrow(2 * size, shift) + 2 * _narrow(size, shift)
        return Cost(_WORD * size * (lent + 2) + low + _split(size, partial), 2)


def _plane(size: int) -> int:
    return _WORD * -(-size // 64)


def _narrow(size: int, bits: int) -> int:
    return _WORD * -(-size * bits // 64)


def _split(size: int, partial: bool) -> int:
    return 2 * _WORD * size if partial else 0
