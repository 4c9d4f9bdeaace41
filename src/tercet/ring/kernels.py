"""Array kernels modulo 2**64, on `uint64` arrays.

Thin wrappers of the compiled extension: they make inputs contiguous, allocate outputs and work out
shapes. The extension releases the GIL and keeps no state but scratch memory of its own thread, so
these functions may be called from several threads at once. How long they take depends on shapes,
never on values.

Unless stated otherwise, an array of another dtype than `uint64` raises `TypeError`; shapes that do
not fit raise `ValueError`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.ring import _native

__all__ = [
    "available_isas",
    "bit_planes",
    "conv",
    "conv_output_shape",
    "expand_mask",
    "get_isa",
    "matmul",
    "pack_bits",
    "planes_to_words",
    "set_isa",
    "unpack_bits",
]

Words = NDArray[np.uint64]

_UINT64: Final = np.dtype(np.uint64)
#: NumPy's flags of an array that is C-contiguous (1) and aligned (0x100).
_PLAIN: Final = 0x101

available_isas = _native.available_isas
get_isa = _native.get_isa
set_isa = _native.set_isa


def words_array(array: Words, name: str) -> Words:
    """`array`, C-contiguous, after a check of its type."""
    if (
        isinstance(array, np.ndarray)
        and array.dtype is _UINT64
        and array.flags.num & _PLAIN == _PLAIN
    ):
        return array
    if not isinstance(array, np.ndarray) or array.dtype != np.uint64:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be an array of dtype uint64, not {found}")
    return np.array(array, dtype=_UINT64, order="C")


def _target(
    out: Words | None, accumulate_into: Words | None, shape: tuple[int, ...]
) -> tuple[Words, bool]:
    """The array to write, and whether to add to it."""
    if out is not None and accumulate_into is not None:
        raise ValueError("give out or accumulate_into, not both")
    name = "out" if accumulate_into is None else "accumulate_into"
    target = out if accumulate_into is None else accumulate_into
    if target is None:
        return np.empty(shape, np.uint64), False
    if not isinstance(target, np.ndarray) or target.dtype != np.uint64:
        raise TypeError(f"{name} must be an array of dtype uint64")
    if target.shape != shape:
        raise ValueError(f"{name} has shape {target.shape}, the result {shape}")
    if not target.flags.c_contiguous or not target.flags.writeable:
        raise ValueError(f"{name} must be C-contiguous and writable")
    return target, accumulate_into is not None


def matmul(
    a: Words, b: Words, *, out: Words | None = None, accumulate_into: Words | None = None
) -> Words:
    """Matrix product modulo 2**64, with the shape rules of `numpy.matmul`.

    Args:
        a: shape (..., M, K), or (K,) for a row vector.
        b: shape (..., K, N), or (K,) for a column vector. Batch dimensions broadcast.
        out: a C-contiguous array of the result's shape to overwrite.
        accumulate_into: the same, to add the product to.

    Returns:
        Shape (..., M, N), without M or N where that operand was a vector; `out` or
        `accumulate_into` if given.

    Raises:
        TypeError: if an array is not `uint64`.
        ValueError: if shapes do not fit, or the output shares memory with an input.
    """
    a = words_array(a, "a")
    b = words_array(b, "b")
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("a and b must have at least one dimension")
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    if rows.shape[-1] != columns.shape[-2]:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not fit: K differs")
    if columns.ndim == 2:
        batch = rows.shape[:-2]
    else:
        try:
            batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
        except ValueError:
            raise ValueError(
                f"batch dimensions of {a.shape} and {b.shape} do not broadcast"
            ) from None
    m, k, n = rows.shape[-2], rows.shape[-1], columns.shape[-1]
    shape = batch + ((m,) if a.ndim > 1 else ()) + ((n,) if b.ndim > 1 else ())
    target, accumulate = _target(out, accumulate_into, shape)
    full = target.reshape(*batch, m, n)
    if columns.ndim == 2:
        # One matrix for all of a batch: the batch is only more rows.
        size = math.prod(rows.shape[:-1])
        _native.matmul(rows.reshape(size, k), columns, full.reshape(size, n), accumulate)
    elif rows.shape[:-2] == columns.shape[:-2]:
        size = math.prod(batch)
        _native.batch_matmul(
            rows.reshape(size, m, k),
            columns.reshape(size, k, n),
            full.reshape(size, m, n),
            accumulate,
        )
    else:
        wide_rows = np.broadcast_to(rows, (*batch, m, k))
        wide_columns = np.broadcast_to(columns, (*batch, k, n))
        for index in np.ndindex(batch):
            _native.matmul(wide_rows[index], wide_columns[index], full[index], accumulate)
    return target


def conv_output_shape(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
) -> tuple[int, ...]:
    """Shape of a convolution's output.

    A dimension in which the dilated kernel does not fit into the dilated, padded input is 0.

    Args:
        x_shape: (N, *spatial, C).
        w_shape: (*kernel, C / groups, O).
        strides: one a spatial dimension; likewise the other arguments, see `conv`.
        padding: (low, high) pairs.
        input_dilation: 1 for none.
        kernel_dilation: 1 for none.

    Returns:
        (N, *output spatial, O).
    """
    spatial = []
    for size, taps, stride, (low, high), dilation, spread in zip(
        x_shape[1:-1], w_shape[:-2], strides, padding, input_dilation, kernel_dilation, strict=True
    ):
        extent = (size - 1) * dilation + 1 if size > 0 else 0
        reach = (taps - 1) * spread + 1 if taps > 0 else 0
        spatial.append(max(0, (extent + low + high - reach) // stride + 1))
    return (x_shape[0], *spatial, w_shape[-1])


def _per_dimension(values: Sequence[int] | None, name: str, dimensions: int) -> tuple[int, ...]:
    if values is None:
        return (1,) * dimensions
    result = tuple(int(value) for value in values)
    if len(result) != dimensions or min(result) < 1:
        raise ValueError(f"{name} must be {dimensions} positive integers, not {result}")
    return result


def conv(
    x: Words,
    w: Words,
    *,
    strides: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
    groups: int = 1,
    out: Words | None = None,
    accumulate_into: Words | None = None,
) -> Words:
    """Convolution modulo 2**64 in one, two or three dimensions, channels last.

    As in machine learning this is a cross-correlation: the kernel is not flipped. Three dimensions
    are summed from two-dimensional convolutions, one a kernel depth.

    Args:
        x: shape (N, *spatial, C), one to three spatial dimensions.
        w: shape (*kernel, C / groups, O).
        strides: one a spatial dimension; all 1 if omitted.
        padding: (low, high) a spatial dimension, in positions of the dilated input; negative ones
            crop; all 0 if omitted.
        input_dilation: distance between neighbours of the input, with zeros between them (for
            transposed convolution); all 1 if omitted.
        kernel_dilation: distance between neighbours of the kernel; all 1 if omitted.
        groups: how many parts the channels and filters fall into; C for a depthwise convolution.
        out: a C-contiguous array of the result's shape to overwrite.
        accumulate_into: the same, to add the result to.

    Returns:
        Shape (N, *output spatial, O); `out` or `accumulate_into` if given.

    Raises:
        TypeError: if an array is not `uint64`.
        ValueError: if shapes or parameters do not fit, or the output shares memory with an input.
    """
    x = words_array(x, "x")
    w = words_array(w, "w")
    plan = _conv_plan(
        x.shape,
        w.shape,
        _fixed(strides),
        None if padding is None else tuple(map(tuple, padding)),
        _fixed(input_dilation),
        _fixed(kernel_dilation),
    )
    target, accumulate = _target(out, accumulate_into, plan.shape)
    if x.ndim == 5:
        _conv_3d(
            x,
            w,
            target,
            strides=plan.strides,
            padding=plan.padding,
            input_dilation=plan.input_dilation,
            kernel_dilation=plan.kernel_dilation,
            groups=groups,
            accumulate=accumulate,
        )
        return target
    if x.ndim == 3:
        plane_x, plane_w, plane_out = x[:, None], w[None], target[:, None]
    else:
        plane_x, plane_w, plane_out = x, w, target
    _native.conv(plane_x, plane_w, plane_out, *plan.planar, groups, accumulate)
    return target


class _ConvPlan(NamedTuple):
    """The parameters of a convolution, checked, with those of the planar one (`_native.conv`)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    planar: tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]


@lru_cache(maxsize=1024)
def _conv_plan(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    padding: tuple[tuple[int, ...], ...] | None,
    input_dilation: tuple[int, ...] | None,
    kernel_dilation: tuple[int, ...] | None,
) -> _ConvPlan:
    dimensions = len(x_shape) - 2
    if dimensions not in (1, 2, 3):
        raise ValueError(
            f"x must have 1 to 3 spatial dimensions, so 3 to 5 in all, not {len(x_shape)}"
        )
    if len(w_shape) != len(x_shape):
        raise ValueError(f"w must have {len(x_shape)} dimensions like x, not {len(w_shape)}")
    stride = _per_dimension(strides, "strides", dimensions)
    dilation = _per_dimension(input_dilation, "input_dilation", dimensions)
    spread = _per_dimension(kernel_dilation, "kernel_dilation", dimensions)
    pads = (
        ((0, 0),) * dimensions if padding is None else tuple((int(a), int(b)) for a, b in padding)
    )
    if len(pads) != dimensions:
        raise ValueError(f"padding must be {dimensions} pairs, not {len(pads)}")
    shape = conv_output_shape(
        x_shape,
        w_shape,
        strides=stride,
        padding=pads,
        input_dilation=dilation,
        kernel_dilation=spread,
    )
    lows = _pair(tuple(low for low, _ in pads), 0)
    planar = (_pair(stride), lows, _pair(dilation), _pair(spread))
    return _ConvPlan(shape, stride, pads, dilation, spread, planar)


def _fixed(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


def _pair(values: tuple[int, ...], height: int = 1) -> tuple[int, int]:
    return (values[-2] if len(values) > 1 else height, values[-1])


def _conv_3d(
    x: Words,
    w: Words,
    out: Words,
    *,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    input_dilation: tuple[int, ...],
    kernel_dilation: tuple[int, ...],
    groups: int,
    accumulate: bool,
) -> None:
    """Adds up one two-dimensional convolution a depth of the kernel, over all output depths."""
    images, depths = x.shape[0], out.shape[1]
    flat_out = out.reshape(images * depths, *out.shape[2:])
    if not accumulate:
        out.fill(0)
    for tap in range(w.shape[0]):
        # Where output depth d looks in the dilated input, and what is there.
        at = np.arange(depths) * strides[0] + tap * kernel_dilation[0] - padding[0][0]
        source, remainder = np.divmod(at, input_dilation[0])
        inside = (remainder == 0) & (source >= 0) & (source < x.shape[1])
        slices = np.zeros((images, depths, *x.shape[2:]), np.uint64)
        slices[:, inside] = x[:, source[inside]]
        _native.conv(
            slices.reshape(images * depths, *x.shape[2:]),
            w[tap],
            flat_out,
            _pair(strides),
            _pair(tuple(low for low, _ in padding)),
            _pair(input_dilation),
            _pair(kernel_dilation),
            groups,
            True,
        )


def _plane_words(n: int) -> int:
    return -(-n // 64)


def _flat(array: Words, name: str) -> Words:
    return words_array(array, name).reshape(-1)


def bit_planes(x: Words, shift: int, count: int) -> Words:
    """Bit-slices the bits [shift, shift + count) of every element.

    Args:
        x: any shape, n elements, taken in C order.
        shift: the lowest bit wanted.
        count: how many; shift + count is at most 64.

    Returns:
        Shape (count, ceil(n / 64)). Bit i % 64 of word i // 64 of plane j is bit shift + j of
        element i; bits beyond element n - 1 are zero.

    Raises:
        ValueError: if the bits are not within [0, 64].
    """
    flat = _flat(x, "x")
    out = np.empty((max(count, 0), _plane_words(flat.size)), np.uint64)
    _native.bit_planes(flat, shift, count, out)
    return out


def planes_to_words(planes: Words, n: int) -> Words:
    """Puts elements together again from their bit planes.

    Args:
        planes: shape (count, ceil(n / 64)), count at most 64, laid out as by `bit_planes`. Bits
            beyond element n - 1 are ignored.
        n: the number of elements.

    Returns:
        Shape (n,); element i is the sum over j of bit i of planes[j] << j.

    Raises:
        ValueError: if the shape of `planes` does not fit n.
    """
    out = np.empty(_length(n), np.uint64)
    _native.planes_to_words(words_array(planes, "planes"), out)
    return out


def expand_mask(plane: Words, n: int) -> Words:
    """Turns a plane of bits into a mask of words.

    Args:
        plane: shape (ceil(n / 64),); bits beyond element n - 1 are ignored.
        n: the number of elements.

    Returns:
        Shape (n,); 2**64 - 1 where the bit is one, else 0.

    Raises:
        ValueError: if the shape of `plane` does not fit n.
    """
    out = np.empty(_length(n), np.uint64)
    _native.expand_mask(words_array(plane, "plane"), out)
    return out


#: Sums that `project` makes of a vector.
PROJECTIONS = 64


def project(x: Words, rows: Words, plane: Words) -> Words:
    """Projects a vector on 64 differences of public bits.

    Args:
        x: shape (n,).
        rows: shape (ceil(n / 64), 64); bit j % 64 of rows[j // 64, r] belongs to x[j] in row r.
        plane: shape (ceil(n / 64),); bit j is taken off all rows. Bits beyond n are ignored.

    Returns:
        Shape (64,); element r is the sum over j of (bit of row r - bit j of the plane) * x[j].

    Raises:
        ValueError: if the shapes do not fit.
    """
    out = np.empty(PROJECTIONS, np.uint64)
    _native.project(
        words_array(x, "x"), words_array(rows, "rows"), words_array(plane, "plane"), out
    )
    return out


def pack_bits(x: Words, bits: int) -> NDArray[np.uint8]:
    """Packs the low bits of every element without gaps, for the wire.

    Args:
        x: any shape, n elements, taken in C order; higher bits are dropped.
        bits: 1 to 64.

    Returns:
        Shape (ceil(n * bits / 8),): the integer sum of (x[i] mod 2**bits) << (i * bits), little
        endian. The unused bits of the last byte are zero.

    Raises:
        ValueError: if `bits` is not from 1 to 64.
    """
    flat = _flat(x, "x")
    out = np.empty(max(0, -(-flat.size * bits // 8)), np.uint8)
    _native.pack_bits(flat, bits, out)
    return out


def unpack_bits(buffer: NDArray[np.uint8], bits: int, n: int) -> Words:
    """Unpacks what `pack_bits` packed.

    Args:
        buffer: shape (ceil(n * bits / 8),), dtype uint8, or any object with such a buffer
            (`bytes`, `memoryview`). The unused bits of the last byte are ignored.
        bits: 1 to 64.
        n: the number of elements.

    Returns:
        Shape (n,); the elements, zero-extended.

    Raises:
        TypeError: if `buffer` does not consist of bytes.
        ValueError: if its length does not fit, or `bits` is not from 1 to 64.
    """
    out = np.empty(_length(n), np.uint64)
    data: Any = buffer
    if isinstance(buffer, np.ndarray):
        data = np.ascontiguousarray(buffer)
    _native.unpack_bits(data, bits, out)
    return out


def _length(n: int) -> int:
    if n < 0:
        raise ValueError(f"n must not be negative, but is {n}")
    return n


# Local steps of the replicated protocol. `tercet.protocol.replicated` says what they are steps of.
