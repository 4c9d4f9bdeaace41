"""Slow, exact references for `kernels`, written from the definitions with Python integers.

They share no code with the kernels, shape computations included, and take only small arrays.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bit_planes", "conv", "expand_mask", "matmul", "pack_bits", "planes_to_words"]

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


def pack_bits(x: Words, bits: int) -> bytes:
    """The integer sum of (x[i] mod 2**bits) << (i * bits), little-endian."""
    total = sum((int(v) % 2**bits) << (i * bits) for i, v in enumerate(x.flat))
    return int(total).to_bytes((x.size * bits + 7) // 8, "little")
