"""Which way a comparison takes: by digits or by a carry tree. Both find the same sign."""

from __future__ import annotations

from functools import cache
from math import prod

from tercet.protocol.base import Cost, Words
from tercet.protocol.replicated import digits, sign
from tercet.protocol.replicated.groups import ROUND_BYTES, carry_tree
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.split import Split
from tercet.protocol.rounds import Steps
from tercet.ring.digits import MOST_BITS, lent_digits, message_shape
from tercet.ring.digits import digits as digit_count


def sign_opened(
    party: Party, split: Split, shift: int, bits: int, plane: Words, at: str
) -> Steps[Words]:
    """Return the opened plane sign xor r, with ``plane`` this worker's half of r."""
    if by_digits(bits, split.size):
        return digits.sign_opened(party, split, shift, bits, plane, at)
    return sign.sign_opened(party, split, shift, bits, plane, at)


def sign_shared(
    party: Party, split: Split, shift: int, bits: int, at: str
) -> Steps[tuple[Words, Words]]:
    """Return the sign as a boolean sharing."""
    if by_digits(bits, split.size):
        return digits.sign_shared(party, split, shift, bits, at)
    return sign.sign_shared(party, split, shift, bits, at)


@cache
def by_digits(bits: int, size: int) -> bool:
    """Whether digits are cheaper for ``size`` elements, each round counted as ``ROUND_BYTES``."""
    if bits > MOST_BITS:
        return False
    ways = (_digits_cost(bits, size, opened=True), _tree_cost(bits, size, opened=True))
    few, many = (way.bytes + way.rounds * ROUND_BYTES for way in ways)
    return few < many


def comparison_cost(bits: int, size: int, *, opened: bool) -> Cost:
    """Payload bytes over all links and rounds of ``sign_opened`` or ``sign_shared``."""
    return (_digits_cost if by_digits(bits, size) else _tree_cost)(bits, size, opened=opened)


def _digits_cost(bits: int, size: int, *, opened: bool) -> Cost:
    """The digits, two answers, and a bit to each of two workers or to one."""
    lent = prod(message_shape(lent_digits(bits), bits, size))
    back = prod(message_shape(digit_count(bits), bits, size))
    return Cost(lent + 2 * back + (2 if opened else 1) * _plane(size), 3)


def _tree_cost(bits: int, size: int, *, opened: bool) -> Cost:
    """The tree, whose last level sends six bits or three."""
    tree = carry_tree(bits, size)
    last = 6 if opened else 3
    return Cost((tree.planes + last) * _plane(size), 3 + tree.levels)


def _plane(size: int) -> int:
    return 8 * -(-size // 64)
