"""Rules for sliding windows: average and max pooling."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, secret
from tercet.frontend.values import Value
from tercet.program.checks import RANGE_BITS
from tercet.program.program import Attribute


def _window(low: Lowering, node: Node) -> dict[str, Attribute]:
    p = node.params
    if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
        raise low.unsupported(node.name, "with dilation")
    before, after = zip(*p["padding"], strict=True)
    return {
        "window": tuple(p["window_dimensions"]),
        "strides": tuple(p["window_strides"]),
        "low": tuple(before),
        "high": tuple(after),
    }


def _window_sum(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x = secret(low, node, args[0])
    return [low.emit("window_sum", x.handle, **_window(low, node))]


def _window_max(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x = secret(low, node, args[0])
    return [low.emit("max_pool", x.handle, bits=RANGE_BITS, **_window(low, node))]


WINDOWS: dict[str, Rule] = {
    "reduce_window_sum": _window_sum,
    "reduce_window_max": _window_max,
}
