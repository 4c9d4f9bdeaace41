"""The carry tree of a comparison: which bits form a leaf, and what each leaf costs.

A leaf takes several bits at once, since all its inputs belong to worker 0 or to the pair: one lent
monomial for each non-empty subset of its bits buys generate and propagate in one return. The
number of leaves is a power of two; their sizes differ by at most one, the larger ones at the low
end. Larger leaves save rounds and cost bytes: what is few bytes in all is given for a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

#: Most bits of a leaf (``max_leaf`` in the extension).
LEAF_BITS = 7
#: Bytes that a round is worth: what a link of 2 Gbit/s carries in a round of a quarter millisecond.
ROUND_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Block:
    """``count`` leaves of ``size`` bits from bit ``start`` on."""

    start: int
    size: int
    count: int

    @property
    def monomials(self) -> int:
        """Number of monomials that worker 0 lends for the block."""
        return ((1 << self.size) - 1) * self.count


@dataclass(frozen=True, slots=True)
class Tree:
    """Leaves of the carry over ``bits - 1`` bits."""

    leaves: int
    blocks: tuple[Block, ...]
    monomials: int

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Pairs of a size and a number of leaves, from bit 0 up."""
        return [(block.size, block.count) for block in self.blocks]

    @property
    def levels(self) -> int:
        """Number of levels above the leaves, the last one left out."""
        return self.leaves.bit_length() - 2

    @property
    def planes(self) -> int:
        """Bits an element that all workers together send, without the last level."""
        above = sum(3 * (2 * (self.leaves >> level) - 1) for level in range(1, self.levels + 1))
        return self.monomials + 2 * (2 * self.leaves - 1) + above


@cache
def carry_tree(bits: int, size: int) -> Tree:
    """Return the tree for comparing ``size`` elements on ``bits`` bits (at least 8).

    The cheapest in bytes, each round counted as ``ROUND_BYTES``.
    """
    carries = bits - 1
    leaves = 2
    while leaves * LEAF_BITS < carries:
        leaves *= 2
    candidates = [_tree(carries, leaves)]
    while 2 * leaves <= carries:
        leaves *= 2
        candidates.append(_tree(carries, leaves))
    plane = 8 * -(-size // 64)
    return min(candidates, key=lambda tree: tree.planes * plane + tree.levels * ROUND_BYTES)


def _tree(carries: int, leaves: int) -> Tree:
    small, larger = divmod(carries, leaves)
    blocks: list[Block] = []
    start = 0
    for size, count in ((small + 1, larger), (small, leaves - larger)):
        if count:
            block = Block(start, size, count)
            blocks.append(block)
            start += size * count
    return Tree(leaves, tuple(blocks), sum(block.monomials for block in blocks))
