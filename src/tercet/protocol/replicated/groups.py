"""The carry tree of a comparison: which bits form a leaf, and what each leaf costs.

A leaf takes up to four bits at once, since all its inputs belong to worker 0 or to the pair: one
lent monomial for each non-empty subset of its bits buys generate and propagate in one return. The
number of leaves is the smallest power of two that suffices; their sizes differ by at most one,
the larger ones at the low end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

LEAF_BITS = 4


@dataclass(frozen=True, slots=True)
class Block:
    """``count`` leaves of ``size`` bits from bit ``start`` on; ``offset`` of its monomials."""

    start: int
    size: int
    count: int
    offset: int

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


@cache
def carry_tree(bits: int) -> Tree:
    """Return the tree for a comparison of ``bits`` bits (at least 8)."""
    carries = bits - 1
    leaves = 2
    while leaves * LEAF_BITS < carries:
        leaves *= 2
    small, larger = divmod(carries, leaves)
    blocks: list[Block] = []
    start = offset = 0
    for size, count in ((small + 1, larger), (small, leaves - larger)):
        if count:
            block = Block(start, size, count, offset)
            blocks.append(block)
            start += size * count
            offset += block.monomials
    return Tree(leaves, tuple(blocks), offset)


@cache
def subsets(size: int) -> tuple[tuple[int, ...], ...]:
    """Return all non-empty subsets of range(size), smaller ones first."""
    return tuple(s for n in range(1, size + 1) for s in combinations(range(size), n))
