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

The third summand of y, V less the masks of a b, keeps bits of v. Where the result is to be released
(``truncated_fresh``) the masks are whole words, so that all three are uniform but for their sum.
"""

from __future__ import annotations

import numpy as np

from tercet.protocol.base import Share, Words
from tercet.protocol.replicated.lend import low_words
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.split import Split
from tercet.protocol.rounds import Round, Steps, words
from tercet.ring import steps


def truncated(
    party: Party, split: Split, shift: int, flip: Words | None, at: str
) -> Steps[tuple[Share, Share | None]]:
    """Return shares (flat) of y = x >> shift and, with ``flip``, of r y. Two rounds.

    ``flip`` is this worker's half of r, a bit plane: t at worker 0, q at workers 1 and 2. ``shift``
    may be 0 with ``flip``: then y = x. In round 1 worker 0 sends to worker 2, in round 2 workers 1
    and 2 send to worker 0.
    """
    run = _lend if party.index == 0 else _apply
    return run(party, split, shift, flip, at)


def truncated_fresh(party: Party, split: Split, shift: int, at: str) -> Steps[Share]:
    """Return shares (flat) of y = x >> shift, uniform but for their sum. Two rounds."""
    size = split.size
    _, _, packed = _lent(split, shift, None)
    if party.index == 0:
        lent, low = steps.truncate_lend(
            split.known,
            shift,
            None,
            party.of_lender("lend", at, size).reshape(1, size),
            party.of_lender("lend low", at, packed),
        )
        yield Round(to_prev=[lent, low])
        received = yield Round(from_next=8 * size, from_prev=8 * size)
        return Share((words(received.from_prev, size), words(received.from_next, size)))
    lent, low = yield from _take(party, 1, size, packed, at)
    masks = [party.of_pair(label, at, size) for label in ("return one", "return two")]
    none = np.zeros(packed, np.uint64)  # the words' masks hide what lies in their upper bits
    _, _, value, third = steps.truncate_apply(
        split.known, shift, None, lent[0], lent, low, none, none
    )
    value += masks[party.index - 1]
    third -= masks[0]
    third -= masks[1]
    yield Round(to_prev=[value]) if party.index == 1 else Round(to_next=[value])
    return _place(party, value, third)


def _lent(split: Split, shift: int, flip: Words | None) -> tuple[bool, int, int]:
    """Return whether U is lent, the number of wide values, and of words with the narrow ones."""
    lends_value = shift > 0 or split.share is None
    wide = lends_value + (2 if flip is not None else 0)
    narrow = 1 + (flip is not None)
    return lends_value, wide, low_words(narrow * split.size, shift)


def _lend(
    party: Party, split: Split, shift: int, flip: Words | None, at: str
) -> Steps[tuple[Share, Share | None]]:
    size = split.size
    lends_value, wide, packed = _lent(split, shift, flip)
    masks = party.of_lender("lend", at, wide * size).reshape(wide, size)
    masks_low = party.of_lender("lend low", at, packed) if shift else masks[0, :0]
    lent, low = steps.truncate_lend(split.known, shift, flip, masks, masks_low)
    yield Round(to_prev=[lent, low] if shift else [lent])

    tail = 0 if flip is None else size
    back = tail + low_words(size, shift)
    received = yield Round(from_next=8 * back, from_prev=8 * back)
    one, two = words(received.from_next, back), words(received.from_prev, back)
    if lends_value:
        first, second = lent[0], masks[0]
    else:
        assert split.share is not None
        first, second = split.share.parts
    if shift:
        first = steps.add_carries(first, two[tail:], shift)
        second = steps.add_carries(second, one[tail:], shift)
    return Share((first, second)), None if flip is None else Share((two[:size], one[:size]))


def _apply(
    party: Party, split: Split, shift: int, flip: Words | None, at: str
) -> Steps[tuple[Share, Share | None]]:
    size = split.size
    lends_value, wide, packed = _lent(split, shift, flip)
    lent, low = yield from _take(party, wide, size, packed, at)
    if lends_value:
        copy = lent[0]
    else:
        assert split.share is not None
        copy = split.share.parts[0 if party.index == 1 else 1]

    back = (0 if flip is None else size) + low_words(size, shift)
    masks = [party.of_pair(label, at, back) for label in ("return one", "return two")]
    sent, rest, value, third = steps.truncate_apply(
        split.known, shift, flip, copy, lent, low, masks[party.index - 1], masks[2 - party.index]
    )
    yield Round(to_prev=[sent]) if party.index == 1 else Round(to_next=[sent])
    multiple = None if flip is None else _place(party, sent[:size], rest)
    return _place(party, value, third), multiple


def _take(party: Party, wide: int, size: int, packed: int, at: str) -> Steps[tuple[Words, Words]]:
    """Return this worker's copies of what worker 0 lends."""
    if party.index == 1:
        lent = party.of_lender("lend", at, wide * size)
        low = party.of_lender("lend low", at, packed) if packed else lent[:0]
        yield Round()
    else:
        received = yield Round(from_next=8 * (wide * size + packed))
        message = words(received.from_next, wide * size + packed)
        lent, low = message[: wide * size], message[wide * size :]
    return lent.reshape(wide, size), low


def _place(party: Party, returned: Words, third: Words) -> Share:
    """Return the share of workers 1 (x1, x2) and 2 (x2, x0)."""
    return Share((returned, third) if party.index == 1 else (third, returned))
