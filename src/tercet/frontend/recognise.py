"""Recognising functions that a framework spells out and the program language has as one operation.

Softmax arrives as maximum, subtraction, exponential, sum and division. Run one by one these would
cost more and lose accuracy; the softmax of the language subtracts the maximum itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tercet.frontend.graph import Graph, Lit, Node, Operand, Var, drop_dead
from tercet.frontend.values import Array

_IDENTITIES = ("stop_gradient", "copy", "copy_p", "convert_element_type")
_REPEATS = ("broadcast_in_dim", "reshape", "expand_dims", "squeeze")


class _Matcher:
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

    def reduction(self, operand: Operand, name: str, of: Operand) -> tuple[int, ...] | None:
        """Return the axes if ``operand`` is ``of`` reduced by ``name`` and repeated again."""
        chain: list[Node] = []
        while True:
            operand = self.strip(operand)
            repeat = self.producer(operand, *_REPEATS)
            if repeat is None:
                break
            chain.append(repeat)
            operand = repeat.inputs[0]
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

    def softmax(self, node: Node) -> Node | None:
        """Return the softmax that the division ``node`` computes, or ``None``."""
        if node.name != "div":
            return None
        exponential = self.producer(self.strip(node.inputs[0]), "exp")
        axes = self.reduction(node.inputs[1], "reduce_sum", node.inputs[0])
        if exponential is None or axes is None:
            return None
        x = exponential.inputs[0]
        if shifted := self.producer(self.strip(x), "sub"):
            source, shift = shifted.inputs
            if self.reduction(shift, "reduce_max", source) == axes:
                x = source
        return replace(node, name="softmax", params={"axes": axes}, inputs=(x,), primitive=None)


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


def recognise(graph: Graph) -> Graph:
    """Return ``graph`` with every softmax as one node, without what became dead."""
    matcher = _Matcher(graph)
    nodes = tuple(matcher.softmax(n) or n for n in graph.nodes)
    return drop_dead(replace(graph, nodes=nodes))
