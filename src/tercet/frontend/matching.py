"""Looking back in a graph from an operand to what it was made of."""

from __future__ import annotations

import math

import numpy as np

from tercet.frontend.graph import Graph, Lit, Node, Operand, Var
from tercet.frontend.values import Array

_IDENTITIES = ("stop_gradient", "copy", "copy_p", "convert_element_type")
_REPEATS = ("broadcast_in_dim", "reshape", "expand_dims", "squeeze")


class Matcher:
    """Looks back from operands to the nodes that make them."""

    def __init__(self, graph: Graph) -> None:
        self.producers = {o.number: n for n in graph.nodes for o in n.outputs}

    def producer(self, operand: Operand, *names: str) -> Node | None:
        """Return the node that makes ``operand`` if it is one of ``names``."""
        node = self.producers.get(operand.number) if isinstance(operand, Var) else None
        return node if node is not None and node.name in names else None

    def step(self, operand: Operand) -> tuple[Operand, Node] | None:
        """Step back over a node that keeps all numbers: an identity or max(-inf, x)."""
        if node := self.producer(operand, *_IDENTITIES):
            return node.inputs[0], node
        if node := self.producer(operand, "max"):
            rest = [i for i in node.inputs if not _is_minus_infinity(i)]
            if len(rest) == 1:
                return rest[0], node
        return None

    def strip(self, operand: Operand) -> Operand:
        """Step back over identities."""
        while step := self.step(operand):
            operand = step[0]
        return operand

    def source(self, operand: Operand, name: str) -> Node | None:
        """Return the node ``name`` whose result ``operand`` is, perhaps repeated."""
        operand = self.strip(operand)
        while repeat := self.producer(operand, *_REPEATS):
            operand = self.strip(repeat.inputs[0])
        return self.producer(operand, name)

    def reduction(
        self, operand: Operand, name: str, of: Operand, through: str = ""
    ) -> tuple[int, ...] | None:
        """Return the axes if ``operand`` is ``of`` reduced by ``name`` and repeated again.

        ``through`` names an elementwise node that may stand between.
        """
        chain: list[Node] = []
        while True:
            operand = self.strip(operand)
            repeat = self.producer(operand, *_REPEATS)
            step = repeat or (self.producer(operand, through) if through else None)
            if step is None:
                break
            if repeat is not None:
                chain.append(repeat)
            operand = step.inputs[0]
        node = self.producer(operand, name)
        if node is None or not isinstance(operand, Var) or not isinstance(of, Var):
            return None
        if self.strip(node.inputs[0]) != self.strip(of):
            return None
        axes = tuple(node.params["axes"])
        # Follow the place of every number: a reshape that puts another axis where the reduced one
        # was would divide rows by the sums of other rows.
        places = np.arange(math.prod(operand.shape)).reshape(operand.shape)
        wanted = np.broadcast_to(np.expand_dims(places, axes), of.shape)
        for repeat in reversed(chain):
            places = _replay(repeat, places)
        if places.ndim != len(of.shape):
            return None
        return axes if np.array_equal(np.broadcast_to(places, of.shape), wanted) else None

    def is_place(self, operand: Operand) -> bool:
        """Return whether ``operand`` is, moved about, where in an array some number stands."""
        while node := self.producer(operand, *_IDENTITIES, *_REPEATS, "slice", "rev"):
            operand = node.inputs[0]
        if self.producer(operand, "argmax", "argmin"):
            return True
        # What is sorted along a key is refused unless it is places.
        node = self.producer(operand, "top_k", "sort")
        return node is not None and len(node.outputs) == 2 and operand == node.outputs[1]

    def number(self, operand: Operand) -> float | None:
        """Return the number that ``operand`` is or repeats, if it is written in the graph."""
        while node := self.producer(operand, *_IDENTITIES, *_REPEATS):
            operand = node.inputs[0]
        if isinstance(operand, Lit) and np.ndim(operand.value) == 0:
            return float(operand.value)
        return None


def _is_minus_infinity(operand: Operand) -> bool:
    return isinstance(operand, Lit) and float(operand.value) == -math.inf


def _replay(node: Node, places: Array) -> Array:
    shape = node.outputs[0].shape
    if node.name == "broadcast_in_dim":
        kept = node.params["broadcast_dimensions"]
        inner = [1] * len(shape)
        for axis, extent in zip(kept, places.shape, strict=True):
            inner[axis] = extent
        return np.broadcast_to(places.reshape(inner), shape)
    return places.reshape(shape)
