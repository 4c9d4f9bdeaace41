"""ATen operations that move numbers about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tercet.frontend.aten.operation import Image, Item, Operation, Refused, images, plain
from tercet.frontend.foreign import Foreign


def _numpy(name: str) -> Operation:
    def function(x: Item, *args: Item) -> Item:
        import jax.numpy as jnp

        return getattr(jnp, name)(x, *(tuple(a) if isinstance(a, list) else a for a in args))

    return Operation(function)


def _view(x: Foreign, shape: Sequence[int]) -> Foreign:
    return x.reshape(tuple(shape))


def _flatten(x: Foreign, start: int = 0, end: int = -1) -> Foreign:
    rank = x.ndim
    start, end = start % rank, end % rank
    return x.reshape((*x.shape[:start], -1, *x.shape[end + 1 :]))


def _unflatten(x: Foreign, dim: int, sizes: Sequence[int]) -> Foreign:
    dim %= x.ndim
    return x.reshape((*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def _transpose(x: Foreign, a: int, b: int) -> Foreign:
    import jax.numpy as jnp

    return jnp.swapaxes(x, a, b)


def _t(x: Foreign) -> Foreign:
    return x.T


def _squeeze(x: Foreign, dim: Item = None) -> Foreign:
    axes = range(x.ndim) if dim is None else dim if isinstance(dim, (list, tuple)) else [dim]
    gone = {a % x.ndim for a in axes if x.shape[a] == 1}
    return x.reshape(tuple(d for a, d in enumerate(x.shape) if a not in gone))


def _expand(x: Foreign, shape: Sequence[int], **options: Item) -> Foreign:
    import jax.numpy as jnp

    extra = len(shape) - x.ndim
    wanted = [d if d != -1 else x.shape[a - extra] for a, d in enumerate(shape)]
    return jnp.broadcast_to(x, tuple(wanted))


def _expand_as(x: Foreign, y: Foreign) -> Foreign:
    import jax.numpy as jnp

    return jnp.broadcast_to(x, y.shape)


def _view_as(x: Foreign, y: Foreign) -> Foreign:
    return x.reshape(y.shape)


def _cat(parts: Sequence[Item], dim: int = 0) -> Item:
    import jax.numpy as jnp

    dim %= len(parts[0].shape)
    if all(isinstance(p, Image) for p in parts) and dim:
        last = len(parts[0].shape) - 1
        return Image(jnp.concatenate([p.array for p in parts], last if dim == 1 else dim - 1))
    kept = [p for p in map(plain, parts) if p.shape != (0,)]
    return jnp.concatenate(kept, dim)


def _stack(parts: Sequence[Foreign], dim: int = 0) -> Foreign:
    import jax.numpy as jnp

    return jnp.stack(parts, dim)


def _split(x: Foreign, size: int | Sequence[int], dim: int = 0) -> list[Foreign]:
    import jax.numpy as jnp

    if isinstance(size, int):
        return _pieces(x, range(size, x.shape[dim], size), dim)
    ends = [sum(size[: n + 1]) for n in range(len(size))]
    return list(jnp.split(x, ends[:-1], dim))


def _chunk(x: Foreign, count: int, dim: int = 0) -> list[Foreign]:
    size = -(-x.shape[dim] // count)
    return _pieces(x, range(size, x.shape[dim], size), dim)


def _pieces(x: Foreign, places: Sequence[int], dim: int) -> list[Foreign]:
    import jax.numpy as jnp

    return list(jnp.split(x, list(places), dim))


def _unbind(x: Foreign, dim: int = 0) -> list[Foreign]:
    return [_select(x, dim, place) for place in range(x.shape[dim])]


def _slice(
    x: Foreign, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Foreign:
    import jax

    first, last, step = slice(start, end, step).indices(x.shape[dim])
    return jax.lax.slice_in_dim(x, first, max(first, last), step, dim % x.ndim)


def _select(x: Foreign, dim: int, place: int) -> Foreign:
    import jax

    return jax.lax.index_in_dim(x, place, dim % x.ndim, keepdims=False)


def _narrow(x: Foreign, dim: int, start: int, length: int) -> Foreign:
    return _slice(x, dim, start, start + length)


def _slice_scatter(
    x: Foreign,
    part: Foreign,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Foreign:
    import jax

    first, _, step = slice(start, end, step).indices(x.shape[dim])
    if part.shape[dim] == x.shape[dim]:
        return part.astype(x.dtype)
    if step != 1:
        raise Refused("with a step")
    return jax.lax.dynamic_update_slice_in_dim(x, part.astype(x.dtype), first, dim % x.ndim)


def _select_scatter(x: Foreign, part: Foreign, dim: int, place: int) -> Foreign:
    import jax.numpy as jnp

    place %= x.shape[dim]
    return _slice_scatter(x, jnp.expand_dims(part, dim), dim, place, place + 1)


def _take(x: Foreign, dim: int, places: Foreign) -> Foreign:
    import jax.numpy as jnp

    return jnp.take(x, places, axis=dim, mode="clip")


def _index(x: Foreign, places: Sequence[Foreign | None]) -> Foreign:
    given = [(a, p) for a, p in enumerate(places) if p is not None]
    if len(given) != 1 or str(given[0][1].dtype) == "bool":
        raise Refused("at places of several axes, or by a mask")
    ((axis, one),) = given
    return _take(x, axis, one)


def _embedding(table: Foreign, places: Foreign, *args: Item) -> Foreign:
    return _take(table, 0, places)


def _one_hot(places: Foreign, classes: int = -1) -> Foreign:
    import jax
    import numpy as np

    if classes < 0:
        raise Refused("with a number of classes that follows from the data")
    return jax.nn.one_hot(places, classes, dtype=np.int32)


def _border(x: Foreign, axis: int, before: int, after: int, mode: str) -> Foreign:
    """Pad one axis with numbers of its own."""
    import jax.numpy as jnp

    size = x.shape[axis]
    if mode == "replicate":
        return _joined([_slice(x, axis, 0, 1)] * before + [x] + [_slice(x, axis, -1)] * after, axis)
    if mode == "circular":
        return _joined([_slice(x, axis, size - before), x, _slice(x, axis, 0, after)], axis)
    first, last = _slice(x, axis, 1, before + 1), _slice(x, axis, size - 1 - after, size - 1)
    return _joined([jnp.flip(first, axis), x, jnp.flip(last, axis)], axis)


def _joined(parts: Sequence[Foreign], axis: int) -> Foreign:
    import jax.numpy as jnp

    return jnp.concatenate([p for p in parts if p.shape[axis]], axis)


def _pad(x: Item, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> Item:
    import jax
    import jax.numpy as jnp

    rank = len(x.shape)
    widths = [(0, 0)] * rank
    for n in range(len(pads) // 2):
        widths[rank - 1 - n] = (pads[2 * n], pads[2 * n + 1])
    keep = isinstance(x, Image)
    if keep:
        widths = [widths[0], *widths[2:], widths[1]]
        x = x.array
    if mode == "constant":
        filler = jnp.asarray(value or 0, x.dtype)
        result = jax.lax.pad(x, filler, [(a, b, 0) for a, b in widths])
    else:
        result = x
        for axis, (before, after) in enumerate(widths):
            if before or after:
                result = _border(result, axis, before, after, mode)
    return Image(result) if keep else result


def _constant_pad(x: Item, pads: Sequence[int], value: float = 0) -> Item:
    return _pad(x, pads, "constant", value)


def _mode(mode: str) -> Callable[[Item, Sequence[int]], Item]:
    return lambda x, pads: _pad(x, pads, mode)


def _shuffle(x: Foreign, factor: int) -> Foreign:
    *rows, c, h, w = x.shape
    r = factor
    y = x.reshape((*rows, c // r**2, r, r, h, w))
    y = y.transpose((*range(len(rows)), *(len(rows) + a for a in (0, 3, 1, 4, 2))))
    return y.reshape((*rows, c // r**2, h * r, w * r))


def _unshuffle(x: Foreign, factor: int) -> Foreign:
    *rows, c, h, w = x.shape
    r = factor
    y = x.reshape((*rows, c, h // r, r, w // r, r))
    y = y.transpose((*range(len(rows)), *(len(rows) + a for a in (0, 2, 4, 1, 3))))
    return y.reshape((*rows, c * r**2, h // r, w // r))


def _channel_shuffle(x: Foreign, groups: int) -> Foreign:
    n, c, *space = x.shape
    return x.reshape((n, groups, c // groups, *space)).swapaxes(1, 2).reshape(x.shape)


SHAPING: dict[str, Operation] = {
    "view": Operation(_view),
    "reshape": Operation(_view),
    "_unsafe_view": Operation(_view),
    "view_as": Operation(_view_as),
    "flatten": Operation(_flatten),
    "unflatten": Operation(_unflatten),
    "permute": _numpy("transpose"),
    "transpose": Operation(_transpose),
    "t": Operation(_t),
    "numpy_T": Operation(_t),
    "movedim": _numpy("moveaxis"),
    "unsqueeze": _numpy("expand_dims"),
    "squeeze": Operation(_squeeze),
    "expand": Operation(_expand),
    "expand_as": Operation(_expand_as),
    "repeat": _numpy("tile"),
    "tile": _numpy("tile"),
    "repeat_interleave": _numpy("repeat"),
    "cat": images(_cat),
    "concat": images(_cat),
    "stack": Operation(_stack),
    "split": Operation(_split),
    "split_with_sizes": Operation(_split),
    "chunk": Operation(_chunk),
    "unbind": Operation(_unbind),
    "slice": Operation(_slice),
    "select": Operation(_select),
    "narrow": Operation(_narrow),
    "slice_scatter": Operation(_slice_scatter),
    "select_scatter": Operation(_select_scatter),
    "index_select": Operation(_take),
    "index": Operation(_index),
    "embedding": Operation(_embedding),
    "one_hot": Operation(_one_hot),
    "flip": _numpy("flip"),
    "roll": _numpy("roll"),
    "pad": images(_pad),
    "constant_pad_nd": images(_constant_pad),
    **{f"reflection_pad{n}d": images(_mode("reflect")) for n in (1, 2, 3)},
    **{f"replication_pad{n}d": images(_mode("replicate")) for n in (1, 2, 3)},
    "pixel_shuffle": Operation(_shuffle),
    "pixel_unshuffle": Operation(_unshuffle),
    "channel_shuffle": Operation(_channel_shuffle),
}
