"""ATen operations along axes: sums, largest values, softmax, products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tercet.frontend.aten.operation import Image, Item, Operation, Refused, images, plain
from tercet.frontend.foreign import Foreign


def _axes(x: Foreign, dim: Item) -> tuple[int, ...]:
    rank = len(x.shape)
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(d % rank for d in (dim if isinstance(dim, (list, tuple)) else [dim]))


def _reduce(name: str) -> Operation:
    """Return the row of a reduction over ``dim``, or over everything."""

    def function(x: Item, dim: Item = None, keepdim: bool = False, **options: Item) -> Item:
        import jax.numpy as jnp

        axes = _axes(x, dim)
        if isinstance(x, Image):
            rank = len(x.shape)
            if {0, 1}.isdisjoint(axes):
                # Over space only: channels stay last.
                kept = getattr(jnp, name)(x.array, tuple(a - 1 for a in axes), keepdims=True)
                if keepdim:
                    return Image(kept)
                if len(axes) == rank - 2:
                    return kept.reshape(kept.shape[0], kept.shape[-1])
            x = plain(x)
        return getattr(jnp, name)(x, axes, keepdims=keepdim)

    return images(function)


def _extreme(name: str) -> Operation:
    """Return the row of ``max.dim`` and ``min.dim``: values and their places."""

    def function(x: Foreign, dim: int, keepdim: bool = False) -> tuple[Foreign, Foreign]:
        import jax.numpy as jnp

        values = getattr(jnp, name)(x, dim, keepdims=keepdim)
        return values, getattr(jnp, f"arg{name}")(x, dim, keepdims=keepdim)

    return Operation(function)


def _arg(name: str) -> Operation:
    def function(x: Foreign, dim: int | None = None, keepdim: bool = False) -> Foreign:
        import jax.numpy as jnp

        return getattr(jnp, name)(x, dim, keepdims=keepdim)

    return Operation(function)


def _correction(value: Item, options: dict[str, Item]) -> float:
    given = options.get("correction", options.get("unbiased", value))
    return 1.0 if given is None else float(given)


def _variance(x: Foreign, dim: Item = None, unbiased: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp

    axes, keep = _axes(x, dim), bool(options.get("keepdim", False))
    count = 1
    for a in axes:
        count *= x.shape[a]
    centred = x - jnp.mean(x, axes, keepdims=True)
    total = jnp.sum(jnp.square(centred), axes, keepdims=keep)
    return total / max(count - _correction(unbiased, options), 0)


def _deviation(x: Foreign, dim: Item = None, unbiased: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.sqrt(_variance(x, dim, unbiased, **options))


def _norm(
    x: Foreign, order: float = 2, dim: Item = None, keepdim: bool = False, **options: Item
) -> Foreign:
    import jax.numpy as jnp

    axes = _axes(x, dim)
    if order == 2:
        return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=keepdim))
    if order == 1:
        return jnp.sum(jnp.abs(x), axes, keepdims=keepdim)
    if order == float("inf"):
        return jnp.max(jnp.abs(x), axes, keepdims=keepdim)
    raise Refused(f"of order {order}")


def _over(name: str) -> Operation:
    """Return the row of softmax and log-softmax."""

    def function(x: Foreign, dim: int, *args: Item, **options: Item) -> Foreign:
        import jax

        return getattr(jax.nn, name)(x, axis=dim)

    return Operation(function)


def _softmin(x: Foreign, dim: int, *args: Item) -> Foreign:
    import jax

    return jax.nn.softmax(-x, axis=dim)


def _logsumexp(x: Foreign, dim: Item, keepdim: bool = False) -> Foreign:
    import jax.numpy as jnp

    axes = _axes(x, dim)
    largest = jnp.max(x, axes, keepdims=True)
    total = jnp.log(jnp.sum(jnp.exp(x - largest), axes, keepdims=True)) + largest
    return total if keepdim else jnp.squeeze(total, axes)


def _cumsum(x: Foreign, dim: int, **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.cumsum(x, dim)


def _sort(x: Foreign, dim: int = -1, descending: bool = False, **options: Item) -> Item:
    import jax
    import jax.numpy as jnp

    # Of equal numbers the first comes first, also in falling order.
    axis = dim % max(x.ndim, 1)
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    pair = (x, places)
    if descending:
        pair = tuple(jnp.flip(a, axis) for a in pair)
    pair = jax.lax.sort(pair, dimension=axis, num_keys=1)
    return tuple(jnp.flip(a, axis) for a in pair) if descending else tuple(pair)


def _argsort(x: Foreign, dim: int = -1, descending: bool = False, **options: Item) -> Foreign:
    return _sort(x, dim, descending)[1]


def _top_k(x: Foreign, k: int, dim: int = -1, largest: bool = True, *order: bool) -> Item:
    import jax
    import jax.numpy as jnp

    moved = jnp.moveaxis(x, dim, -1)
    values, places = jax.lax.top_k(moved if largest else -moved, k)
    return jnp.moveaxis(values if largest else -values, -1, dim), jnp.moveaxis(places, -1, dim)


def _gather(x: Foreign, dim: int, places: Foreign, **options: Item) -> Foreign:
    import jax.numpy as jnp

    axis = dim % x.ndim
    if any(p != d for a, (p, d) in enumerate(zip(places.shape, x.shape, strict=True)) if a != axis):
        raise Refused("at fewer places than there are rows")
    return jnp.take_along_axis(x, places, axis)


def _linear(x: Foreign, w: Foreign, b: Foreign | None = None) -> Foreign:
    result = x @ w.T
    return result if b is None else result + b


def _matmul(x: Foreign, y: Foreign) -> Foreign:
    return x @ y


def _addmm(c: Foreign, x: Foreign, y: Foreign, *, beta: float = 1, alpha: float = 1) -> Foreign:
    result = x @ y if alpha == 1 else (x @ y) * alpha
    if beta == 0:
        return result
    return result + (c if beta == 1 else c * beta)


def _bilinear(x: Foreign, y: Foreign, w: Foreign, b: Foreign | None = None) -> Foreign:
    import jax.numpy as jnp

    result = jnp.sum(jnp.einsum("...i,oij->...oj", x, w) * y[..., None, :], -1)
    return result if b is None else result + b


def _einsum(equation: str, operands: Sequence[Foreign], **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.einsum(equation, *operands)


def _function(name: str) -> Callable[..., Item]:
    def function(*args: Item) -> Item:
        import jax.numpy as jnp

        return getattr(jnp, name)(*args)

    return function


REDUCING: dict[str, Operation] = {
    "sum": _reduce("sum"),
    "mean": _reduce("mean"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "max": _reduce("max"),
    "min": _reduce("min"),
    "all": _reduce("all"),
    "any": _reduce("any"),
    "prod": _reduce("prod"),
    "max.dim": _extreme("max"),
    "min.dim": _extreme("min"),
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    "var": Operation(_variance),
    "std": Operation(_deviation),
    "linalg_vector_norm": Operation(_norm),
    "norm": Operation(_norm),
    "softmax": _over("softmax"),
    "_softmax": _over("softmax"),
    "log_softmax": _over("log_softmax"),
    "_log_softmax": _over("log_softmax"),
    "softmin": Operation(_softmin),
    "logsumexp": Operation(_logsumexp),
    "cumsum": Operation(_cumsum),
    "sort": Operation(_sort),
    "argsort": Operation(_argsort),
    "topk": Operation(_top_k),
    "gather": Operation(_gather),
    "linear": Operation(_linear),
    "matmul": Operation(_matmul),
    "mm": Operation(_matmul),
    "bmm": Operation(_matmul),
    "mv": Operation(_matmul),
    "dot": Operation(_matmul),
    "addmm": Operation(_addmm),
    "baddbmm": Operation(_addmm),
    "bilinear": Operation(_bilinear),
    "einsum": Operation(_einsum),
    "outer": Operation(_function("outer")),
}
