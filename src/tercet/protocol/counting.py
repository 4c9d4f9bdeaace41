"""A protocol that computes nothing and counts what another one would send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tercet.protocol.base import (
    Bits,
    Cost,
    Flags,
    Kernel,
    Partial,
    Places,
    Protocol,
    Share,
    Words,
)
from tercet.protocol.cost import CostModel
from tercet.protocol.rounds import Received, Round, Steps, T


class Counting(Protocol):
    """Adds up the bytes that a ``CostModel`` states; its operations yield that many rounds.

    Values are zeros of the right shape without memory behind them.
    """

    name = "counting"

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self.bytes = 0

    def combine(self, factors: Sequence[np.uint64], xs: Sequence[Share]) -> Share:
        """Return the shape."""
        return xs[0]

    def add(self, x: Share | Partial, y: Share | Partial) -> Share | Partial:
        """Return the broadcast shape."""
        kind = Share if isinstance(x, Share) and isinstance(y, Share) else Partial
        return kind((zeros(np.broadcast_shapes(x.shape, y.shape)),))

    def add_public(self, x: Share | Partial, y: Words) -> Share | Partial:  # type: ignore[override]
        """Return the broadcast shape."""
        return type(x)((zeros(np.broadcast_shapes(x.shape, y.shape)),))

    def constant(self, value: Words) -> Share:
        """Return the shape of ``value``."""
        return Share((zeros(value.shape),))

    def product(self, kernel: Kernel, x: Share, y: Share) -> Partial:
        """Return the shape of the product (computed by the kernel, hence for small values)."""
        return Partial((kernel(x.parts[0], y.parts[0]),))

    def bit_not(self, x: Bits) -> Bits:
        """Return ``x``."""
        return x

    def take_bits(self, x: Bits, rows: Places, inverted: Flags) -> Bits:
        """Return the shape."""
        return Bits((), (len(rows), *x.shape[1:]))

    def reshare(self, x: Share | Partial, at: str) -> Steps[Share]:
        """Count."""
        return self._spend(self._model.reshare(x.size), Share((x.parts[0],)))

    def truncate(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Count."""
        cost = self._model.truncate(x.size, shift, isinstance(x, Partial))
        return self._spend(cost, Share((x.parts[0],)))

    def truncate_fresh(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Count."""
        cost = self._model.truncate_fresh(x.size, shift, isinstance(x, Partial))
        return self._spend(cost, Share((x.parts[0],)))

    def round(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Count."""
        return self.truncate(x, shift, at)

    def relu(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Share]:
        """Count."""
        cost = self._model.relu(x.size, shift, bits, isinstance(x, Partial))
        return self._spend(cost, Share((x.parts[0],)))

    def rectify(
        self, x: Share | Partial, shift: int, low: int, bits: int, at: str
    ) -> Steps[tuple[Share, Bits]]:
        """Count."""
        cost = self._model.rectify(x.size, shift, bits, isinstance(x, Partial))
        return self._spend(cost, (Share((x.parts[0],)), Bits((), x.shape)))

    def negative(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Bits]:
        """Count."""
        cost = self._model.negative(x.size, shift, bits, isinstance(x, Partial))
        return self._spend(cost, Bits((), x.shape))

    def bit(self, x: Share, position: int, at: str) -> Steps[Bits]:
        """Count."""
        return self._spend(self._model.bit(x.size, position), Bits((), x.shape))

    def bit_and(self, x: Bits, y: Bits, at: str) -> Steps[Bits]:
        """Count."""
        return self._spend(self._model.bit_and(int(np.prod(x.shape))), x)

    def select(self, bit: Bits, x: Share, at: str) -> Steps[Share]:
        """Count."""
        return self._spend(self._model.select(x.size), x)

    def gate(self, bit: Bits, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Count."""
        cost = self._model.gate(x.size, shift, isinstance(x, Partial))
        return self._spend(cost, Share((x.parts[0],)))

    def _spend(self, cost: Cost, result: T) -> Steps[T]:
        self.bytes += cost.bytes
        for _ in range(cost.rounds):
            yield Round()
        return result


def zeros(shape: Iterable[int]) -> Words:
    """Return zeros of ``shape`` that take no memory."""
    return np.broadcast_to(np.uint64(0), tuple(shape))


def count_rounds(operation: Steps[T]) -> int:
    """Run an operation of a counting protocol and return its rounds."""
    nothing = Received(memoryview(b""), memoryview(b""))
    rounds = 0
    try:
        next(operation)
        while True:
            rounds += 1
            operation.send(nothing)
    except StopIteration:
        return rounds
