"""The carry tree of a comparison: which bits form a leaf, and what each leaf costs.

A leaf takes up to four bits at once, since all its inputs belong to worker 0 or to the pair: one
lent monomial for each non-empty subset of its bits buys generate and propagate in one return. The
number of leaves is the smallest power of two that suffices; their sizes differ by at most one,
the larger ones at the low end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

LEAF_BITS = 4


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


@cache
def carry_tree(bits: int) -> Tree:
    """Return the tree for a comparison of ``bits`` bits (at least 8)."""
    carries = bits - 1
    leaves = 2
    while leaves * LEAF_BITS < carries:
        leaves *= 2
    small, larger = divmod(carries, leaves)
    blocks: list[Block] = []
    start = 0
    for size, count in ((small + 1, larger), (small, leaves - larger)):
        if count:
            block = Block(start, size, count)
            blocks.append(block)
            start += size * count
    return Tree(leaves, tuple(blocks), sum(block.monomials for block in blocks))
