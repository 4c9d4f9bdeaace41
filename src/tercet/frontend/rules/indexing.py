"""Rules for tables: rows looked up at places that are public, or secret (one-hot)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, merge
from tercet.frontend.values import Known, Secret, Taint, Value, derive
from tercet.program.checks import RANGE_BITS
from tercet.program.functions import MAX_ROWS


def _gather(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    """Rows of a table: x[index] along one axis, everything else whole."""
    x, index = args
    axis, shared = _axes(low, node, x.shape)
    if isinstance(index, Known):
        if shared:
            raise low.unsupported(node.name, "at public places of each row")
        return [_public(low, node, x, index, axis)]
    return [_secret(low, node, low.share(x), index, axis)]


def _axes(low: Lowering, node: Node, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the axis looked up and those along which each place has a table, or refuse."""
    numbers, sizes = node.params["dimension_numbers"], tuple(node.params["slice_sizes"])
    axes, shared = tuple(numbers.start_index_map), tuple(numbers.operand_batching_dims)
    if len(axes) != 1:
        raise low.unsupported(node.name, "at places of several axes at once (use take_along_axis)")
    (axis,) = axes
    single = {axis, *shared}
    whole = all(
        s == (1 if a in single else d) for a, (s, d) in enumerate(zip(sizes, shape, strict=True))
    )
    if not whole or tuple(numbers.collapsed_slice_dims) != (axis,):
        raise low.unsupported(node.name, "of slices")
    return axis, shared


def _secret(low: Lowering, node: Node, x: Secret, index: Secret, axis: int) -> Value:
    """Look rows up at secret places, in one table or in one for each of the shared axes."""
    numbers = node.params["dimension_numbers"]
    shared, paired = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    count = x.shape[axis]
    if count > MAX_ROWS:
        raise low.unsupported(node.name, f"at a secret place among {count} (at most {MAX_ROWS:,})")
    places = low.reshape(index, index.shape[:-1])  # the last axis holds the one number of a place
    order = (*paired, *(a for a in range(len(places.shape)) if a not in paired))
    places = low.transpose(places, order)
    rest = [a for a in range(len(x.shape)) if a != axis and a not in shared]
    table = low.transpose(x, (*shared, axis, *rest))
    inner = table.shape[len(shared) + 1 :]
    table = low.reshape(table, (*table.shape[: len(shared) + 1], merge(inner)))
    found = low.emit("lookup", places.handle, table.handle, shared=len(shared), bits=RANGE_BITS)
    found = low.reshape(found, (*places.shape, *inner))
    # The result has the axes of the places in their own order, those of a row where JAX wants them.
    of_places = iter(int(a) for a in np.argsort(order))
    of_rows = iter(range(len(order), len(found.shape)))
    axes = range(len(found.shape))
    return low.transpose(
        found, tuple(next(of_rows if a in numbers.offset_dims else of_places) for a in axes)
    )


def _public(low: Lowering, node: Node, x: Value, index: Known, axis: int) -> Value:
    shape = node.outputs[0].shape
    count = len(shape) - len(x.shape) + 1
    numbers = node.params["dimension_numbers"]
    if tuple(numbers.offset_dims) != (*range(axis), *range(axis + count, len(shape))):
        raise low.unsupported(node.name, "in this order of axes")
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
