"""What a rule is, and helpers that several rules use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from tercet.frontend.graph import Node, Operand, Var
from tercet.frontend.lowering import Lowering
from tercet.frontend.values import Known, Secret, Value

#: (context, node, operands) -> results, one for each output of the node.
Rule: TypeAlias = Callable[[Lowering, Node, Sequence[Value]], Sequence[Value]]


def secret(low: Lowering, node: Node, value: Value) -> Secret:
    """Return ``value`` if it is a secret number, else refuse ``node``."""
    if not isinstance(value, Secret):
        raise low.unsupported(node.name, "with a secret second operand")
    if value.bit and node.outputs[0].is_truth:
        return low.number(value)  # moved about as a number
    if value.bit:
        raise low.unsupported(node.name, "on the result of a comparison")
    return value


def is_whole(operand: Operand) -> bool:
    """Return whether the trace has whole numbers here."""
    return isinstance(operand, Var) and np.dtype(operand.dtype).kind in "iu"


def integers(low: Lowering, node: Node, values: Sequence[Value]) -> list[int]:
    """Return known indices as integers, else refuse ``node``."""
    result = []
    for value in values:
        if not isinstance(value, Known):
            raise low.unsupported(node.name)
        result.append(int(value.array.reshape(())))
    return result


def merge(extents: Sequence[int]) -> int:
    """Return the extent of several axes merged into one."""
    return math.prod(extents)
