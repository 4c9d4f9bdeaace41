"""Gradients of a convolution over Z_2^64: bilinear maps like the convolution itself.

By patches and one matrix product each, so that no work is spent on the zeros that a strided or
dilated convolution written as another convolution would multiply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    space, taps = g.shape[1:-1], list(np.ndindex(*window))
    width, filters = len(planes) // groups, g.shape[-1] // groups
    total = np.zeros((groups, len(taps), width, filters), np.uint64)
    for rows, some in _pieces(len(x), len(taps), int(np.prod(space)) * len(planes)):
        patches = np.empty((len(taps[some]), len(planes), len(x[rows]), *space), np.uint64)
        for place, patch in zip(taps[some], patches, strict=True):
            at = _strided(place, space, strides, kernel_dilation)
            patch[...] = planes[(slice(None), rows, *at)]
        for n in range(groups):
            part = patches[:, n * width : (n + 1) * width].reshape(-1, patches[0, 0].size)
            out = g[rows][..., n * filters : (n + 1) * filters].reshape(-1, filters)
            kernels.matmul(part, out, accumulate_into=total[n, some].reshape(-1, filters))
    return np.concatenate(list(total.reshape(groups, *window, width, filters)), axis=-1)


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
    taps, width, filters = list(np.ndindex(*window)), w.shape[-2], w.shape[-1] // groups
    flat = w.reshape(len(taps), width, -1)
    inner = [(e - 1) * d + 1 for e, d in zip(extents, input_dilation, strict=True)]
    wide = [i + lo + hi for i, (lo, hi) in zip(inner, padding, strict=True)]
    result = np.zeros((len(g), *wide, width * groups), np.uint64)
    for rows, some in _pieces(len(g), len(taps), int(np.prod(space)) * width * groups):
        for n in range(groups):
            kernel = flat[some, :, n * filters : (n + 1) * filters].reshape(-1, filters)
            out = g[rows][..., n * filters : (n + 1) * filters].reshape(-1, filters)
            shape = (-1, *space, len(taps[some]), width)
            columns = kernels.matmul(out, kernel.T).reshape(shape)
            target = result[rows][..., n * width : (n + 1) * width]
            for number, place in enumerate(taps[some]):
                at = _strided(place, space, strides, kernel_dilation)
                target[(slice(None), *at)] += columns[..., number, :]
    cut = [
        slice(lo, lo + i, d) for (lo, _), i, d in zip(padding, inner, input_dilation, strict=True)
    ]
    return np.ascontiguousarray(result[(slice(None), *cut)])


def _widened(x: Words, padding: Pairs, dilation: Sequence[int]) -> Words:
    low, high = zip(*padding, strict=True)
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


def _pieces(rows: int, taps: int, elements: int) -> Iterator[tuple[slice, slice]]:
    """Yield pieces of rows and of taps, so that the patches of a piece fit.

    ``elements`` is the size of what one tap sees of one row.
    """
    some = min(taps, max(1, _PATCHES // elements))
    step = max(1, _PATCHES // (elements * some))
    for start in range(0, rows, step):
        for first in range(0, taps, some):
            yield slice(start, start + step), slice(first, first + some)
