"""The abstract protocol: secret-shared arithmetic as the layers above see it.

Values are opaque to the layers above but for their shape: a ``Share``, a ``Partial`` (what a
product leaves before its resend) and ``Bits``. Linear operations are local and immediate;
operations that communicate are generators of rounds (see ``rounds``). ``at`` names the place in
the program where an operation stands, such as ``"17"`` or ``"17/max/0"``: streams of randomness
are named by it, so that the same place may be used only once in a session and slice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tercet.protocol.rounds import Steps

Words: TypeAlias = NDArray[np.uint64]
Places: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Value:
    """Arrays of one shape (uint64): what one party holds of a value."""

    parts: tuple[Words, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.parts[0].shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.parts[0].size


@dataclass(frozen=True, slots=True)
class Share(_Value):
    """A sharing that products and comparisons take."""


@dataclass(frozen=True, slots=True)
class Partial(_Value):
    """One additive summand of a product, not masked yet: it never leaves its party as it is."""


@dataclass(frozen=True, slots=True)
class Bits:
    """A boolean sharing of ``shape``, bit-sliced: 64 elements in one uint64 of each part."""

    parts: tuple[Words, ...]
    shape: tuple[int, ...]


Number = TypeVar("Number", Share, Partial)


class Kernel(Interface):
    """A bilinear map on uint64 arrays: ``multiply``, ``matmul`` or a convolution."""

    def __call__(self, a: Words, b: Words, /) -> Words:
        """Return the product modulo 2^64."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Payload bytes that all parties together send, and rounds (message delays)."""

    bytes: int
    rounds: int


class Protocol(ABC):
    """Arithmetic on secret values modulo 2^64 with f fractional bits kept by the caller."""

    name: str

    # Local operations.

    def map(self, function: Callable[[Words], Words], x: Number) -> Number:
        """Apply an array function that is linear over Z_2^64 to ``x``."""
        return type(x)(tuple(function(p) for p in x.parts))

    def combine(self, factors: Sequence[np.uint64], xs: Sequence[Share]) -> Share:
        """Return the sum of ``factors[i] * xs[i]``: public ring elements, shares of one shape."""
        totals = []
        for parts in zip(*(x.parts for x in xs), strict=True):
            total = parts[0] * factors[0]
            scratch = np.empty_like(total)
            for factor, part in zip(factors[1:], parts[1:], strict=True):
                np.multiply(part, factor, out=scratch)
                total += scratch
            totals.append(total)
        return Share(tuple(totals))

    @abstractmethod
    def add(self, x: Share | Partial, y: Share | Partial) -> Share | Partial:
        """Return x + y (NumPy broadcasting); a ``Partial`` if one of them is."""

    @abstractmethod
    def add_public(self, x: Number, y: Words) -> Number:
        """Return x + y for public ring elements ``y`` that broadcast to the shape of ``x``."""

    @abstractmethod
    def product(self, kernel: Kernel, x: Share, y: Share) -> Partial:
        """Return kernel(x, y), local: the resend is left to what takes the result."""

    @abstractmethod
    def bit_not(self, x: Bits) -> Bits:
        """Return the complement."""

    @abstractmethod
    def take_bits(self, x: Bits, rows: Places, inverted: Flags) -> Bits:
        """Return the named rows along the first axis, complemented where ``inverted`` is set.

        A row holds a multiple of 64 elements.
        """

    # Operations with rounds.

    @abstractmethod
    def reshare(self, x: Share | Partial, at: str) -> Steps[Share]:
        """Return a fresh sharing of the same value, its summands uniform but for their sum."""

    @abstractmethod
    def truncate(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return x / 2^shift for signed |x| < 2^62.

        The result is the floor or one less (in units of the last place); which of the two depends
        on the shares. Never grossly wrong.
        """

    @abstractmethod
    def truncate_fresh(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return ``truncate``'s result in a fresh sharing, as ``reshare`` makes it."""

    @abstractmethod
    def round(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return x / 2^shift for signed |x| < 2^62 - 2^shift, rounded to a neighbour, unbiased.

        Where errors add up, as in a gradient that is summed over a batch, ``truncate`` would make
        a drift of one unit a summand.
        """

    @abstractmethod
    def relu(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Share]:
        """Return max(0, truncate(x, shift)), exact for that truncation.

        ``bits`` is the width of the comparison: -2^(bits-1) < x >> shift < 2^(bits-1) must hold
        and bits <= 63 - shift (62 without a shift).
        """

    @abstractmethod
    def rectify(
        self, x: Share | Partial, shift: int, low: int, bits: int, at: str
    ) -> Steps[tuple[Share, Bits]]:
        """Return round(x, shift) where truncate(x, low) is not below 0, else 0; and that bit.

        ``bits`` is the width of the comparison, from bit ``low`` on: ``low`` is usually less than
        ``shift``, so that few positive x count as 0. The condition is that of ``relu``, with
        ``low`` as its shift.
        """

    @abstractmethod
    def negative(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Bits]:
        """Return [truncate(x, shift) < 0]; the same condition as for ``relu``."""

    @abstractmethod
    def bit(self, x: Share, position: int, at: str) -> Steps[Bits]:
        """Return bit ``position`` (7 to 61) of the ring element x, exact for every x."""

    @abstractmethod
    def bit_and(self, x: Bits, y: Bits, at: str) -> Steps[Bits]:
        """Return x AND y."""

    @abstractmethod
    def select(self, bit: Bits, x: Share, at: str) -> Steps[Share]:
        """Return x where ``bit`` is 1, else 0. The shapes are equal."""

    @abstractmethod
    def gate(self, bit: Bits, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Return ``round(x, shift)`` where ``bit`` is 1, else 0. The shapes are equal."""

    @abstractmethod
    def constant(self, value: Words) -> Share:
        """Return the trivial sharing of a public array."""


def subtract(protocol: Protocol, x: Share | Partial, y: Number) -> Share | Partial:
    """Return x - y."""
    return protocol.add(x, protocol.map(np.negative, y))
