"""One table of ATen operations, each as a function of JAX.

The language of Tercet has one door, the rules for JAX primitives (``frontend/rules``); PyTorch
comes through it as well. So there is one rule for each thing, functions are recognised in one
place, and what the model owner can compute is computed in one place. To support another operation,
write what it means in terms of ``jax.numpy`` and add a row; what has no row is taken apart by
PyTorch's own decompositions first.
"""

from __future__ import annotations

from tercet.frontend.aten.activations import ACTIVATIONS
from tercet.frontend.aten.attention import ATTENTION
from tercet.frontend.aten.creating import CREATING
from tercet.frontend.aten.elementwise import ELEMENTWISE
from tercet.frontend.aten.normalising import NORMALISING
from tercet.frontend.aten.operation import Operation, Refused, plain
from tercet.frontend.aten.recurrent import RECURRENT
from tercet.frontend.aten.reducing import REDUCING
from tercet.frontend.aten.resizing import RESIZING
from tercet.frontend.aten.shaping import SHAPING
from tercet.frontend.aten.spatial import SPATIAL

#: By the name of the operation, with its overload where overloads differ.
OPERATIONS: dict[str, Operation] = {
    **ACTIVATIONS,
    **ATTENTION,
    **CREATING,
    **ELEMENTWISE,
    **NORMALISING,
    **RECURRENT,
    **REDUCING,
    **RESIZING,
    **SHAPING,
    **SPATIAL,
}


def find(name: str) -> Operation | None:
    """Return the row of ``name``, such as ``relu.default`` (``aten::`` is left out)."""
    packet = name.partition(".")[0]
    return OPERATIONS.get(name) or OPERATIONS.get(packet)


__all__ = ["OPERATIONS", "SHAPING", "Operation", "Refused", "find", "plain"]
