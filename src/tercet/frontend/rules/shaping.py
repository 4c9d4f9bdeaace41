"""Rules that move numbers about: free on shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, integers, secret
from tercet.frontend.values import Known, Secret, Value, derive


def _result_shape(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [low.reshape(secret(low, node, args[0]), node.outputs[0].shape)]


def _reshape(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    if node.params.get("dimensions") is not None:
        raise low.unsupported(node.name, "in another order of axes")
    return _result_shape(low, node, args)


def _broadcast_in_dim(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, shape = secret(low, node, args[0]), node.outputs[0].shape
    inner = [1] * len(shape)
    for axis, extent in zip(node.params["broadcast_dimensions"], x.shape, strict=True):
        inner[axis] = extent
    return [low.broadcast(low.reshape(x, tuple(inner)), shape)]


def _tile(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, repeats = secret(low, node, args[0]), tuple(node.params["reps"])
    apart = [e for d in x.shape for e in (1, d)]
    repeated = [e for d, r in zip(x.shape, repeats, strict=True) for e in (r, d)]
    spread = low.broadcast(low.reshape(x, tuple(apart)), tuple(repeated))
    return [low.reshape(spread, node.outputs[0].shape)]


def _transpose(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [low.transpose(secret(low, node, args[0]), tuple(node.params["permutation"]))]


def cut(
    low: Lowering, x: Secret, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
) -> Secret:
    """Return a slice of ``x``."""
    if all(
        (s, e, step) == (0, d, 1)
        for s, e, step, d in zip(start, limit, stride, x.shape, strict=True)
    ):
        return x
    return low.emit("slice", x.handle, start=tuple(start), limit=tuple(limit), stride=tuple(stride))


def _slice(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, p = secret(low, node, args[0]), node.params
    stride = p["strides"] or (1,) * len(x.shape)
    return [cut(low, x, p["start_indices"], p["limit_indices"], stride)]


def _corner(
    low: Lowering, node: Node, indices: Sequence[Value], shape: Sequence[int], size: Sequence[int]
) -> list[int]:
    """Return the known start of a dynamic slice, clamped as JAX does."""
    return [
        min(max(i, 0), d - s)
        for i, d, s in zip(integers(low, node, indices), shape, size, strict=True)
    ]


def _dynamic_slice(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, size = secret(low, node, args[0]), tuple(node.params["slice_sizes"])
    start = _corner(low, node, args[1:], x.shape, size)
    limit = [s + n for s, n in zip(start, size, strict=True)]
    return [cut(low, x, start, limit, [1] * len(size))]


def _dynamic_update_slice(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    # x with a region replaced is x + pad(update - region).
    x, update = args[:2]
    shape, size = x.shape, update.shape
    start = _corner(low, node, args[2:], shape, size)
    limit = [s + n for s, n in zip(start, size, strict=True)]
    if isinstance(x, Known):
        part = np.broadcast_to(x.full()[tuple(map(slice, start, limit))], size)
        region: Value = Known(part, size, x.taint, f"{x.key} from {start} to {limit}", x.origin)
    else:
        region = cut(low, x, start, limit, [1] * len(size))
    change = low.share(low.sub(update, region))
    high = [d - e for d, e in zip(shape, limit, strict=True)]
    return [low.add(pad(low, change, start, high, [0] * len(size)), x)]


def pad(
    low: Lowering, x: Secret, before: Sequence[int], after: Sequence[int], interior: Sequence[int]
) -> Secret:
    """Return ``x`` with zeros around and between; a negative padding cuts off."""
    low_pad, high_pad = tuple(max(b, 0) for b in before), tuple(max(a, 0) for a in after)
    if any((*low_pad, *high_pad, *interior)):
        x = low.emit("pad", x.handle, low=low_pad, high=high_pad, interior=tuple(interior))
    start = [max(-b, 0) for b in before]
    limit = [d - max(-a, 0) for d, a in zip(x.shape, after, strict=True)]
    return cut(low, x, start, limit, [1] * len(start))


def _pad(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, filler = args
    before, after, interior = zip(*node.params["padding_config"], strict=True)
    if not (isinstance(filler, Known) and filler.array.size == 1):
        raise low.unsupported(node.name, "with a secret filler")
    # pad(x, c) = pad(x - c, 0) + c
    inner = low.share(low.sub(secret(low, node, x), filler))
    return [low.add(pad(low, inner, before, after, interior), filler)]


def _concatenate(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    if len(args) == 1:
        return [args[0]]
    parts = [low.share(a) for a in args]
    return [low.emit("concat", *(p.handle for p in parts), axis=int(node.params["dimension"]))]


def _stack(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    shape = node.outputs[0].shape
    axis = int(node.params["axis"]) % len(shape)
    inner = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [low.reshape(low.share(a), inner) for a in args]
    return [low.emit("concat", *(p.handle for p in parts), axis=axis)]


def _split(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, axis, at = secret(low, node, args[0]), int(node.params["axis"]), 0
    parts = []
    for size in node.params["sizes"]:
        start, limit = [0] * len(x.shape), list(x.shape)
        start[axis], limit[axis] = at, at + size
        parts.append(cut(low, x, start, limit, [1] * len(start)))
        at += size
    return parts


def _unstack(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, axis = secret(low, node, args[0]), int(node.params["axis"])
    parts = []
    for place, output in enumerate(node.outputs):
        start, limit = [0] * len(x.shape), list(x.shape)
        start[axis], limit[axis] = place, place + 1
        parts.append(low.reshape(cut(low, x, start, limit, [1] * len(start)), output.shape))
    return parts


def _reverse(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, axes = secret(low, node, args[0]), tuple(node.params["dimensions"])
    return [low.emit("reverse", x.handle, axes=axes) if axes else x]


def _scan_row(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, place = args[0], int(node.params["place"])
    shape = x.shape[1:]
    if isinstance(x, Known):
        return [derive(f"row {place}", x.full()[place], shape, x)]
    start, limit = [place] + [0] * len(shape), [place + 1, *shape]
    return [low.reshape(cut(low, x, start, limit, [1] * len(limit)), shape)]


def _scan_stack(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    if (known := [a for a in args if isinstance(a, Known)]) and len(known) == len(args):
        array = np.stack([a.full() for a in known])
        return [derive("stack", array, array.shape, *known)]
    parts = [low.reshape(low.share(a), (1, *a.shape)) for a in args]
    if len(parts) == 1:
        return parts
    return [low.emit("concat", *(p.handle for p in parts), axis=0)]


SHAPING: dict[str, Rule] = {
    "reshape": _reshape,
    "squeeze": _result_shape,
    "expand_dims": _result_shape,
    "broadcast_in_dim": _broadcast_in_dim,
    "tile": _tile,
    "transpose": _transpose,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "unstack": _unstack,
    "rev": _reverse,
    "scan_row": _scan_row,
    "scan_stack": _scan_stack,
}
