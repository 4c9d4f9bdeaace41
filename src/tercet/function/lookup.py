"""Rows of a secret table at secret places.

A place is spelled in binary, and its digits in two one-hot vectors, of the upper and of the lower
ones. The first takes a block of neighbouring rows out of the table, the second a row out of the
block: two dot products, each of one resend, where a single one-hot vector as long as the table
would cost a product of a bit and a number for each of its rows.
"""

from __future__ import annotations

from math import prod
from typing import cast

import numpy as np

from tercet.function.fixed import RANGE_BITS, constant_minus
from tercet.protocol.base import Bits, Partial, Protocol, Share, Words
from tercet.protocol.rounds import Steps, together
from tercet.ring import kernels

#: Bytes of a product of a bit and a number, and of a resend.
_SELECT, _RESEND = 33, 24
#: Elements of one word of a bit-sliced value.
_WORD = 64


def lookup(
    protocol: Protocol, index: Share, table: Share, shared: int, scale: int, bits: int, at: str
) -> Steps[Share]:
    """Return the rows of ``table`` at ``index``. Exact.

    Args:
        protocol: this party's side.
        index: places times 2^scale, |x| < 2^(bits-1) units, of shape (first..., rest...). They are
            rounded to whole numbers; below 0 they count as 0, beyond the last row as the last.
        table: shape (first..., n, width).
        shared: number of the first axes, which a table each has.
        scale: fractional bits of ``index``, 8 to 20.
        bits: width of the comparisons.
        at: place in the program.

    Returns:
        Shape (first..., rest..., width), with the fractional bits of ``table``, resent.
    """
    count, width = table.shape[-2:]
    first, rest = index.shape[:shared], prod(index.shape[shared:])
    digits = yield from _digits(protocol, index, count, scale, bits, at)
    low = low_digits(count, width)
    block = 1 << low
    upper, lower = yield from together(
        _one_hot(protocol, digits, 0, digits.shape[0] - low, -(-count // block), f"{at}/upper"),
        _one_hot(protocol, digits, digits.shape[0] - low, low, block, f"{at}/lower"),
    )

    def placed(hot: Share) -> Share:
        shape = (*first, rest, hot.shape[0])
        return protocol.map(
            lambda a: np.ascontiguousarray(a[:, : index.size].T).reshape(shape), hot
        )

    found = yield from protocol.reshare(
        _blocks(protocol, placed(upper), table, block), f"{at}/block"
    )
    if low:
        blocks = protocol.map(lambda a: a.reshape(*first, rest, block, width), found)
        chosen = protocol.map(lambda a: a[..., None, :], placed(lower))
        found = yield from protocol.reshare(
            protocol.product(kernels.matmul, chosen, blocks), f"{at}/row"
        )
    return protocol.map(lambda a: a.reshape(*index.shape, width), found)


def low_digits(count: int, width: int) -> int:
    """Return how many binary digits choose within a block, by the bytes of one lookup."""

    def cost(low: int) -> int:
        block = 1 << low
        if low == 0:
            return _SELECT * count + _RESEND * width
        return _SELECT * (-(-count // block) + block) + _RESEND * (block + 1) * width

    return min(range(max(count - 1, 0).bit_length() or 1), key=cost)


def held(count: int, width: int) -> int:
    """Return the elements that one lookup holds at most in one array."""
    block = 1 << low_digits(count, width)
    return max(-(-count // block), block * width)


def _blocks(protocol: Protocol, hot: Share, table: Share, block: int) -> Partial:
    """Return the block of rows that ``hot`` names, for the last one as if zeros followed it."""
    count, width = table.shape[-2:]
    whole, left = divmod(count, block)

    def rows(start: int, number: int, pad: int = 0) -> Share:
        def cut(a: Words) -> Words:
            part = a[..., start : start + number * block, :]
            if pad:
                part = np.concatenate((part, np.zeros((*a.shape[:-2], pad, width), a.dtype)), -2)
            return part.reshape(*a.shape[:-2], number, block * width)

        return protocol.map(cut, table)

    main = protocol.map(lambda a: a[..., :whole], hot)
    total = protocol.product(kernels.matmul, main, rows(0, whole))
    if left:
        last = protocol.map(lambda a: a[..., whole:], hot)
        end = protocol.product(kernels.matmul, last, rows(whole * block, 1, block - left))
        total = cast("Partial", protocol.add(total, end))
    return total


def _digits(
    protocol: Protocol, index: Share, count: int, scale: int, bits: int, at: str
) -> Steps[Bits]:
    """Return the binary digits of the places, highest first: shape (digits, places).

    Places are filled up to whole words of bit-sliced values.
    """
    number, filler = (count - 1).bit_length(), -index.size % _WORD
    x = protocol.map(lambda a: np.concatenate((a.reshape(-1), np.zeros(filler, a.dtype))), index)
    x = yield from protocol.relu(x, 0, bits, f"{at}/low")
    # The last place may be further from 0 than any place that was seen in calibration.
    wide = min(max(bits, scale + number + 1) + 1, RANGE_BITS)
    room = constant_minus(protocol, count - 1.0, x, scale)
    room = yield from protocol.relu(room, 0, wide, f"{at}/high")
    x = constant_minus(protocol, count - 0.5, room, scale)

    def lifted(a: Words) -> Words:
        return np.stack([a << np.uint64(j) for j in range(number)] or [a])

    return (
        yield from protocol.bit(protocol.map(lifted, x), scale + max(number, 1) - 1, f"{at}/digits")
    )


def _one_hot(
    protocol: Protocol, digits: Bits, first: int, number: int, count: int, at: str
) -> Steps[Share]:
    """Return whole numbers (count, places): 1 where the digits spell the row's number, else 0."""
    places = digits.shape[1]
    ones = protocol.constant(np.ones((count, places), np.uint64))
    if number == 0:
        return ones
    planes = yield from _spelled(protocol, digits, first, number, count, at)
    return (yield from protocol.select(planes, ones, f"{at}/select"))


def _spelled(
    protocol: Protocol, digits: Bits, first: int, number: int, count: int, at: str
) -> Steps[Bits]:
    """Return for each number below ``count`` whether ``number`` digits from ``first`` spell it."""
    if number == 1:
        rows = np.full(count, first)
        return protocol.take_bits(digits, rows, np.arange(count) == 0)
    low = number // 2
    high_count = -(-count // (1 << low))
    high, lower = yield from together(
        _spelled(protocol, digits, first, number - low, high_count, f"{at}h"),
        _spelled(protocol, digits, first + number - low, low, min(count, 1 << low), f"{at}l"),
    )
    every, none = np.arange(count), np.zeros(count, bool)
    return (
        yield from protocol.bit_and(
            protocol.take_bits(high, every >> low, none),
            protocol.take_bits(lower, every & ((1 << low) - 1), none),
            f"{at}/and",
        )
    )
