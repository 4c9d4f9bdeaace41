"""Truncation of a split value and, in the same two rounds, its product with a random bit.

Let u' = u + 2^62, a and b the top bits of u' and v. For |x| < 2^62 the sum u' + v wraps around
2^64 exactly if a OR b, so that, with

    U = (u' >> s) - 2^(64-s) a - 2^(62-s)        (worker 0)
    V = (v >> s) - 2^(64-s) b                    (workers 1 and 2),

y = U + V + 2^(64-s) a b is x / 2^s rounded down, or one less (after Guo et al. 2025, with a OR b
= a + b - a b). The product a b counts modulo 2^s only, hence travels in s bits.

With a bit r = t xor q, t known to worker 0 alone and q to workers 1 and 2 alone,

    r y = tU (1 - 2q) + q U + t V (1 - 2q) + q V + 2^(64-s) (t a . b (1 - 2q) + a . q b)

needs only products of something of worker 0 with something of the pair: see ``lend``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercet.protocol.base import Share, Words
from tercet.protocol.replicated.lend import low_words, pack, unpack
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.split import Split
from tercet.protocol.rounds import Round, Steps, words

_ONE = np.uint64(1)
_TOP = np.uint64(63)
_OFFSET = np.uint64(1 << 62)


@dataclass(frozen=True, slots=True)
class Flip:
    """This worker's half of a random bit r = t xor q for each element.

    ``plane`` is bit-sliced, ``word`` has a 0 or 1 an element: t at worker 0, q at 1 and 2.
    """

    plane: Words
    word: Words


def truncated(
    party: Party, split: Split, shift: int, flip: Flip | None, at: str
) -> Steps[tuple[Share, Share | None]]:
    """Return shares (flat) of y = x >> shift and, with ``flip``, of r y. Two rounds.

    ``shift`` may be 0 with ``flip``: then y = x. In round 1 worker 0 sends to worker 2, in round 2
    workers 1 and 2 send to worker 0.
    """
    run = _lend if party.index == 0 else _apply
    return run(party, split, shift, flip, at)


def _counts(split: Split, shift: int, flip: Flip | None) -> tuple[bool, int, int]:
    """Return whether U is lent, and the numbers of wide and narrow values lent."""
    lends_value = shift > 0 or split.share is None
    wide = lends_value + (2 if flip else 0)
    narrow = (1 + (flip is not None)) if shift else 0
    return lends_value, wide, narrow


def _lend(
    party: Party, split: Split, shift: int, flip: Flip | None, at: str
) -> Steps[tuple[Share, Share | None]]:
    size, u = split.size, split.known
    lends_value, wide, narrow = _counts(split, shift, flip)
    lent = np.empty((wide, size), dtype=np.uint64)
    low = np.empty((narrow, size), dtype=np.uint64)
    if shift:
        lifted = u + _OFFSET
        np.right_shift(lifted, _TOP, out=low[0])
        value = lifted >> np.uint64(shift)
        value -= low[0] << np.uint64(64 - shift)
        value -= np.uint64(1 << (62 - shift))
    else:
        value = u
    if lends_value:
        lent[0] = value
    if flip:
        np.multiply(flip.word, value, out=lent[-2])
        lent[-1] = flip.word
        if shift:
            np.bitwise_and(flip.word, low[0], out=low[1])
    masks = party.of_lender("lend", at, wide * size).reshape(wide, size)
    lent -= masks
    sent = [lent]
    if shift:
        masks_low = party.of_lender("lend low", at, low_words(narrow * size, shift))
        low -= unpack(masks_low, shift, narrow * size).reshape(narrow, size)
        sent.append(pack(low.reshape(-1), shift))
    yield Round(to_prev=sent)

    back = (size if flip else 0) + low_words(size, shift)
    received = yield Round(from_next=8 * back, from_prev=8 * back)
    one, two = words(received.from_next, back), words(received.from_prev, back)
    if lends_value:
        first, second = lent[0], masks[0]
    else:
        assert split.share is not None
        first, second = split.share.parts
    tail = size if flip else 0
    if shift:
        first = first + (unpack(two[tail:], shift, size) << np.uint64(64 - shift))
        second = second + (unpack(one[tail:], shift, size) << np.uint64(64 - shift))
    multiple = Share((two[:size], one[:size])) if flip else None
    return Share((first, second)), multiple


def _apply(
    party: Party, split: Split, shift: int, flip: Flip | None, at: str
) -> Steps[tuple[Share, Share | None]]:
    size = split.size
    lends_value, wide, narrow = _counts(split, shift, flip)
    packed = low_words(narrow * size, shift)
    if party.index == 1:
        lent = party.of_lender("lend", at, wide * size)
        low = party.of_lender("lend low", at, packed) if shift else lent[:0]
        yield Round()
    else:
        received = yield Round(from_next=8 * (wide * size + packed))
        message = words(received.from_next, wide * size + packed)
        lent, low = message[: wide * size], message[wide * size :]
    lent = lent.reshape(wide, size)
    v = split.known
    if lends_value:
        copy = lent[0]
    else:
        assert split.share is not None
        copy = split.share.parts[0 if party.index == 1 else 1]

    back = (size if flip else 0) + low_words(size, shift)
    masks = [party.of_pair(label, at, back) for label in ("return one", "return two")]
    tail = size if flip else 0
    sent: list[Words] = []
    third, value = v, copy
    if shift:
        places = np.uint64(64 - shift)
        carry = v >> _TOP
        third = v >> np.uint64(shift)
        third -= carry << places
        copies = unpack(low, shift, narrow * size).reshape(narrow, size)
        masks_low = [unpack(m[tail:], shift, size) for m in masks]
    multiple = None
    if flip:
        q = flip.word
        sign = _ONE - q - q
        result = lent[-2] * sign
        result += q * copy
        result += lent[-1] * (sign * third)
        if shift:
            result += (copies[1] * (carry * sign) + copies[0] * (q & carry)) << places
        result += masks[party.index - 1][:size]
        rest = q * third
        rest -= masks[0][:size]
        rest -= masks[1][:size]
        multiple = _place(party, result, rest)
        sent.append(result)
    if shift:
        product = copies[0] * carry
        product += masks_low[party.index - 1]
        value = copy + (product << places)
        third = third - ((masks_low[0] + masks_low[1]) << places)
        sent.append(pack(product, shift))
    yield Round(to_prev=sent) if party.index == 1 else Round(to_next=sent)
    return _place(party, value, third), multiple


def _place(party: Party, returned: Words, third: Words) -> Share:
    """Return the share of workers 1 (x1, x2) and 2 (x2, x0)."""
    return Share((returned, third) if party.index == 1 else (third, returned))
