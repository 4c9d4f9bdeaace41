"""Slow, exact references for `kernels`, written from the definitions with Python integers.

They share no code with the kernels, shape computations included, and take only small arrays.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "add_carries",
    "answer_leaves",
    "bit_planes",
    "choose",
    "conv",
    "expand_mask",
    "lend_leaves",
    "matmul",
    "pack_bits",
    "planes_to_words",
    "truncate_apply",
    "truncate_lend",
]

MODULUS = 2**64

Words = NDArray[np.uint64]


def _reduced(values: NDArray[np.object_]) -> Words:
    return np.array([int(v) % MODULUS for v in values.flat], np.uint64).reshape(values.shape)


def matmul(a: Words, b: Words) -> Words:
    """The product of a (..., M, K) and b (..., K, N) over the integers, then modulo 2**64."""
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = np.broadcast_to(a, (*batch, rows, inner))
    right = np.broadcast_to(b, (*batch, inner, columns))
    out = np.zeros((*batch, rows, columns), np.uint64)
    for index in np.ndindex(*batch):
        x, y = left[index].tolist(), right[index].T.tolist()
        for i, j in itertools.product(range(rows), range(columns)):
            out[(*index, i, j)] = sum(p * q for p, q in zip(x[i], y[j], strict=True)) % MODULUS
    return out


def conv(
    x: Words,
    w: Words,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int,
) -> Words:
    """Convolution of x (N, *spatial, C) with w (*kernel, C / groups, O), any number of dimensions.

    Every output is summed tap by tap from the elements of the input that its taps meet.
    """
    kernel = w.shape[:-2]
    filters = w.shape[-1] // groups
    channels = w.shape[-2]
    # Positions of the dilated input run from -low to dilated size + high - 1.
    sizes = []
    for axis, size in enumerate(x.shape[1:-1]):
        low, high = padding[axis]
        last = (size - 1) * input_dilation[axis] + high if size else high - 1
        reach = (kernel[axis] - 1) * kernel_dilation[axis] if kernel[axis] else -1
        sizes.append(len(range(-low, last - reach + 1, strides[axis])))
    integers, weights = x.astype(object), w.astype(object)
    out = np.zeros((x.shape[0], *sizes, w.shape[-1]), object)
    for position in np.ndindex(*sizes):
        for tap in np.ndindex(*kernel):
            at = [
                p * s - low + t * d
                for p, s, (low, _), t, d in zip(
                    position, strides, padding, tap, kernel_dilation, strict=True
                )
            ]
            places = [divmod(p, d) for p, d in zip(at, input_dilation, strict=True)]
            if any(
                remainder or not 0 <= q < size
                for (q, remainder), size in zip(places, x.shape[1:-1], strict=True)
            ):
                continue
            seen = integers[(slice(None), *(q for q, _ in places))]
            for g in range(groups):
                inputs = seen[:, g * channels : (g + 1) * channels]
                columns = slice(g * filters, (g + 1) * filters)
                if channels:
                    products = inputs[:, :, None] * weights[tap][None, :, columns]
                    out[(slice(None), *position, columns)] += products.sum(axis=1)
    return _reduced(out)


def bit_planes(x: Words, shift: int, count: int) -> Words:
    """Plane j, shape (ceil(n / 64),), holds bit shift + j of every element of x (n,)."""
    n = x.size
    out = np.zeros((count, (n + 63) // 64), np.uint64)
    for j in range(count):
        plane = sum(((int(v) >> (shift + j)) & 1) << i for i, v in enumerate(x.flat))
        for word in range(out.shape[1]):
            out[j, word] = (plane >> (64 * word)) % MODULUS
    return out


def _bit(plane: Words, i: int) -> int:
    return (int(plane[i // 64]) >> (i % 64)) & 1


def planes_to_words(planes: Words, n: int) -> Words:
    """Element i < n is the sum over j of bit i of planes[j] << j."""
    values = [sum(_bit(plane, i) << j for j, plane in enumerate(planes)) for i in range(n)]
    return np.array(values, np.uint64)


def expand_mask(plane: Words, n: int) -> Words:
    """Element i < n is 2**64 - 1 if bit i of the plane is one, else 0."""
    return np.array([_bit(plane, i) * (MODULUS - 1) for i in range(n)], np.uint64)


def project(x: Words, rows: Words, plane: Words) -> Words:
    """Element r < 64 is the sum of (bit j of row r - bit j of the plane) x[j]."""
    sums = [
        sum((_bit(rows[:, r], j) - _bit(plane, j)) * int(v) for j, v in enumerate(x))
        for r in range(64)
    ]
    return np.array([s % MODULUS for s in sums], np.uint64)


def pack_bits(x: Words, bits: int) -> bytes:
    """The integer sum of (x[i] mod 2**bits) << (i * bits), little-endian."""
    total = sum((int(v) % 2**bits) << (i * bits) for i, v in enumerate(x.flat))
    return int(total).to_bytes((x.size * bits + 7) // 8, "little")


def _packed(values: Sequence[int], bits: int) -> Words:
    """The low bits of all values, in whole words."""
    total = sum((v % 2**bits) << (i * bits) for i, v in enumerate(values))
    count = (len(values) * bits + 63) // 64
    return np.array([(total >> (64 * w)) % MODULUS for w in range(count)], np.uint64)


def _unpacked(packed: Words, bits: int, n: int) -> list[int]:
    total = sum(int(w) << (64 * i) for i, w in enumerate(packed))
    return [(total >> (i * bits)) % 2**bits for i in range(n)]


def _reduced_list(values: Sequence[int]) -> Words:
    return np.array([v % MODULUS for v in values], np.uint64)


def truncate_lend(
    u: Words, shift: int, plane: Words | None, masks: Words, low_masks: Words
) -> tuple[Words, Words]:
    """U, tU and t less the masks; a and t a less the packed masks, as in `kernels`."""
    n = u.size
    tops = [((int(x) + 2**62) % MODULUS) >> 63 for x in u]
    values = [int(x) for x in u]
    if shift:
        values = [
            (((x + 2**62) % MODULUS) >> shift) - 2 ** (64 - shift) * a - 2 ** (62 - shift)
            for x, a in zip(values, tops, strict=True)
        ]
    rows, low = [values], list(tops)
    if plane is not None:
        t = [_bit(plane, i) for i in range(n)]
        rows += [[p * x for p, x in zip(t, values, strict=True)], t]
        low += [p * a for p, a in zip(t, tops, strict=True)]
    rows = rows[len(rows) - masks.shape[0] :]
    lent = np.zeros(masks.shape, np.uint64)
    for out, row, mask in zip(lent, rows, masks, strict=True):
        out[:] = _reduced_list([x - int(m) for x, m in zip(row, mask, strict=True)])
    if not shift:
        return lent, np.zeros(0, np.uint64)
    hidden = _unpacked(low_masks, shift, len(low))
    return lent, _packed([x - m for x, m in zip(low, hidden, strict=True)], shift)


def truncate_apply(
    v: Words,
    shift: int,
    plane: Words | None,
    copy: Words,
    lent: Words,
    low: Words,
    mask: Words,
    other_mask: Words,
) -> tuple[Words, Words, Words, Words]:
    """The fields of `steps.Applied` by its formulas."""
    n = v.size
    tops = [int(x) >> 63 for x in v]
    values = [(int(x) >> shift) - 2 ** (64 - shift) * b for x, b in zip(v, tops, strict=True)]
    if not shift:
        values = [int(x) for x in v]
    copies = [0] * (2 * n)
    hidden, other_hidden = [0] * n, [0] * n
    tail = 0 if plane is None else n
    if shift:
        copies = _unpacked(low, shift, n if plane is None else 2 * n)
        hidden = _unpacked(mask[tail:], shift, n)
        other_hidden = _unpacked(other_mask[tail:], shift, n)
    place = 2 ** (64 - shift) if shift else 0
    multiple, multiple_third = [], []
    if plane is not None:
        product, bit = lent[-2].tolist(), lent[-1].tolist()
        for i in range(n):
            q = _bit(plane, i)
            sign = 1 - 2 * q
            multiple.append(
                product[i] * sign
                + q * int(copy[i])
                + bit[i] * values[i] * sign
                + place * (copies[n + i] * tops[i] * sign + copies[i] * q * tops[i])
                + int(mask[i])
            )
            multiple_third.append(q * values[i] - int(mask[i]) - int(other_mask[i]))
    carries = [copies[i] * tops[i] + hidden[i] for i in range(n)]
    message = (
        [_reduced_list(multiple), _packed(carries, shift)] if shift else [_reduced_list(multiple)]
    )
    return (
        np.concatenate(message),
        _reduced_list(multiple_third),
        _reduced_list([int(c) + place * x for c, x in zip(copy, carries, strict=True)]),
        _reduced_list([values[i] - place * (hidden[i] + other_hidden[i]) for i in range(n)]),
    )


def add_carries(x: Words, low: Words, shift: int) -> Words:
    """x + 2**(64 - shift) times what `low` holds in `shift` bits an element."""
    carries = _unpacked(low, shift, x.size)
    return _reduced_list([int(v) + (c << (64 - shift)) for v, c in zip(x, carries, strict=True)])


def choose(plane: Words, x: Words, multiple: Words) -> Words:
    """`multiple` where the bit is one, x - `multiple` where it is zero."""
    return _reduced_list(
        [
            int(multiple[i]) if _bit(plane, i) else int(x[i]) - int(multiple[i])
            for i in range(x.size)
        ]
    )


def _leaf_bits(planes: Words, leaves: Sequence[tuple[int, int]]) -> list[list[list[Words]]]:
    """For each pair, for each of its leaves, the planes of the leaf's bits."""
    at, blocks = 0, []
    for size, count in leaves:
        blocks.append([list(planes[at + i * size : at + (i + 1) * size]) for i in range(count)])
        at += size * count
    return blocks


def _subsets(size: int) -> list[tuple[int, ...]]:
    return [s for n in range(1, size + 1) for s in itertools.combinations(range(size), n)]


def _and(planes: Sequence[Words], width: int) -> Words:
    result = np.full(width, MODULUS - 1, np.uint64)
    for plane in planes:
        result &= plane
    return result


def lend_leaves(planes: Words, leaves: Sequence[tuple[int, int]], masks: Words) -> Words:
    """Rows of masked monomials, in the order that `kernels` describes."""
    width = planes.shape[1]
    rows = [
        _and([bits[j] for j in subset], width)
        for (size, _), block in zip(leaves, _leaf_bits(planes, leaves), strict=True)
        for subset in _subsets(size)
        for bits in block
    ]
    return np.array(rows, np.uint64).reshape(masks.shape) ^ masks


def answer_leaves(
    planes: Words, leaves: Sequence[tuple[int, int]], lent: Words, mask: Words, other_mask: Words
) -> tuple[Words, Words]:
    """Rows of generate and propagate and the third summands, by their definitions."""
    width = planes.shape[1]
    generate, propagate, alone = [], [], []
    row = 0
    for (size, count), block in zip(leaves, _leaf_bits(planes, leaves), strict=True):
        for number, v in enumerate(block):
            g, p = np.zeros(width, np.uint64), np.zeros(width, np.uint64)
            for place, subset in enumerate(_subsets(size)):
                copy = lent[row + place * count + number]
                low = subset[0]
                outside = [j for j in range(size) if j not in subset]
                g ^= copy & _and([v[low], *(v[j] for j in outside if j > low)], width)
                p ^= copy & _and([v[j] for j in outside], width)
            generate.append(g)
            propagate.append(p)
            alone.append(_and(v, width))
        row += (2**size - 1) * count
    answer = np.array(generate + propagate[1:], np.uint64).reshape(mask.shape)
    third = mask ^ other_mask
    third[len(generate) :] ^= np.array(alone[1:], np.uint64).reshape(len(alone) - 1, width)
    return answer ^ mask, third
