"""The reference: the same operations on values in the clear, exact, without rounds.

For tests, for calibration at the model's owner and for the accuracy that a program can reach. A
``Share`` has one part, the value itself.
"""

from __future__ import annotations

import numpy as np

from tercet.protocol.base import Bits, Flags, Kernel, Partial, Places, Protocol, Share, Words
from tercet.protocol.rounds import Steps, done


class Plaintext(Protocol):
    """Arithmetic modulo 2^64 in the clear; truncation rounds down."""

    name = "plaintext"

    def add(self, x: Share | Partial, y: Share | Partial) -> Share | Partial:
        """Return x + y."""
        kind = Share if isinstance(x, Share) and isinstance(y, Share) else Partial
        return kind((x.parts[0] + y.parts[0],))

    def add_public(self, x: Share | Partial, y: Words) -> Share | Partial:  # type: ignore[override]
        """Return x + y."""
        return type(x)((x.parts[0] + y,))

    def constant(self, value: Words) -> Share:
        """Return ``value``."""
        return Share((value,))

    def product(self, kernel: Kernel, x: Share, y: Share) -> Partial:
        """Return kernel(x, y)."""
        return Partial((kernel(x.parts[0], y.parts[0]),))

    def bit_not(self, x: Bits) -> Bits:
        """Return the complement (one element a word here, not bit-sliced)."""
        return Bits((x.parts[0] ^ np.uint64(1),), x.shape)

    def take_bits(self, x: Bits, rows: Places, inverted: Flags) -> Bits:
        """Return the rows."""
        taken = x.parts[0].reshape(x.shape)[rows]
        flipped = inverted.astype(np.uint64).reshape(-1, *(1 for _ in x.shape[1:]))
        return Bits((taken ^ flipped,), taken.shape)

    def reshare(self, x: Share | Partial, at: str) -> Steps[Share]:
        """Return the same value."""
        return done(Share(x.parts))

    def truncate(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return floor(x / 2^shift)."""
        return done(Share((_truncate(x.parts[0], shift),)))

    def truncate_fresh(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return floor(x / 2^shift)."""
        return self.truncate(x, shift, at)

    def round(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return x / 2^shift, rounded to the nearest."""
        return done(Share((_round(x.parts[0], shift),)))

    def relu(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Share]:
        """Return max(0, floor(x / 2^shift))."""
        value = _truncate(x.parts[0], shift)
        return done(Share((np.where(value >> np.uint64(63), np.uint64(0), value),)))

    def rectify(
        self, x: Share | Partial, shift: int, low: int, bits: int, at: str
    ) -> Steps[tuple[Share, Bits]]:
        """Return max(0, round(x / 2^shift)) and 1 where x is not below 0."""
        active = (x.parts[0] >> np.uint64(63)) ^ np.uint64(1)
        value = _round(x.parts[0], shift)
        return done((Share((value * active,)), Bits((active,), x.shape)))

    def negative(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Bits]:
        """Return 1 where floor(x / 2^shift) < 0."""
        return done(Bits((x.parts[0] >> np.uint64(63),), x.shape))

    def bit(self, x: Share, position: int, at: str) -> Steps[Bits]:
        """Return the bit."""
        return done(Bits((x.parts[0] >> np.uint64(position) & np.uint64(1),), x.shape))

    def bit_and(self, x: Bits, y: Bits, at: str) -> Steps[Bits]:
        """Return x AND y."""
        return done(Bits((x.parts[0] & y.parts[0],), x.shape))

    def select(self, bit: Bits, x: Share, at: str) -> Steps[Share]:
        """Return bit * x."""
        return done(Share((bit.parts[0] * x.parts[0],)))

    def gate(self, bit: Bits, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return bit * round(x, shift)."""
        return done(Share((bit.parts[0] * _round(x.parts[0], shift),)))


def _truncate(x: Words, shift: int) -> Words:
    return (x.view(np.int64) >> np.int64(shift)).view(np.uint64)


def _round(x: Words, shift: int) -> Words:
    return _truncate(x + np.uint64(1 << shift - 1), shift) if shift else x
