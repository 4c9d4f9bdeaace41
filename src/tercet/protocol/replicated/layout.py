"""What each pair of workers draws in a truncation or a ReLU: labels and sizes.

A call of the generator costs more than a few hundred words of it; operations on few elements
therefore draw all that a pair shares in one go. Many elements are drawn when they are needed,
while they are still in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate

from tercet.protocol.replicated.comparison import by_digits
from tercet.protocol.replicated.groups import carry_tree
from tercet.protocol.replicated.lend import low_words
from tercet.protocol.replicated.party import Drawn, Layout
from tercet.ring.digits import digits, lent_digits, word_rows

#: Most elements of an operation whose randomness is drawn ahead.
AHEAD = 1 << 13


@lru_cache(maxsize=4096)
def truncate_layout(size: int, shift: int, partial: bool, fresh: bool = False) -> Layout:
    """Return the layout of ``truncate`` or ``truncate_fresh``."""
    lender, pair, outer = _truncation(size, shift, partial, flip=False)
    if fresh:
        pair = dict.fromkeys(pair, size)
    return _laid_out(lender, pair, outer)


@lru_cache(maxsize=4096)
def relu_layout(size: int, shift: int, bits: int, partial: bool) -> Layout:
    """Return the layout of ``relu``."""
    lender, pair, outer = _truncation(size, shift, partial, flip=True)
    plane = -(-size // 64)
    if by_digits(bits, size):
        rows = word_rows(digits(bits), bits)
        lender["digits"] = word_rows(lent_digits(bits), bits) * size
        pair |= {"flip": plane, "units": rows * size, "answer": rows * size, "offsets": size}
        return _laid_out(lender, pair, outer)
    tree = carry_tree(bits, size)
    lender["leaves"] = tree.monomials * plane
    rows = (2 * tree.leaves - 1) * plane
    pair |= {"flip": plane, "leaves one": rows, "leaves two": rows}
    for parts in (lender, pair, outer):
        for level in range(tree.levels):
            nodes = tree.leaves >> (level + 1)
            parts[f"level {level}"] = (2 * nodes - 1) * plane
        parts["open"] = plane
    return _laid_out(lender, pair, outer)


def _laid_out(*pairs: Mapping[str, int]) -> Layout:
    """Place labels, each with its number of words, one after the other."""
    lender, pair, outer = (
        Drawn(
            sum(counts.values()),
            {
                label: slice(end - count, end)
                for (label, count), end in zip(
                    counts.items(), accumulate(counts.values()), strict=True
                )
            },
        )
        for counts in pairs
    )
    return lender, pair, outer


def _truncation(
    size: int, shift: int, partial: bool, flip: bool
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    lender: dict[str, int] = {}
    outer: dict[str, int] = {}
    if partial:
        lender["split"] = outer["split"] = size
    wide = (shift > 0 or partial) + (2 if flip else 0)
    lender["lend"] = wide * size
    if shift:
        lender["lend low"] = low_words((1 + flip) * size, shift)
    back = (size if flip else 0) + low_words(size, shift)
    return lender, {"return one": back, "return two": back}, outer
