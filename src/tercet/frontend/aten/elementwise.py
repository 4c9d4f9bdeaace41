"""ATen operations on each element."""

from __future__ import annotations

import math
from collections.abc import Callable

from tercet.frontend.aten.dtypes import Dtype
from tercet.frontend.aten.operation import Item, Operation, elements
from tercet.frontend.foreign import Foreign


def _numpy(name: str) -> Operation:
    """Return the row of an operation that ``jax.numpy`` has under ``name``."""

    def function(*args: Item, **options: Item) -> Item:
        import jax.numpy as jnp

        return getattr(jnp, name)(*args)

    return elements(function)


def _add(x: Item, y: Item, *, alpha: float = 1) -> Item:
    return x + (y if alpha == 1 else y * alpha)


def _sub(x: Item, y: Item, *, alpha: float = 1) -> Item:
    return x - (y if alpha == 1 else y * alpha)


def _rsub(x: Item, y: Item, alpha: float = 1) -> Item:
    return _sub(y, x, alpha=alpha)


def _div(x: Item, y: Item, *, rounding_mode: str | None = None) -> Item:
    import jax.numpy as jnp

    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    if rounding_mode == "trunc":
        return jnp.trunc(x / y)
    return x / y


def _pow(x: Item, exponent: Item) -> Item:
    import jax.numpy as jnp

    if isinstance(exponent, (int, float)) and float(exponent).is_integer():
        return x ** int(exponent)
    return jnp.power(x, exponent)


def _copy(x: Foreign, source: Item, *args: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.broadcast_to(jnp.asarray(source, x.dtype), x.shape)


def clamp(x: Foreign, least: Item = None, most: Item = None, **names: Item) -> Foreign:
    """Return ``x`` brought between two bounds, either of which may be missing."""
    import jax.numpy as jnp

    least, most = names.get("min", least), names.get("max", most)
    if least is not None:
        x = jnp.maximum(x, least)
    return x if most is None else jnp.minimum(x, most)


def _where(test: Foreign, x: Item, y: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.where(test, x, y)


def _masked_fill(x: Foreign, mask: Foreign, value: Item) -> Foreign:
    import jax.numpy as jnp

    return jnp.where(mask, value, x)


def _log(base: float) -> Callable[[Foreign], Foreign]:
    def function(x: Foreign) -> Foreign:
        import jax.numpy as jnp

        return jnp.log(x) * (1 / math.log(base))

    return function


def _rsqrt(x: Foreign) -> Foreign:
    import jax

    return jax.lax.rsqrt(x)


def _erf(x: Foreign) -> Foreign:
    import jax

    return jax.lax.erf(x)


def _erfc(x: Foreign) -> Foreign:
    import jax

    return jax.lax.erfc(x)


def _lerp(x: Foreign, y: Foreign, weight: Item) -> Foreign:
    return x + weight * (y - x)


def _addcmul(x: Foreign, y: Foreign, z: Foreign, *, value: float = 1) -> Foreign:
    return x + value * (y * z)


def _same(x: Item, *args: Item, **options: Item) -> Item:
    return x


def _cast(x: Foreign, *args: Item, dtype: Dtype | None = None, **options: Item) -> Foreign:
    """``to``, ``_to_copy`` and ``type_as``, whose dtype stands among the arguments."""
    named = [a.numpy() for a in (*args, dtype) if isinstance(a, Dtype)]
    named += [a.dtype for a in args if hasattr(a, "shape")]
    return x.astype(named[0]) if named and x.dtype != named[0] else x


ELEMENTWISE: dict[str, Operation] = {
    "add": elements(_add),
    "sub": elements(_sub),
    "rsub": elements(_rsub),
    "mul": _numpy("multiply"),
    "multiply": _numpy("multiply"),
    "div": elements(_div),
    "true_divide": elements(_div),
    "floor_divide": _numpy("floor_divide"),
    "remainder": _numpy("remainder"),
    "pow": elements(_pow),
    "maximum": _numpy("maximum"),
    "minimum": _numpy("minimum"),
    "max.other": _numpy("maximum"),
    "min.other": _numpy("minimum"),
    "neg": _numpy("negative"),
    "abs": _numpy("abs"),
    "sign": _numpy("sign"),
    "square": _numpy("square"),
    "reciprocal": elements(lambda x: 1.0 / x),
    "exp": _numpy("exp"),
    "exp2": _numpy("exp2"),
    "expm1": _numpy("expm1"),
    "log": _numpy("log"),
    "log1p": _numpy("log1p"),
    "log2": elements(_log(2)),
    "log10": elements(_log(10)),
    "sqrt": _numpy("sqrt"),
    "rsqrt": elements(_rsqrt),
    "erf": elements(_erf),
    "erfc": elements(_erfc),
    "sin": _numpy("sin"),
    "cos": _numpy("cos"),
    "floor": _numpy("floor"),
    "ceil": _numpy("ceil"),
    "round": _numpy("round"),
    "eq": _numpy("equal"),
    "ne": _numpy("not_equal"),
    "lt": _numpy("less"),
    "le": _numpy("less_equal"),
    "gt": _numpy("greater"),
    "ge": _numpy("greater_equal"),
    "__and__": _numpy("bitwise_and"),
    "__or__": _numpy("bitwise_or"),
    "logical_and": _numpy("logical_and"),
    "logical_or": _numpy("logical_or"),
    "logical_not": _numpy("logical_not"),
    "bitwise_and": _numpy("bitwise_and"),
    "bitwise_or": _numpy("bitwise_or"),
    "bitwise_not": _numpy("bitwise_not"),
    "tanh": _numpy("tanh"),
    "copy": Operation(_copy),
    "fill": Operation(_copy),
    "clamp": elements(clamp),
    "clamp_min": elements(clamp),
    "clamp_max": elements(lambda x, most: clamp(x, None, most)),
    "clip": elements(clamp),
    "where": elements(_where),
    "masked_fill": elements(_masked_fill),
    "lerp": elements(_lerp),
    "addcmul": elements(_addcmul),
    "to": elements(_cast),
    "_to_copy": elements(_cast),
    "type_as": elements(_cast),
    "clone": elements(_same),
    "contiguous": elements(_same),
    "detach": elements(_same),
    "detach_": elements(_same),
    "alias": elements(_same),
    "lift_fresh_copy": elements(_same),
}
