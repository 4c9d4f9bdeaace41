"""Replicated secret sharing among three workers, semi-honest, honest majority.

x = x0 + x1 + x2 mod 2^64; worker i holds (x_i, x_{i+1}). Products after Araki, Furukawa, Lindell,
Nof and Ohara, "High-throughput semi-honest secure three-party computation with an honest
majority" (CCS 2016), sections 2.2 and 3, with one resend for a dot product of any length.

Truncation and comparison work on a *split* x = u + v, where u is known to worker 0 and v to
workers 1 and 2 (``split``), so that every mixed term is a product of something of worker 0 with
something of the pair (``lend``). See ``docs/protocols.md`` for derivation, costs and proofs.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tercet.crypto.prg import Streams
from tercet.protocol.base import Bits, Flags, Kernel, Partial, Places, Protocol, Share, Words
from tercet.protocol.replicated.comparison import sign_opened, sign_shared
from tercet.protocol.replicated.layout import AHEAD, relu_layout, truncate_layout
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.select import (
    chosen,
    flip_bit,
    halves,
    kept_bit,
    lend_plane,
    masked_multiple,
    open_flipped,
)
from tercet.protocol.replicated.sign import and_gate
from tercet.protocol.replicated.split import Split, raised, split_partial, split_share
from tercet.protocol.replicated.truncate import truncated, truncated_fresh
from tercet.protocol.rounds import Round, Steps, done, together, words


class Replicated(Protocol):
    """One party's side of the replicated protocol, in one session and slice."""

    name = "replicated"

    def __init__(
        self, index: int, following: Streams, preceding: Streams, own: Streams, piece: int = 0
    ) -> None:
        """Create worker ``index``'s side.

        Args:
            index: 0, 1 or 2.
            following: streams shared with worker index + 1.
            preceding: streams shared with worker index - 1.
            own: streams that nobody else knows.
            piece: number of the slice of the batch; part of every stream's name.
        """
        self.party = Party(index, following, preceding, own, piece)

    def add(self, x: Share | Partial, y: Share | Partial) -> Share | Partial:
        """Add summand by summand; a share enters a partial by each worker's first summand."""
        if isinstance(x, Share) and isinstance(y, Share):
            return Share(tuple(a + b for a, b in zip(x.parts, y.parts, strict=True)))
        return Partial((x.parts[0] + y.parts[0],))

    def add_public(self, x: Share | Partial, y: Words) -> Share | Partial:  # type: ignore[override]
        """Add to summand 0."""
        place = {0: 0, 2: 1}.get(self.party.index)
        parts = list(x.parts)
        shape = np.broadcast_shapes(x.shape, y.shape)
        if place is not None and place < len(parts):
            parts[place] = parts[place] + y
        return type(x)(tuple(np.broadcast_to(p, shape) for p in parts))

    def constant(self, value: Words) -> Share:
        """Hold ``value`` as summand 0."""
        zero = np.zeros_like(value)
        return Share(
            (value if self.party.index == 0 else zero, value if self.party.index == 2 else zero)
        )

    def product(self, kernel: Kernel, x: Share, y: Share) -> Partial:
        """Compute this worker's cross terms: worker 0 one product, the others two.

        Worker 0: (x0 + x1)(y0 + y1). Worker i: x_i y_{i+1} + x_{i+1} y_i, and worker 1 x_2 y_2 as
        well, which it adds to the factor that has fewer elements.
        """
        (a, b), (c, d) = x.parts, y.parts
        if self.party.index == 0:
            return Partial((kernel(a + b, c + d),))
        if self.party.index == 1:
            if a.size < c.size:
                a = a + b
            else:
                c = c + d
        total = kernel(a, d)
        total += kernel(b, c)
        return Partial((total,))

    def bit_not(self, x: Bits) -> Bits:
        """Complement summand 0."""
        place = {0: 0, 2: 1}.get(self.party.index)
        return Bits(tuple(~p if i == place else p for i, p in enumerate(x.parts)), x.shape)

    def take_bits(self, x: Bits, rows: Places, inverted: Flags) -> Bits:
        """Take whole words; complement summand 0."""
        place = {0: 0, 2: 1}.get(self.party.index)
        mask = np.where(inverted, ~np.uint64(0), np.uint64(0))[:, None]
        parts = []
        for number, part in enumerate(x.parts):
            taken = part.reshape(x.shape[0], -1)[rows]
            parts.append((taken ^ mask if number == place else taken).reshape(-1))
        return Bits(tuple(parts), (len(rows), *x.shape[1:]))

    def reshare(self, x: Share | Partial, at: str) -> Steps[Share]:
        """One round, 24 bytes an element: mask by a share of zero and pass to the left."""
        mine = x.parts[0] + self.party.zero_words("reshare", at, x.size).reshape(x.shape)
        received = yield Round(to_prev=[mine], from_next=8 * x.size)
        return Share((mine, words(received.from_next, *x.shape)))

    def truncate(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Two rounds, after Guo et al. 2025 (see ``truncate``)."""
        if x.size <= AHEAD:
            self.party.draw_ahead(at, truncate_layout(x.size, shift, isinstance(x, Partial)))
        split, begin = self._split(x, at)
        _, (result, _) = cast(
            "tuple[None, tuple[Share, None]]",
            (yield from together(begin, truncated(self.party, split, shift, None, at))),
        )
        return _shaped(result, x.shape)

    def truncate_fresh(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Two rounds (see ``truncate``)."""
        if x.size <= AHEAD:
            self.party.draw_ahead(at, truncate_layout(x.size, shift, isinstance(x, Partial), True))
        split, begin = self._split(x, at)
        _, result = cast(
            "tuple[None, Share]",
            (yield from together(begin, truncated_fresh(self.party, split, shift, at))),
        )
        return _shaped(result, x.shape)

    def round(self, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Truncate x + 2^shift: a truncation is one unit too low on average, whatever x is."""
        moved = self.add_public(x, np.asarray(np.uint64(1 << shift)))
        return self.truncate(moved, shift, at)

    def relu(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Share]:
        """Truncate, multiply by a random bit r and find the sign, side by side; open sign xor r.

        With y the truncated value and c = sign xor r: relu = y - r y if c is 0, r y if c is 1.
        """
        value, _ = yield from self._relu(x, shift, shift, bits, False, at)
        return value

    def rectify(
        self, x: Share | Partial, shift: int, low: int, bits: int, at: str
    ) -> Steps[tuple[Share, Bits]]:
        """Run a ReLU beside lending t: not sign = not c xor t xor q."""
        value, bit = yield from self._relu(x, shift, low, bits, True, at)
        assert bit is not None
        return value, bit

    def _relu(
        self, x: Share | Partial, shift: int, low: int, bits: int, keep: bool, at: str
    ) -> Steps[tuple[Share, Bits | None]]:
        if x.size <= AHEAD:
            self.party.draw_ahead(at, relu_layout(x.size, shift, bits, isinstance(x, Partial)))
        split, begin = self._split(x, at)
        flip = flip_bit(self.party, x.size, at)
        # Rounded as by ``round``, but compared as it is.
        moved = raised(self.party, split, 1 << shift) if keep and shift else split
        _, (value, multiple), opened, lent = cast(
            "tuple[None, tuple[Share, Share], Words, Words]",
            (
                yield from together(
                    begin,
                    truncated(self.party, moved, shift, flip, at),
                    sign_opened(self.party, split, low, bits, flip, at),
                    lend_plane(self.party, flip, at) if keep else done(flip),
                )
            ),
        )
        result = _shaped(chosen(opened, value, multiple), x.shape)
        if not keep:
            return result, None
        return result, Bits(kept_bit(self.party, opened, flip, lent), x.shape)

    def negative(self, x: Share | Partial, shift: int, bits: int, at: str) -> Steps[Bits]:
        """Compare as ``relu`` does, and keep the bit shared."""
        split, begin = self._split(x, at)
        _, parts = cast(
            "tuple[None, tuple[Words, Words]]",
            (yield from together(begin, sign_shared(self.party, split, shift, bits, at))),
        )
        return Bits(parts, x.shape)

    def bit(self, x: Share, position: int, at: str) -> Steps[Bits]:
        """Compare on the window that ends at the bit: without a shift, no lower carry is lost."""
        return self.negative(x, 0, position + 1, at)

    def bit_and(self, x: Bits, y: Bits, at: str) -> Steps[Bits]:
        """One round, three bits an element."""
        parts = yield from and_gate(
            self.party, (x.parts[0], x.parts[1]), (y.parts[0], y.parts[1]), "and", at
        )
        return Bits(parts, x.shape)

    def select(self, bit: Bits, x: Share, at: str) -> Steps[Share]:
        """Two rounds: r x for a random bit r while bit xor r is opened."""
        split, _ = self._split(x, at)
        flip = flip_bit(self.party, x.size, at)
        multiple, opened = cast(
            "tuple[Share, Words]",
            (
                yield from together(
                    masked_multiple(self.party, split, flip, at),
                    open_flipped(self.party, bit, flip, at),
                )
            ),
        )
        assert split.share is not None
        return _shaped(chosen(~opened, split.share, multiple), x.shape)

    def gate(self, bit: Bits, x: Share | Partial, shift: int, at: str) -> Steps[Share]:
        """Two rounds: a shared bit is the xor of what worker 0 knows and what the pair knows."""
        moved = self.add_public(x, np.asarray(np.uint64(1 << shift))) if shift else x
        split, begin = self._split(moved, at)
        _, (_, result) = cast(
            "tuple[None, tuple[Share, Share]]",
            (
                yield from together(
                    begin, truncated(self.party, split, shift, halves(self.party, bit), at)
                )
            ),
        )
        return _shaped(result, x.shape)

    def _split(self, x: Share | Partial, at: str) -> tuple[Split, Steps[None]]:
        if isinstance(x, Share):
            return split_share(self.party, x)
        return split_partial(self.party, x, at)


def _shaped(x: Share, shape: tuple[int, ...]) -> Share:
    return Share(tuple(p.reshape(shape) for p in x.parts))
