"""Rules for dot products and convolutions: any order of axes becomes the language's one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, merge, secret
from tercet.frontend.rules.shaping import pad
from tercet.frontend.values import Known, Secret, Value, derive
from tercet.program.program import Attribute


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(a) for a in np.argsort(order))


def _arrange(low: Lowering, value: Value, order: tuple[int, ...], shape: tuple[int, ...]) -> Value:
    """Return ``value`` transposed by ``order``, then in ``shape``."""
    if isinstance(value, Secret):
        return low.reshape(low.transpose(value, order), shape)
    if order == tuple(range(len(order))) and value.array.shape == shape:
        return value
    array = value.full().transpose(order).reshape(shape)
    return derive(f"arrange {order} {shape}", array, shape, value)


def _product(
    low: Lowering, op: str, x: Value, y: Value, attrs: Mapping[str, Attribute] | None = None
) -> Secret:
    """Emit a product of ``x`` and ``y`` and its truncation."""
    handles, shift = [], 0
    for value in (x, y):
        if isinstance(value, Known):
            scale = low.product_scale(value)
            handles.append(low.register(value, scale=scale))
            shift += scale
        else:
            handles.append(value.handle)
            shift += low.scale
    return low.truncate(low.emit(op, *handles, **(attrs or {})), shift - low.scale)


@dataclass(frozen=True)
class _Operand:
    """One side of a dot product: its batch axes, those summed over and the free ones."""

    value: Value
    batch: tuple[int, ...]
    contract: tuple[int, ...]

    @property
    def free(self) -> tuple[int, ...]:
        taken = {*self.batch, *self.contract}
        return tuple(a for a in range(len(self.value.shape)) if a not in taken)

    def extents(self, axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.value.shape[a] for a in axes)


def _dot_general(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    contract, batch = node.params["dimension_numbers"]
    left, right = (
        _Operand(secret(low, node, a) if isinstance(a, Secret) else a, tuple(b), tuple(c))
        for a, b, c in zip(args, batch, contract, strict=True)
    )
    if isinstance(right.value, Known) and not right.batch:
        return [_rows(low, left, right)]
    if isinstance(left.value, Known) and not left.batch:
        # The known operand to the right, so that the secret one keeps its axes, the batch first.
        result, count = _rows(low, right, left), len(right.free)
        return [low.transpose(result, (*range(count, len(result.shape)), *range(count)))]
    return [_batched(low, left, right)]


def _rows(low: Lowering, x: _Operand, y: _Operand) -> Secret:
    """Multiply the rows of a secret ``x`` by a known matrix: free axes of x, then those of y."""
    rows, columns = x.extents(x.free), y.extents(y.free)
    depth = merge(x.extents(x.contract))
    left = _arrange(low, x.value, (*x.free, *x.contract), (*(rows or (1,)), depth))
    right = _arrange(low, y.value, (*y.contract, *y.free), (depth, merge(columns)))
    return low.reshape(_product(low, "matmul", left, right), (*rows, *columns))


def _batched(low: Lowering, x: _Operand, y: _Operand) -> Secret:
    """Multiply matrices, one for each place along the batch axes."""
    batch, rows, columns = x.extents(x.batch), x.extents(x.free), y.extents(y.free)
    depth = merge(x.extents(x.contract))
    left = _arrange(low, x.value, (*x.batch, *x.free, *x.contract), (*batch, merge(rows), depth))
    right = _arrange(
        low, y.value, (*y.batch, *y.contract, *y.free), (*batch, depth, merge(columns))
    )
    return low.reshape(_product(low, "matmul", left, right), (*batch, *rows, *columns))


def _convolution(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, w = (secret(low, node, a) if isinstance(a, Secret) else a for a in args)
    p, numbers = node.params, node.params["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise low.unsupported(node.name, "in batch groups")
    n, c, *space = numbers.lhs_spec
    o, i, *window = numbers.rhs_spec
    rank = len(space)
    if not 1 <= rank <= 3:
        raise low.unsupported(node.name, f"over {rank} axes")
    images = _move(low, x, (n, *space, c))
    before, after = zip(*p["padding"], strict=True)
    dilation = tuple(p["lhs_dilation"])
    if min(*before, *after) < 0:
        # The language pads by zeros only: dilate and crop first.
        images = pad(
            low,
            low.share(images),
            (0, *before, 0),
            (0, *after, 0),
            (0, *(d - 1 for d in dilation), 0),
        )
        before = after = (0,) * rank
        dilation = (1,) * rank
    result = _product(
        low,
        "conv",
        images,
        _move(low, w, (*window, i, o)),
        {
            "strides": tuple(p["window_strides"]),
            "low": tuple(before),
            "high": tuple(after),
            "input_dilation": dilation,
            "kernel_dilation": tuple(p["rhs_dilation"]),
            "groups": int(p["feature_group_count"]),
        },
    )
    n, c, *space = numbers.out_spec
    return [low.transpose(result, _inverse((n, *space, c)))]


def _move(low: Lowering, value: Value, order: tuple[int, ...]) -> Value:
    return _arrange(low, value, order, tuple(value.shape[a] for a in order))


PRODUCTS: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
