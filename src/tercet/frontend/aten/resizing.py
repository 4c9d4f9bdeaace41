"""ATen operations that resize images: each axis is multiplied by a public matrix.

The matrices are made of numbers that the trace computes from shapes, so that they are public.
"""

from __future__ import annotations

from collections.abc import Sequence

from tercet.frontend.aten.operation import Image, Item, Operation, channels_last, images
from tercet.frontend.foreign import Foreign


def per_axis(value: Item, rank: int) -> tuple[int, ...]:
    """Return one number for each axis, from one number or a list of one or all."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return numbers * rank if len(numbers) == 1 else numbers


def uneven(size: int, out: int) -> Foreign:
    """Return the (size, out) matrix of an average over uneven windows, made of public numbers."""
    import jax.numpy as jnp

    place, column = jnp.arange(size)[:, None], jnp.arange(out)[None, :]
    first = (column * size) // out
    last = ((column + 1) * size + out - 1) // out
    return jnp.where((place >= first) & (place < last), 1.0 / (last - first), 0.0)


def along(array: Foreign, axis: int, matrix: Foreign) -> Foreign:
    """Return ``array`` with ``axis`` multiplied by ``matrix``."""
    import jax.numpy as jnp

    return jnp.moveaxis(jnp.moveaxis(array, axis, -1) @ matrix, -1, axis)


def _sizes(space: Sequence[int], size: Item, scales: Item) -> tuple[list[int], list[float]]:
    """Return the size asked for and the step of each axis, from a size or from factors."""
    if size is not None:
        return list(size), [d / o for d, o in zip(space, size, strict=True)]
    factors = list(per_axis(scales, len(space)))
    wanted = [int(d * f) for d, f in zip(space, factors, strict=True)]
    return wanted, [1 / f for f in factors]


def _nearest(x: Item, size: Item = None, scales: Item = None, *more: Item) -> Item:
    import jax.numpy as jnp

    array = channels_last(x, len(x.shape))
    wanted, steps = _sizes(array.shape[1:-1], size, scales)
    for axis, (out, step) in enumerate(zip(wanted, steps, strict=True), 1):
        here = array.shape[axis]
        if out % here == 0:
            array = jnp.repeat(array, out // here, axis)
        else:
            place, column = jnp.arange(here)[:, None], jnp.arange(out)[None, :]
            found = jnp.minimum(jnp.floor(column * step), here - 1)
            array = along(array, axis, jnp.where(place == found, 1.0, 0.0))
    return Image(array)


def _linear(
    x: Item, size: Item = None, corners: bool = False, scales: Item = None, *more: Item
) -> Item:
    import jax.numpy as jnp

    array = channels_last(x, len(x.shape))
    wanted, steps = _sizes(array.shape[1:-1], size, scales)
    for axis, (out, step) in enumerate(zip(wanted, steps, strict=True), 1):
        here = array.shape[axis]
        column = jnp.arange(out, dtype=jnp.float32)
        if corners:
            found = column * ((here - 1) / max(out - 1, 1))
        else:
            found = jnp.clip((column + 0.5) * step - 0.5, 0, here - 1)
        distance = jnp.abs(found[None, :] - jnp.arange(here, dtype=jnp.float32)[:, None])
        array = along(array, axis, jnp.maximum(1 - distance, 0))
    return Image(array)


RESIZING: dict[str, Operation] = {
    **{f"upsample_nearest{rank}d": images(_nearest) for rank in (1, 2, 3)},
    "upsample_linear1d": images(_linear),
    "upsample_bilinear2d": images(_linear),
    "upsample_trilinear3d": images(_linear),
}
