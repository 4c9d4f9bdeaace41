"""Rules for tables: rows looked up at places that are public, or secret (one-hot)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, merge
from tercet.frontend.values import Known, Secret, Taint, Value, derive
from tercet.program.checks import RANGE_BITS
from tercet.program.functions import MAX_CLASSES


def _gather(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    """Rows of a table: x[index] along one axis, everything else whole."""
    x, index = args
    axis, batch = _one_axis(low, node, x.shape)
    if isinstance(index, Known):
        return [_public(low, node, x, index, axis)]
    places = _places(low, index, batch)
    if axis != 0 or x.shape[0] > MAX_CLASSES:
        raise low.unsupported(node.name, f"at a secret place of a table of shape {x.shape}")
    hot = low.emit("one_hot", places.handle, classes=x.shape[0], bits=RANGE_BITS)
    rows, inner = hot.shape[:-1], x.shape[1:]
    table = low.reshape(low.share(x), (x.shape[0], merge(inner)))
    flat = hot if len(hot.shape) > 1 else low.reshape(hot, (1, *hot.shape))
    found = low.emit("matmul", flat.handle, table.handle)
    found = low.emit("reshare", found.handle)
    return [low.reshape(found, (*rows, *inner))]


def _one_axis(low: Lowering, node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the axis looked up and the number of axes of the places, or refuse."""
    numbers, sizes = node.params["dimension_numbers"], tuple(node.params["slice_sizes"])
    axes = tuple(numbers.start_index_map)
    count = len(node.outputs[0].shape) - len(shape) + 1
    if len(axes) != 1 or numbers.operand_batching_dims:
        raise low.unsupported(node.name, "at places of several axes")
    (axis,) = axes
    whole = all(
        s == (1 if a == axis else d) for a, (s, d) in enumerate(zip(sizes, shape, strict=True))
    )
    if not whole or tuple(numbers.collapsed_slice_dims) != (axis,):
        raise low.unsupported(node.name, "of slices")
    offsets = tuple(range(axis)) + tuple(range(axis + count, len(node.outputs[0].shape)))
    if tuple(numbers.offset_dims) != offsets:
        raise low.unsupported(node.name, "in this order of axes")
    return axis, count


def _places(low: Lowering, index: Secret, count: int) -> Secret:
    """Drop the last axis of the places, of extent 1."""
    shape = index.shape
    if len(shape) == count + 1 and shape[-1] == 1:
        return low.reshape(index, shape[:-1])
    return index


def _public(low: Lowering, node: Node, x: Value, index: Known, axis: int) -> Value:
    shape = node.outputs[0].shape
    places = np.clip(index.full().astype(np.int64).reshape(-1), 0, x.shape[axis] - 1)
    assert isinstance(x, Secret)
    # A matrix of zeros and ones, which costs nothing but work.
    matrix = np.zeros((x.shape[axis], len(places)))
    matrix[places, np.arange(len(places))] = 1.0
    order = (*(a for a in range(len(x.shape)) if a != axis), axis)
    moved = low.transpose(x, order)
    rows = moved.shape[:-1] or (1,)
    flat = low.reshape(moved, (*rows, x.shape[axis]))
    key = derive("places", matrix, matrix.shape, index)
    picked = low.emit("matmul", flat.handle, low.register(key, scale=0))
    if key.taint is Taint.MODEL:
        picked = low.emit("reshare", picked.handle)
    width = len(moved.shape) - 1
    full = low.reshape(picked, (*moved.shape[:-1], *index_shape(shape, x.shape, axis)))
    extra = len(full.shape) - width
    back = (*range(axis), *range(width, width + extra), *range(axis, width))
    return low.transpose(full, back)


def index_shape(result: tuple[int, ...], table: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of the places, from those of result and table."""
    count = len(result) - len(table) + 1
    return result[axis : axis + count]


INDEXING: dict[str, Rule] = {"gather": _gather}
