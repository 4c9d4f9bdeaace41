"""The local steps of a comparison by digits, each a single pass of the extension.

``protocol.replicated.digits`` has the protocol. Numbers of ``bits`` bits are read as digits of two
bits; digits are elements of Z_p, p = 13 up to 24 bits and 31 beyond, and travel in 4 or 5 bits
each. A message has rows of bytes, an element a column: bit j of row r is bit 8 r + j of the
element's digits, the columns filled up to a multiple of eight.

Random digits are drawn from uniform words, four (base 13 or 12) or three (base 31 or 30) from
each, by repeated multiplication of word / 2**64: the probability of each outcome of a word is off
by a factor of at most 1 + 2**-49. ``oracle`` has the same in plain Python.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.ring import _native
from tercet.ring.kernels import Words, words_array

Rows: TypeAlias = NDArray[np.uint8]

MOST_BITS: Final = 60
"""Widest window of a comparison by digits."""

_SMALL_BITS: Final = 24


def digits(bits: int) -> int:
    """Number of digits of a comparison on ``bits`` bits."""
    return (bits + 1) // 2


def lent_digits(bits: int) -> int:
    """Number of digits that worker 0 lends: the two bits of a digit and their product.

    The lowest digit has one bit of the number, as has the highest of an odd number of bits.
    """
    return 3 * digits(bits) - (4 if bits % 2 else 2)


def word_rows(count: int, bits: int) -> int:
    """Number of words an element from which ``count`` digits are drawn."""
    return -(-count // (4 if bits <= _SMALL_BITS else 3))


def message_shape(count: int, bits: int, size: int) -> tuple[int, int]:
    """Shape in bytes of a message with ``count`` digits of each of ``size`` elements."""
    return -(-count * (4 if bits <= _SMALL_BITS else 5) // 8), -(-size // 8) * 8


def lend_digits(u: Words, shift: int, bits: int, masks: Words) -> Rows:
    """The digits of u, and the products of the two bits of each, less the masks.

    Args:
        u: shape (n,). Bits ``shift`` to ``shift + bits - 2`` are compared.
        shift: from 0; shift + bits is at most 64.
        bits: 2 to 60.
        masks: shape (word_rows(lent_digits(bits), bits), n).

    Returns:
        A message, shape message_shape(lent_digits(bits), bits, n).

    Raises:
        ValueError: if the shapes do not fit.
    """
    u = words_array(u, "u")
    out = np.zeros(message_shape(lent_digits(bits), bits, u.size), np.uint8)
    _native.lend_digits(u, shift, bits, words_array(masks, "masks"), out)
    return out


def answer_digits(
    v: Words,
    shift: int,
    bits: int,
    reverse: Words,
    lent: Words | Rows,
    units: Words,
    offsets: Words,
    masks: Words,
) -> Rows:
    """What worker 1 or 2 returns of its copies of worker 0's digits.

    With u and v the numbers of bits ``shift`` to ``shift + bits - 2``, the two answers add up to
    rows of which exactly one is 0 if u + v carries, or if it does not where ``reverse`` is set.
    Otherwise none is.

    Args:
        v: shape (n,).
        shift: as for ``lend_digits``.
        bits: likewise.
        reverse: a bit plane, shape (ceil(n / 64),).
        lent: at worker 1 the masks of ``lend_digits``, at worker 2 its message.
        units: shape (word_rows(digits(bits), bits), n): a random unit for each row.
        offsets: shape (n,): by how much the rows are rotated.
        masks: shaped like ``units``; worker 1 adds them, worker 2 takes them off.

    Raises:
        ValueError: if the shapes do not fit.
    """
    v = words_array(v, "v")
    first = lent.dtype == np.uint64
    out = np.zeros(message_shape(digits(bits), bits, v.size), np.uint8)
    _native.answer_digits(
        v,
        shift,
        bits,
        words_array(reverse, "reverse"),
        first,
        lent,
        words_array(units, "units"),
        words_array(offsets, "offsets"),
        words_array(masks, "masks"),
        out,
    )
    return out


def find_zero(one: Rows, two: Rows, bits: int, n: int) -> Words:
    """Whether the sum of two answers has a zero: a bit plane, shape (ceil(n / 64),).

    Raises:
        ValueError: if the shapes do not fit.
    """
    out = np.empty(-(-n // 64), np.uint64)
    _native.find_zero(one, two, bits, n, out)
    return out
