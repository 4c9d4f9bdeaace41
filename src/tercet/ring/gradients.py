"""Gradients of a convolution over Z_2^64: bilinear maps like the convolution itself.

By patches and one matrix product each, so that no work is spent on the zeros that a strided or
dilated convolution written as another convolution would multiply.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tercet.ring import kernels, local

Words = NDArray[np.uint64]
Pairs = Sequence[tuple[int, int]]

#: Elements of the patches that are laid out at a time (32 MB).
_PATCHES = 1 << 22


def conv_kernel(
    x: Words,
    g: Words,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int,
) -> Words:
    """Return the gradient of ``kernels.conv`` with respect to its kernel.

    Args:
        x: input of the convolution, (N, *spatial, C).
        g: gradient of its result, (N, *out, O).
        window: spatial extents of the kernel.
        strides, padding, input_dilation, kernel_dilation, groups: of the convolution.

    Returns:
        Shape (*window, C / groups, O).
    """
    # Channels first: a row of the first matrix is one channel under one tap, at all places.
    planes = np.moveaxis(_widened(x, padding, input_dilation), -1, 0)
    taps, space = int(np.prod(window)), g.shape[1:-1]
    width, filters = len(planes) // groups, g.shape[-1] // groups
    total = np.zeros((groups, width * taps, filters), np.uint64)
    step = max(1, _PATCHES // (int(np.prod(space)) * taps * len(planes)))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        patches = _patches(planes[:, rows], space, window, strides, kernel_dilation)
        for n in range(groups):
            part = patches[n * width : (n + 1) * width].reshape(width * taps, -1)
            out = g[rows][..., n * filters : (n + 1) * filters].reshape(-1, filters)
            kernels.matmul(part, out, accumulate_into=total[n])
    shaped = np.moveaxis(total.reshape(groups, width, *window, filters), 1, -2)
    return np.concatenate(list(shaped), axis=-1)


def conv_input(
    g: Words,
    w: Words,
    *,
    extents: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int,
) -> Words:
    """Return the gradient of ``kernels.conv`` with respect to its input.

    Args:
        g: gradient of the convolution's result, (N, *out, O).
        w: its kernel, (*window, C / groups, O).
        extents: spatial extents of its input.
        strides, padding, input_dilation, kernel_dilation, groups: of the convolution.

    Returns:
        Shape (N, *extents, C).
    """
    window, space = w.shape[:-2], g.shape[1:-1]
    taps, width, filters = int(np.prod(window)), w.shape[-2], w.shape[-1] // groups
    inner = [(e - 1) * d + 1 for e, d in zip(extents, input_dilation, strict=True)]
    wide = [i + max(lo, 0) + max(hi, 0) for i, (lo, hi) in zip(inner, padding, strict=True)]
    result = np.zeros((len(g), *wide, width * groups), np.uint64)
    step = max(1, _PATCHES // (int(np.prod(space)) * taps * width * groups))
    for start in range(0, len(g), step):
        rows = slice(start, start + step)
        for n in range(groups):
            kernel = w[..., n * filters : (n + 1) * filters].reshape(taps * width, filters)
            out = g[rows][..., n * filters : (n + 1) * filters].reshape(-1, filters)
            columns = kernels.matmul(out, kernel.T).reshape(-1, *space, taps, width)
            target = result[rows][..., n * width : (n + 1) * width]
            for tap, place in enumerate(np.ndindex(*window)):
                at = _strided(place, space, strides, kernel_dilation)
                target[(slice(None), *at)] += columns[..., tap, :]
    cut = [
        slice(max(lo, 0), max(lo, 0) + i, d)
        for (lo, _), i, d in zip(padding, inner, input_dilation, strict=True)
    ]
    return np.ascontiguousarray(result[(slice(None), *cut)])


def _widened(x: Words, padding: Pairs, dilation: Sequence[int]) -> Words:
    low, high = ([max(p[side], 0) for p in padding] for side in (0, 1))
    if not any((*low, *high)) and all(d == 1 for d in dilation):
        return x
    inner = (0, *(d - 1 for d in dilation), 0)
    return local.pad(x, (0, *low, 0), (0, *high, 0), inner)


def _strided(
    place: Sequence[int], space: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[slice]:
    return [
        slice(p * d, p * d + (n - 1) * s + 1, s)
        for p, n, s, d in zip(place, space, strides, dilation, strict=True)
    ]


def _patches(
    x: Words,
    space: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> Words:
    """Return (C, taps, N, *space) of ``x`` (C, N, *spatial): what each tap sees."""
    taps = int(np.prod(window))
    result = np.empty((len(x), taps, x.shape[1], *space), np.uint64)
    for tap, place in enumerate(np.ndindex(*window)):
        at = _strided(place, space, strides, dilation)
        result[:, tap] = x[(slice(None), slice(None), *at)]
    return result
