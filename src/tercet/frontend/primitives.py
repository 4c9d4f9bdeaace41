"""JAX primitives that stand for operations of the program language in a traced training step.

They are bound while a step is traced and never computed by JAX: rules lower them by name. Each
that a model's forward pass uses comes with its gradient (``differentiable.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from tercet.frontend.foreign import Foreign

#: An abstract value: shape and dtype.
_Aval = Callable[..., Sequence[Any]]


def _like(*avals: Foreign, **_: Foreign) -> list[Foreign]:
    return [avals[-1]]


def _with_bit(x: Foreign, **_: Foreign) -> list[Foreign]:
    return [x, x.update(dtype=_bool())]


def _reshaped(x: Foreign, y: Foreign, *, shape: tuple[int, ...], **_: Foreign) -> list[Foreign]:
    return [x.update(shape=shape)]


def _mask(*, shape: tuple[int, ...], keep: float, number: int) -> list[Foreign]:
    import jax

    return [jax.core.ShapedArray(shape, "float32")]


def _bool() -> Foreign:
    import numpy as np

    return np.dtype(bool)


#: Results of each primitive, by name.
_PRIMITIVES: Mapping[str, _Aval] = {
    "rectify": _with_bit,
    "gate": _like,
    "conv": lambda x, w, *, shape, **_: _reshaped(x, w, shape=shape),
    "conv_input": _reshaped,
    "conv_kernel": _reshaped,
    "mask": _mask,
    "softmax": _like,
    "log_softmax": _like,
    "softplus": _like,
    "gelu": _like,
    "gelu_tanh": _like,
    "silu": _like,
    "mish": _like,
}


@cache
def _primitive(name: str) -> Foreign:
    from jax.extend.core import Primitive

    made: Foreign = Primitive(name)
    made.multiple_results = True
    made.def_abstract_eval(_PRIMITIVES[name])
    return made


def bind(name: str, *operands: Foreign, **params: Foreign) -> list[Foreign]:
    """Return the results of primitive ``name``; its parameters are hashable."""
    results: list[Foreign] = _primitive(name).bind(*operands, **params)
    return results
