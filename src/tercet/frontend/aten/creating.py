"""ATen operations that make arrays out of nothing: constants of the architecture, public."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.frontend.aten.dtypes import kind_of
from tercet.frontend.aten.operation import Item, Operation
from tercet.frontend.foreign import Foreign


def _full(shape: Sequence[int], value: float, *, dtype: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp
    import numpy as np

    whole = {bool: np.bool_, int: np.int32}.get(type(value), np.float32)
    return jnp.full(tuple(shape), value, kind_of(dtype, whole))


def _zeros(shape: Sequence[int], *, dtype: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.zeros(tuple(shape), kind_of(dtype))


def _ones(shape: Sequence[int], *, dtype: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.ones(tuple(shape), kind_of(dtype))


def _like(value: float) -> Operation:
    def function(x: Foreign, *, dtype: Item = None, **options: Item) -> Foreign:
        import jax.numpy as jnp

        return jnp.full(x.shape, value, kind_of(dtype, x.dtype))

    return Operation(function)


def _full_like(x: Foreign, value: float, *, dtype: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.full(x.shape, value, kind_of(dtype, x.dtype))


def _new(value: float) -> Operation:
    def function(
        x: Foreign, shape: Sequence[int], *, dtype: Item = None, **options: Item
    ) -> Foreign:
        import jax.numpy as jnp

        return jnp.full(tuple(shape), value, kind_of(dtype, x.dtype))

    return Operation(function)


def _new_full(
    x: Foreign, shape: Sequence[int], value: float, *, dtype: Item = None, **options: Item
) -> Foreign:
    import jax.numpy as jnp

    return jnp.full(tuple(shape), value, kind_of(dtype, x.dtype))


def _arange(*bounds: float, dtype: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp
    import numpy as np

    whole = all(isinstance(b, int) for b in bounds)
    start, stop, step = (*bounds, 1)[:3] if len(bounds) > 1 else (0, *bounds, 1)
    return jnp.arange(start, stop, step, dtype=kind_of(dtype, np.int32 if whole else np.float32))


def _linspace(
    start: float, end: float, steps: int, *, dtype: Item = None, **options: Item
) -> Foreign:
    import jax.numpy as jnp

    return jnp.linspace(start, end, steps, dtype=kind_of(dtype))


def _scalar(value: float, *, dtype: Item = None, **options: Item) -> Foreign:
    return _full((), value, dtype=dtype)


def _triangle(name: str) -> Operation:
    def function(x: Foreign, diagonal: int = 0) -> Foreign:
        import jax.numpy as jnp

        return getattr(jnp, name)(x, diagonal)

    return Operation(function)


def _eye(n: int, m: int | None = None, *, dtype: Item = None, **options: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.eye(n, m, dtype=kind_of(dtype))


CREATING: dict[str, Operation] = {
    "full": Operation(_full),
    "zeros": Operation(_zeros),
    "ones": Operation(_ones),
    "empty": Operation(_zeros),
    "zeros_like": _like(0),
    "ones_like": _like(1),
    "empty_like": _like(0),
    "full_like": Operation(_full_like),
    "new_zeros": _new(0),
    "new_ones": _new(1),
    "new_full": Operation(_new_full),
    "arange": Operation(_arange),
    "linspace": Operation(_linspace),
    "scalar_tensor": Operation(_scalar),
    "eye": Operation(_eye),
    "tril": _triangle("tril"),
    "triu": _triangle("triu"),
}
