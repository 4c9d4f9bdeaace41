"""Evaluating what the model owner can compute: primitives whose operands are all known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.values import Array, Known, derive

_NAMES = """\
abs add add_any and atan2 cbrt ceil clamp convert_element_type copy cos div eq erf erf_inv
erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul
ne neg nextafter not or pow reduce_precision rem round rsqrt select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sqrt square stop_gradient sub tan tanh
xor
"""
#: Primitives that work on each element: they may run on collapsed operands.
_ELEMENTWISE = frozenset(_NAMES.split())


def evaluate(node: Node, args: Sequence[Known]) -> list[Known]:
    """Return the results of ``node`` on known operands."""
    text = f"{node.name} {_parameters(node)}"
    if node.name == "broadcast_in_dim":
        return [_broadcast(node, args[0], text)]
    if node.name == "reduce_window_sum":
        return [derive(text, _window_sum(node, args[0]), node.outputs[0].shape, args[0])]
    if node.name in _COLLAPSED:
        results = _COLLAPSED[node.name](node, args)
        return [
            derive(f"{text} #{n}", r, o.shape, *args)
            for n, (r, o) in enumerate(zip(results, node.outputs, strict=True))
        ]
    if node.name in ("reshape", "squeeze", "expand_dims"):
        return [
            derive(text, _reshaped(args[0], node.outputs[0].shape), node.outputs[0].shape, *args)
        ]
    if node.name == "transpose":
        (x,) = args
        array = _raised(x).transpose(node.params["permutation"])
        return [derive(text, array, node.outputs[0].shape, x)]
    if node.name in _ELEMENTWISE:
        shape = np.broadcast_shapes(*(a.array.shape for a in args))
        operands = [np.broadcast_to(a.array, shape) for a in args]
        (result,) = _bind(node, operands)
        return [derive(text, result, node.outputs[0].shape, *args)]
    results = _bind(node, [a.full() for a in args])
    return [derive(f"{text} #{n}", r, r.shape, *args) for n, r in enumerate(results)]


def _parameters(node: Node) -> str:
    return repr(sorted((k, str(v)) for k, v in node.params.items()))


def _bind(node: Node, operands: Sequence[Array]) -> list[Array]:
    # Primitives that wrap functions, whose parameters need translation, were inlined before.
    results: Any = node.primitive.bind(*operands, **node.params)
    return [np.asarray(r) for r in (results if node.primitive.multiple_results else [results])]


def _raised(x: Known) -> Array:
    """Return the collapsed array with as many axes as the shape has."""
    return x.array.reshape((1,) * (len(x.shape) - x.array.ndim) + x.array.shape)


def _reshaped(x: Known, shape: tuple[int, ...]) -> Array:
    """Reshape, collapsed where it can be: a state that starts equal in all rows has no batch."""
    wide = [(d, n) for d, n in zip(x.shape, _raised(x).shape, strict=True) if d != 1]
    if [d for d, _ in wide] == [d for d in shape if d != 1]:
        kept = iter(n for _, n in wide)
        return x.array.reshape([1 if d == 1 else next(kept) for d in shape])
    if _repeats_first(x) and shape[:1] == x.shape[:1]:
        row = np.broadcast_to(_raised(x), (1, *x.shape[1:]))
        return row.reshape((1, *shape[1:]))
    return x.full().reshape(shape)


def _repeats_first(x: Known) -> bool:
    return bool(x.shape) and x.shape[0] > 1 and _raised(x).shape[0] == 1


def _expanded(x: Known, axes: Collection[int]) -> Array:
    """Return the collapsed array, whole along ``axes``."""
    array = _raised(x)
    shape = [
        d if a in axes else n for a, (d, n) in enumerate(zip(x.shape, array.shape, strict=True))
    ]
    return np.broadcast_to(array, shape)


def _dot_general(node: Node, args: Sequence[Known]) -> list[Array]:
    contract, batch = node.params["dimension_numbers"]
    operands = [_expanded(x, {*c, *b}) for x, c, b in zip(args, contract, batch, strict=True)]
    return _bind(node, operands)


def _convolution(node: Node, args: Sequence[Known]) -> list[Array]:
    x, w = args
    rows = node.params["dimension_numbers"].lhs_spec[0]
    return _bind(node, [_expanded(x, {*range(len(x.shape))} - {rows}), w.full()])


def _reduce(node: Node, args: Sequence[Known]) -> list[Array]:
    return _bind(node, [_expanded(args[0], {*node.params["axes"]})])


def _split(node: Node, args: Sequence[Known]) -> list[Array]:
    return _bind(node, [_expanded(args[0], {node.params["axis"]})])


def _slice(node: Node, args: Sequence[Known]) -> list[Array]:
    (x,), p = args, node.params
    strides = p["strides"] or (1,) * len(x.shape)
    cuts = [slice(*c) for c in zip(p["start_indices"], p["limit_indices"], strides, strict=True)]
    touched = {a for a, (c, d) in enumerate(zip(cuts, x.shape, strict=True)) if c != slice(0, d, 1)}
    array = _expanded(x, touched)
    return [array[tuple(c if a in touched else slice(None) for a, c in enumerate(cuts))]]


def _gather(node: Node, args: Sequence[Known]) -> list[Array]:
    x, index = args
    numbers, places = node.params["dimension_numbers"], index.full()
    if _repeats_first(index) and 0 not in numbers.offset_dims and not numbers.operand_batching_dims:
        places = places[:1]
    return _bind(node, [x.full(), places])


def _concatenate(node: Node, args: Sequence[Known]) -> list[Array]:
    axis = node.params["dimension"]
    arrays = [_expanded(x, {axis}) for x in args]
    rest = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays))
    whole = [np.broadcast_to(a, (*rest[:axis], a.shape[axis], *rest[axis + 1 :])) for a in arrays]
    return [np.concatenate(whole, axis)]


#: Primitives that leave alone the axes along which an operand merely repeats.
_COLLAPSED: dict[str, Callable[[Node, Sequence[Known]], list[Array]]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "split": _split,
    **dict.fromkeys(("reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum"), _reduce),
    "slice": _slice,
    "concatenate": _concatenate,
    "gather": _gather,
}


def _broadcast(node: Node, x: Known, text: str) -> Known:
    shape = node.outputs[0].shape
    inner = [1] * len(shape)
    for axis, extent in zip(node.params["broadcast_dimensions"], _raised(x).shape, strict=True):
        inner[axis] = extent
    return derive(text, x.array.reshape(inner), shape, x)


def _window_sum(node: Node, x: Known) -> Array:
    """Sum windows of a known array (the counts of an average pool), collapsed where it can be."""
    p = node.params
    array, shape = _raised(x), list(_raised(x).shape)
    for axis, full in enumerate(x.shape):
        trivial = p["window_dimensions"][axis] == p["window_strides"][axis] == 1 and tuple(
            p["padding"][axis]
        ) == (0, 0)
        if not trivial:
            shape[axis] = full
    (result,) = _bind(node, [np.broadcast_to(array, shape)])
    return result
