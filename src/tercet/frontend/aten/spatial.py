"""ATen operations over space: convolutions and pooling. All of them give images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tercet.frontend.aten.operation import Image, Item, Operation, Refused, channels_last, images
from tercet.frontend.aten.resizing import along, per_axis, uneven
from tercet.frontend.foreign import Foreign


def _single(x: Item, rank: int) -> tuple[Foreign, bool]:
    """Return ``x`` channels last with a batch axis, and whether that one was added."""
    if len(x.shape) == rank + 1:
        return channels_last(x[None], rank + 2), True
    return channels_last(x, rank + 2), False


def _result(array: Foreign, added: bool) -> Item:
    import jax.numpy as jnp

    return jnp.moveaxis(array[0], -1, 0) if added else Image(array)


def _convolve(
    x: Item,
    w: Foreign,
    b: Foreign | None,
    *,
    strides: tuple[int, ...],
    padding: Item,
    dilation: tuple[int, ...],
    groups: int,
    input_dilation: tuple[int, ...] | None = None,
) -> Item:
    """Convolve with ``w`` of shape (out, in / groups, ...)."""
    import jax

    rank = w.ndim - 2
    array, added = _single(x, rank)
    space = "DHW"[-rank:]
    result = jax.lax.conv_general_dilated(
        array,
        w,
        window_strides=strides,
        padding=padding,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{space}C", f"OI{space}", f"N{space}C"),
        feature_group_count=groups,
    )
    return _result(result if b is None else result + b, added)


def _conv(
    x: Item,
    w: Foreign,
    b: Foreign | None = None,
    stride: Item = 1,
    padding: Item = 0,
    dilation: Item = 1,
    groups: int = 1,
) -> Item:
    rank = w.ndim - 2
    dilations = per_axis(dilation, rank)
    if isinstance(padding, str):
        # "same" in PyTorch puts the odd one behind, as SAME does at stride 1.
        pads = [
            ((d * (k - 1)) // 2, d * (k - 1) - (d * (k - 1)) // 2) if padding == "same" else (0, 0)
            for k, d in zip(w.shape[2:], dilations, strict=True)
        ]
    else:
        pads = [(p, p) for p in per_axis(padding, rank)]
    return _convolve(
        x,
        w,
        b,
        strides=per_axis(stride, rank),
        padding=pads,
        dilation=dilations,
        groups=groups,
    )


def _conv_transpose(
    x: Item,
    w: Foreign,
    b: Foreign | None = None,
    stride: Item = 1,
    padding: Item = 0,
    output_padding: Item = 0,
    groups: int = 1,
    dilation: Item = 1,
) -> Item:
    """Convolve ``x``, spread by the stride, with the turned kernel of ``w`` (in, out / groups)."""
    import jax.numpy as jnp

    rank = w.ndim - 2
    dilations = per_axis(dilation, rank)
    inner, outer = w.shape[0] // groups, w.shape[1]
    kernel = w.reshape((groups, inner, outer, *w.shape[2:])).swapaxes(1, 2)
    kernel = kernel.reshape((groups * outer, inner, *w.shape[2:]))
    kernel = jnp.flip(kernel, tuple(range(2, rank + 2)))
    pads = []
    for k, d, p, more in zip(
        w.shape[2:],
        dilations,
        per_axis(padding, rank),
        per_axis(output_padding, rank),
        strict=True,
    ):
        reach = d * (k - 1) - p
        pads.append((reach, reach + more))
    return _convolve(
        x,
        kernel,
        b,
        strides=(1,) * rank,
        padding=pads,
        dilation=dilations,
        groups=groups,
        input_dilation=per_axis(stride, rank),
    )


def _convolution(
    x: Item,
    w: Foreign,
    b: Foreign | None,
    stride: Item,
    padding: Item,
    dilation: Item,
    transposed: bool,
    output_padding: Item,
    groups: int,
) -> Item:
    if transposed:
        return _conv_transpose(x, w, b, stride, padding, output_padding, groups, dilation)
    return _conv(x, w, b, stride, padding, dilation, groups)


def _windows(
    shape: Sequence[int], kernel: Item, stride: Item, padding: Item, ceil: bool, rank: int
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """Return windows, strides and paddings of a pooling over images of ``shape``."""
    window = per_axis(kernel, rank)
    strides = per_axis(stride, rank) if stride not in (None, []) else window
    pads = []
    for d, k, s, p in zip(shape[1:-1], window, strides, per_axis(padding, rank), strict=True):
        out = (d + 2 * p - k) // s + 1
        if ceil:
            out = -(-(d + 2 * p - k) // s) + 1
            if (out - 1) * s >= d + p:  # PyTorch: no window starts in the padding behind
                out -= 1
        pads.append((p, max((out - 1) * s + k - d - p, 0) if ceil else p))
    return window, strides, pads


def _reduce(
    array: Foreign,
    start: float,
    function: Foreign,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: list[tuple[int, int]],
) -> Foreign:
    import jax

    return jax.lax.reduce_window(
        array,
        start,
        function,
        (1, *window, 1),
        (1, *strides, 1),
        [(0, 0), *pads, (0, 0)],
    )


def _max_pool(rank: int, indices: bool) -> Operation:
    def function(
        x: Item,
        kernel: Item,
        stride: Item = None,
        padding: Item = 0,
        dilation: Item = 1,
        ceil: bool = False,
    ) -> Item:
        import jax

        if any(d != 1 for d in per_axis(dilation, rank)):
            raise Refused("with dilation")
        array, added = _single(x, rank)
        window, strides, pads = _windows(array.shape, kernel, stride, padding, ceil, rank)
        result = _reduce(array, -math.inf, jax.lax.max, window, strides, pads)
        pooled = _result(result, added)
        # Their places are of no use to inference: what asks for them is refused.
        return (pooled, None) if indices else pooled

    return images(function)


def _avg_pool(rank: int) -> Operation:
    def function(
        x: Item,
        kernel: Item,
        stride: Item = None,
        padding: Item = 0,
        ceil: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Item:
        import jax
        import jax.numpy as jnp

        array, added = _single(x, rank)
        window, strides, pads = _windows(array.shape, kernel, stride, padding, ceil, rank)
        total = _reduce(array, 0.0, jax.lax.add, window, strides, pads)
        own = per_axis(padding, rank)
        behind = any(b > p for (_, b), p in zip(pads, own, strict=True))
        if divisor or not (behind or (any(own) and not count_include_pad)):
            return _result(total / (divisor or math.prod(window)), added)
        # Windows at the rim count fewer numbers: how many depends on the shapes alone.
        ones = jnp.ones((1, *array.shape[1:-1], 1), array.dtype)
        if count_include_pad:
            ones = jnp.pad(ones, [(0, 0), *((p, p) for p in own), (0, 0)], constant_values=1)
            pads = [(0, b - p) for (_, b), p in zip(pads, own, strict=True)]
        return _result(total / _reduce(ones, 0.0, jax.lax.add, window, strides, pads), added)

    return images(function)


def _adaptive_avg(x: Item, size: Item) -> Item:
    import jax
    import jax.numpy as jnp

    rank = len(size)
    array, added = _single(x, rank)
    space = array.shape[1:-1]
    wanted = [d if o is None else o for d, o in zip(space, size, strict=True)]
    if all(o == 1 for o in wanted):
        return _result(jnp.mean(array, tuple(range(1, rank + 1)), keepdims=True), added)
    if all(d % o == 0 for d, o in zip(space, wanted, strict=True)):
        window = tuple(d // o for d, o in zip(space, wanted, strict=True))
        total = _reduce(array, 0.0, jax.lax.add, window, window, [(0, 0)] * rank)
        return _result(total / math.prod(window), added)
    for axis, out in enumerate(wanted, 1):
        array = along(array, axis, uneven(array.shape[axis], out))
    return _result(array, added)


def _adaptive_max(x: Item, size: Sequence[int]) -> Item:
    import jax

    rank = len(size)
    array, added = _single(x, rank)
    if any(d % o for d, o in zip(array.shape[1:-1], size, strict=True)):
        raise Refused("to a size that does not divide its input's")
    window = tuple(d // o for d, o in zip(array.shape[1:-1], size, strict=True))
    result = _reduce(array, -math.inf, jax.lax.max, window, window, [(0, 0)] * rank)
    return _result(result, added), None


def _ranks(stem: str, make: Callable[[int], Operation]) -> dict[str, Operation]:
    return {stem.format(rank): make(rank) for rank in (1, 2, 3)}


SPATIAL: dict[str, Operation] = {
    **_ranks("conv{}d", lambda rank: images(_conv)),
    **_ranks("conv_transpose{}d", lambda rank: images(_conv_transpose)),
    "convolution": images(_convolution),
    **_ranks("max_pool{}d", lambda rank: _max_pool(rank, False)),
    **_ranks("max_pool{}d_with_indices", lambda rank: _max_pool(rank, True)),
    **_ranks("avg_pool{}d", _avg_pool),
    **_ranks("adaptive_avg_pool{}d", lambda rank: images(_adaptive_avg)),
    **_ranks("_adaptive_avg_pool{}d", lambda rank: images(_adaptive_avg)),
    **_ranks("adaptive_max_pool{}d", lambda rank: images(_adaptive_max)),
}
