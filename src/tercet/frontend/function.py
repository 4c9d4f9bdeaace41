"""Tracing a plain JAX function: the seam for models that are no neural network.

What is secret: every array, whether it is an argument after the first or captured. What is public:
the code, and with it each single number that stands in it. A single number that comes as an array
(``model.intercept_[0]``) looks like code to JAX, so that one which a function captures is refused:
it must be an argument.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tercet.errors import InputError, ModelError
from tercet.frontend.foreign import Foreign
from tercet.frontend.numbers import is_narrowed, is_supported
from tercet.frontend.traced import Traced
from tercet.frontend.values import Array


def trace_function(
    fn: Callable[..., Foreign],
    shape: Sequence[int],
    weights: Sequence[Foreign] = (),
    *,
    scale: int = 16,
    name: str = "",
) -> Traced:
    """Trace ``fn(x, *weights)`` to a program; see ``tercet.trace``."""
    try:
        import jax
    except ImportError as error:
        raise ModelError(
            f"Plain functions are traced by JAX ({error})", "pip install 'tercet[keras]'"
        ) from error
    from tercet.frontend import jax as tracing

    title = name or getattr(fn, "__name__", type(fn).__name__)
    if not callable(fn):
        raise InputError(f"{title} is no function", "Pass a function of x and of the weights")
    _check_captured(fn, title)
    extents = _extents(shape)
    leaves, tree = jax.tree.flatten(tuple(weights))
    names = _names(fn, tuple(weights))
    arrays = {n: _array(n, leaf) for n, leaf in zip(names, leaves, strict=True)}

    def flat(x: Foreign, *given: Foreign) -> Foreign:
        return fn(x, *jax.tree.unflatten(tree, given))

    label = tracing.Naming(lambda stack: _scope(stack) or title)
    try:
        return tracing.trace(flat, extents, weights=arrays, scale=scale, name=title, naming=label)
    except ModelError:
        raise
    except Exception as error:  # the function may raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        text = lines[0][:300].rstrip(".") if lines else type(error).__name__
        if isinstance(error, jax.errors.ConcretizationTypeError):
            raise ModelError(
                f"Function {title!r} branches on its data, or asks for its value",
                "Select by jnp.where; loop a fixed number of times",
            ) from error
        raise ModelError(
            f"Function {title!r} cannot be traced: {text}",
            f"It gets float32 of shape (rows, {', '.join(map(str, extents))}) and the weights",
        ) from error


def _extents(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a row as plain integers."""
    given = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(d, (int, np.integer)) and d > 0 for d in given):
        raise InputError(
            f"a row of shape {given}", "Give the extents of one row, without the batch: (30,)"
        )
    return tuple(int(d) for d in given)


def _array(name: str, leaf: Foreign) -> Array:
    array = np.asarray(leaf)
    # A number of Python has no dtype of its own.
    if type(leaf) is not float and not is_supported(array.dtype):
        raise InputError(
            f"weight {name!r} has dtype {array.dtype}",
            f"Pass {name}.astype(numpy.float32)"
            if is_narrowed(array.dtype)
            else "Give real numbers: float32, or integers",
        )
    return array


def _names(fn: Callable[..., Foreign], weights: tuple[Foreign, ...]) -> list[str]:
    """Return a name for each array among the weights: the parameter's, and the place within it."""
    import jax

    try:
        named = list(inspect.signature(fn).parameters.values())[1:]
        parameters = [p for p in named if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    except (TypeError, ValueError):
        parameters = []
    names = []
    for place, weight in enumerate(weights):
        stem = f"weight_{place}"
        if place < len(parameters):
            stem = parameters[place].name
        names += [
            stem + jax.tree_util.keystr(path)
            for path, _ in jax.tree_util.tree_flatten_with_path(weight)[0]
        ]
    return names


def _scope(stack: str) -> str:
    """Return the user's own name scopes of a name stack of JAX."""
    return "/".join(part for part in stack.split("/") if part and "(" not in part)


def _check_captured(fn: Callable[..., Foreign], title: str) -> None:
    """Refuse captured single numbers, and arrays of other real numbers than float32."""
    import jax

    for name, value in _captured(fn):
        for leaf in jax.tree.leaves(value):
            if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
                continue
            if leaf.ndim and is_narrowed(leaf.dtype):
                raise ModelError(
                    f"Function {title!r} captures {name!r} of dtype {leaf.dtype}; only float32 and "
                    "whole numbers are supported",
                    f"Let it use {name}.astype(numpy.float32)",
                )
            if leaf.ndim == 0:
                raise ModelError(
                    f"Function {title!r} captures the single number {name!r}, which would become "
                    "a public constant of the program",
                    "Pass it as a weight if it is secret, as float(...) if it is not",
                )


def _captured(fn: Foreign) -> Iterator[tuple[str, Foreign]]:
    """Yield what a function captures, by name: closures, globals, bound arguments, attributes."""
    while isinstance(fn, functools.partial):
        yield from ((f"argument {n}", a) for n, a in enumerate(fn.args))
        yield from fn.keywords.items()
        fn = fn.func
    fn = inspect.unwrap(fn)
    owner = getattr(fn, "__self__", None if inspect.isfunction(fn) else fn)
    if owner is not None and not inspect.ismodule(owner):
        yield from getattr(owner, "__dict__", {}).items()
    inner: Foreign = getattr(fn, "__func__", fn)
    if not inspect.isfunction(inner):
        inner = type(fn).__call__
    try:
        found = inspect.getclosurevars(inner)
    except (TypeError, ValueError):
        return
    yield from found.nonlocals.items()
    yield from found.globals.items()
