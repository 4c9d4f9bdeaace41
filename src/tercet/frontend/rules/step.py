"""Rules for what a training step adds: the primitives of ``frontend.primitives``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules import RULES
from tercet.frontend.rules.rule import Rule, secret
from tercet.frontend.values import Secret, Value
from tercet.program.training import Kind, StepInput

if TYPE_CHECKING:
    from tercet.frontend.step import StepLowering

#: Fractional bits of a dropout mask, whose numbers are 0 and 1 / keep.
MASK_SCALE = 14


def _rectify(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return cast("StepLowering", low).rectify(secret(low, node, args[0]))


def _gate(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    bit, x = args
    assert isinstance(bit, Secret)
    return [low.emit("select", bit.handle, low.share(x).handle)]


def _conv(op: str) -> Rule:
    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x, y = (low.share(a) for a in args)
        p, rank = node.params, len(x.shape) - 2
        before, after = zip(*p["padding"], strict=True)
        shape = tuple(p["shape"])
        extents = {"conv_input": shape[1:-1], "conv_kernel": shape[:-2]}
        more = {"extents": extents[op]} if op in extents else {}
        return [
            low.emit(
                op,
                x.handle,
                y.handle,
                strides=tuple(p["strides"]),
                low=tuple(before),
                high=tuple(after),
                input_dilation=(1,) * rank,
                kernel_dilation=tuple(p["spread"]),
                groups=int(p["groups"]),
                **more,
            )
        ]

    return rule


def _mask(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    p = node.params
    name = f"mask {p['number']}"
    derivation = StepInput(name, Kind.MASK, keep=float(p["keep"]))
    return [cast("StepLowering", low).step_input(derivation, tuple(p["shape"]), MASK_SCALE)]


STEP_RULES: dict[str, Rule] = {
    **RULES,
    "rectify": _rectify,
    "gate": _gate,
    "conv": _conv("conv"),
    "conv_input": _conv("conv_input"),
    "conv_kernel": _conv("conv_kernel"),
    "mask": _mask,
}
