"""Products of a shared bit with a shared number, by a random bit that nobody knows.

r = t xor q: t is drawn by worker 0 alone, q by workers 1 and 2 alone. r x is computed while the
bit b is still being found; then c = b xor r, which is uniform, is opened, and b x is r x or
x - r x. A dealt r would tell its dealer every b.
"""

from __future__ import annotations

from typing import cast

from tercet.protocol.base import Bits, Share, Words
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.split import Split
from tercet.protocol.replicated.truncate import truncated
from tercet.protocol.rounds import Round, Steps, words
from tercet.ring import steps


def flip_bit(party: Party, size: int, at: str) -> Words:
    """Draw this worker's half of ``size`` random bits r = t xor q: t at worker 0, else q."""
    draw = party.alone if party.index == 0 else party.of_pair
    return draw("flip", at, -(-size // 64))


def chosen(opened: Words, x: Share, multiple: Share) -> Share:
    """Return r x where the opened bit is 1, x - r x where it is 0: local. Flat shares."""
    return Share(
        tuple(steps.choose(opened, p, r) for p, r in zip(x.parts, multiple.parts, strict=True))
    )


def masked_multiple(party: Party, split: Split, flip: Words, at: str) -> Steps[Share]:
    """Return shares (flat) of r x for a replicated x. Two rounds."""
    _, multiple = yield from truncated(party, split, 0, flip, at)
    return cast("Share", multiple)


def open_bits(party: Party, summand: Words, at: str) -> Steps[Words]:
    """Open the XOR of the three workers' summands, each masked here by a share of zero.

    One round, six bits an element. Only for bits that a random bit hides.
    """
    mine = summand ^ party.zero_bits("open", at, summand.size).reshape(summand.shape)
    received = yield Round([mine], [mine], mine.nbytes, mine.nbytes)
    return (
        mine ^ words(received.from_next, *summand.shape) ^ words(received.from_prev, *summand.shape)
    )


def open_flipped(party: Party, bit: Bits, plane: Words, at: str) -> Steps[Words]:
    """Open bit xor r, with ``plane`` this worker's half of r."""
    return open_bits(party, flipped(party, bit.parts[0], plane), at)


def flipped(party: Party, summand: Words, plane: Words) -> Words:
    """Add r = t xor q to a XOR sharing: t at worker 0, q at worker 1."""
    return summand if party.index == 2 else summand ^ plane


def halves(party: Party, bit: Bits) -> Words:
    """Return this worker's half of a shared bit, as ``flip_bit`` has it of a random one.

    Worker 0 holds summands 0 and 1, workers 1 and 2 both hold summand 2.
    """
    if party.index == 0:
        return bit.parts[0] ^ bit.parts[1]
    return bit.parts[2 - party.index]


def lend_plane(party: Party, plane: Words, at: str) -> Steps[Words]:
    """Split worker 0's t in a summand of workers 0 and 1 and one of workers 2 and 0.

    Return the summand of workers 2 and 0 at these two, that of workers 0 and 1 at worker 1. One
    round, one bit an element.
    """
    size = plane.size
    if party.index == 2:
        received = yield Round(from_next=8 * size)
        return words(received.from_next, size)
    mask = party.of_lender("keep", at, size)
    if party.index == 1:
        yield Round()
        return mask
    sent: Words = plane ^ mask
    yield Round(to_prev=[sent])
    return sent


def kept_bit(party: Party, opened: Words, plane: Words, lent: Words) -> tuple[Words, Words]:
    """Return a sharing of not c xor t xor q, with ``plane`` t or q and ``lent`` as above."""
    if party.index == 0:
        return lent ^ ~opened, lent ^ plane
    if party.index == 1:
        return lent, plane
    return plane, lent ^ ~opened
