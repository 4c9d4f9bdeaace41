"""The comparison by digits from its definition, on Python integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
# Each value of a digit as a polynomial in its bits: coefficients of 1, h, l and h l.
_VALUES = {0: (1, -1, -1, 1), 1: (0, 0, 1, -1), 2: (0, 1, 0, -1), 3: (0, 0, 0, 1)}


def prime(bits: int) -> int:
    return 13 if bits <= 24 else 31


def drawn(words: Words, count: int, base: int, per_word: int) -> list[list[int]]:
    """Digit r of element i, for r < count."""
    rows = []
    for row in words:
        state = [int(w) for w in row]
        for _ in range(per_word):
            rows.append([w * base >> 64 for w in state])
            state = [w * base % 2**64 for w in state]
    return rows[:count]


def shape(bits: int) -> list[tuple[bool, bool]]:
    """For each digit from the bottom, whether its high and its low bit are of the number."""
    count = (bits + 1) // 2
    digits = [(True, True)] * count
    digits[0] = (True, False)
    if bits % 2:
        digits[-1] = (False, True)
    return digits


def number(x: int, shift: int, bits: int) -> int:
    return (x >> shift) % 2 ** (bits - 1)


def lend(u: Words, shift: int, bits: int, masks: Words) -> NDArray[np.uint8]:
    p, per_word = prime(bits), 4 if bits <= 24 else 3
    columns = []
    for x in u:
        value, digits = 2 * number(int(x), shift, bits), []
        for place, (high, low) in enumerate(shape(bits)):
            h, l = value >> 2 * place + 1 & 1, value >> 2 * place & 1  # noqa: E741
            digits += [d for d, kept in ((h, high), (l, low), (h & l, high and low)) if kept]
        columns.append(digits)
    rows = drawn(masks, len(columns[0]) if columns else 0, p, per_word)
    masked = [[(d - rows[r][i]) % p for r, d in enumerate(c)] for i, c in enumerate(columns)]
    return packed(masked, bits)


def packed(columns: list[list[int]], bits: int) -> NDArray[np.uint8]:
    width, count = 4 if bits <= 24 else 5, len(columns[0]) if columns else 0
    out = np.zeros((-(-count * width // 8), -(-len(columns) // 8) * 8), np.uint8)
    for i, column in enumerate(columns):
        together = sum(d << width * r for r, d in enumerate(column))
        out[:, i] = list(together.to_bytes(len(out), "little"))
    return out


def unpacked(message: NDArray[np.uint8], count: int, bits: int, n: int) -> list[list[int]]:
    """The digits of each element."""
    width = 4 if bits <= 24 else 5
    columns = [int.from_bytes(bytes(message[:, i]), "little") for i in range(n)]
    return [[c >> width * r & (1 << width) - 1 for r in range(count)] for c in columns]


def answer(
    v: Words,
    shift: int,
    bits: int,
    reverse: Words,
    copies: list[list[int]],
    first: bool,
    units: Words,
    offsets: Words,
    masks: Words,
) -> NDArray[np.uint8]:
    p, per_word, kinds = prime(bits), 4 if bits <= 24 else 3, shape(bits)
    count = len(kinds)
    unit, mask = drawn(units, count, p - 1, per_word), drawn(masks, count, p, per_word)
    columns = []
    for i, x in enumerate(v):
        w = 2 * (2 ** (bits - 1) - 1 - number(int(x), shift, bits)) + 1
        less = int(reverse[i // 64]) >> i % 64 & 1
        lent, at = [], 0
        for high, low in kinds:
            here = iter(copies[i][at : at + high + low + (high and low)])
            at += high + low + (high and low)
            lent.append((first, next(here) if high else 0, next(here) if low else 0, sum(here)))
        c, above = [0] * count, 0
        for d in reversed(range(count)):
            high, low = kinds[d]
            digit = w >> 2 * d & 3
            values = [a for a in range(4) if (high or a < 2) and (low or not a & 1)]

            holds = _share(lent[d], [a for a in values if (a < digit if less else a > digit)])
            c[d] = first - holds + above
            above += first - _share(lent[d], [a for a in values if a == digit])
        blinded = [x * (unit[r][i] + 1) for r, x in enumerate(c)]
        turn = int(offsets[i]) * count >> 64
        sign = 1 if first else -1
        columns.append(
            [(blinded[(r + turn) % count] + sign * mask[r][i]) % p for r in range(count)]
        )
    return packed(columns, bits)


def _share(lent: tuple[int, ...], chosen: list[int]) -> int:
    """A worker's share of whether the digit is one of the chosen values."""
    return sum(f * x for a in chosen for f, x in zip(_VALUES[a], lent, strict=True))
