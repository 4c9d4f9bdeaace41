"""The sign of a truncated split value by digits: few rounds, for few elements.

As in ``sign``, the sign of (u >> s) + (v >> s) on a window of k bits is the xor of the two top bits
and of the carry out of the k - 1 bits below, which is u > w with w = not v: a number of worker 0
against one that workers 1 and 2 both know. Worker 0 lends its digits modulo a prime; the pair
returns, for each digit, a value that is 0 for one digit if u > w and for none if not, times a
random unit and rotated at random, so that worker 0 learns this one bit and nothing else (after the
private comparison of Wagh, Gupta and Chandran, "SecureNN", PoPETs 2019, section 4.2, with digits of
two bits, rotations in place of permutations, and no case apart). Where the pair's ``reverse`` is
set it is u < w that is found, so the bit itself is the xor of what worker 0 has and of ``reverse``.

Two rounds, and one more to open the sign under a random bit or to share it: one less than the
shallowest tree, with half its messages; but twice the bytes that a deeper tree takes.
"""

from __future__ import annotations

import numpy as np

from tercet.protocol.base import Words
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.select import lend_plane
from tercet.protocol.replicated.split import Split
from tercet.protocol.rounds import Round, Steps, words
from tercet.ring import digits, kernels


def sign_opened(
    party: Party, split: Split, shift: int, bits: int, plane: Words, at: str
) -> Steps[Words]:
    """Return the opened plane sign xor r, with ``plane`` this worker's half of r: 3 rounds.

    Worker 0 finds sign xor q, adds t, and tells the others, to whom t hides it.
    """
    if party.index == 0:
        mine = (yield from _find(party, split, shift, bits, at)) ^ plane
        yield Round([mine], [mine])
        return mine
    yield from _answer(party, split, shift, bits, plane, at)
    if party.index == 1:
        received = yield Round(from_prev=plane.nbytes)
        return words(received.from_prev, plane.size)
    received = yield Round(from_next=plane.nbytes)
    return words(received.from_next, plane.size)


def sign_shared(
    party: Party, split: Split, shift: int, bits: int, at: str
) -> Steps[tuple[Words, Words]]:
    """Return the sign as a boolean sharing: 3 rounds.

    Summand 2 is a random q of workers 1 and 2, and worker 0 splits sign xor q in the other two.
    """
    width = -(-split.size // 64)
    if party.index == 0:
        mine = yield from _find(party, split, shift, bits, at)
        zero = yield from lend_plane(party, mine, at)
        return zero, zero ^ mine
    half = party.of_pair("flip", at, width)
    yield from _answer(party, split, shift, bits, half, at)
    lent = yield from lend_plane(party, half, at)
    return (lent, half) if party.index == 1 else (half, lent)


def _find(party: Party, split: Split, shift: int, bits: int, at: str) -> Steps[Words]:
    """Return sign xor q at worker 0."""
    size = split.size
    lent = digits.lent_digits(bits)
    masks = party.of_lender("digits", at, digits.word_rows(lent, bits) * size).reshape(-1, size)
    yield Round(to_prev=[digits.lend_digits(split.known, shift, bits, masks)])
    shape = digits.message_shape(digits.digits(bits), bits, size)
    length = shape[0] * shape[1]
    received = yield Round(from_next=length, from_prev=length)
    one, two = (np.frombuffer(m, np.uint8).reshape(shape) for m in received)
    found: Words = digits.find_zero(one, two, bits, size)
    found ^= kernels.bit_planes(split.known, shift + bits - 1, 1)[0]
    return found


def _answer(party: Party, split: Split, shift: int, bits: int, half: Words, at: str) -> Steps[None]:
    """Let worker 0 find sign xor q, with ``half`` q."""
    size, lent = split.size, digits.lent_digits(bits)
    rows = digits.word_rows(digits.digits(bits), bits)
    copies: Words | digits.Rows
    if party.index == 1:
        words_lent = digits.word_rows(lent, bits)
        copies = party.of_lender("digits", at, words_lent * size).reshape(-1, size)
        yield Round()
    else:
        shape = digits.message_shape(lent, bits, size)
        received = yield Round(from_next=shape[0] * shape[1])
        copies = np.frombuffer(received.from_next, np.uint8).reshape(shape)
    units = party.of_pair("units", at, rows * size).reshape(-1, size)
    masks = party.of_pair("answer", at, rows * size).reshape(-1, size)
    offsets = party.of_pair("offsets", at, size)
    reverse = half ^ kernels.bit_planes(split.known, shift + bits - 1, 1)[0]
    answer = digits.answer_digits(split.known, shift, bits, reverse, copies, units, offsets, masks)
    yield Round(to_prev=[answer]) if party.index == 1 else Round(to_next=[answer])
