"""Recognising functions that a framework spells out and the program language has as one operation.

Softmax arrives as maximum, subtraction, exponential, sum and division. Run one by one these would
cost more and lose accuracy; the softmax of the language subtracts the maximum itself.
"""

from __future__ import annotations

from dataclasses import replace

from tercet.frontend.graph import Graph, Node, Operand, drop_dead
from tercet.frontend.matching import Matcher
from tercet.frontend.patterns import PATTERNS


def softmax(matcher: Matcher, node: Node) -> Node | None:
    """Return the softmax that the division ``node`` computes, or ``None``."""
    if node.name != "div":
        return None
    exponential = matcher.producer(matcher.strip(node.inputs[0]), "exp")
    axes = matcher.reduction(node.inputs[1], "reduce_sum", node.inputs[0])
    if exponential is None or axes is None:
        return None
    x = _unshifted(matcher, exponential.inputs[0], axes)
    return replace(node, name="softmax", params={"axes": axes}, inputs=(x,), primitive=None)


def log_softmax(matcher: Matcher, node: Node) -> Node | None:
    """Return the log-softmax over one axis that the subtraction ``node`` computes, or ``None``."""
    if node.name != "sub":
        return None
    shifted, subtrahend = node.inputs
    found = matcher.source(subtrahend, "log")
    total = found and matcher.producer(matcher.strip(found.inputs[0]), "reduce_sum")
    exponential = total and matcher.producer(matcher.strip(total.inputs[0]), "exp")
    if not found or not total or not exponential or len(total.params["axes"]) != 1:
        return None
    if matcher.strip(exponential.inputs[0]) != matcher.strip(shifted):
        return None
    axes = matcher.reduction(subtrahend, "reduce_sum", total.inputs[0], through="log")
    if axes is None:
        return None
    x = _unshifted(matcher, shifted, axes)
    return replace(node, name="log_softmax", params={"axes": axes}, inputs=(x,), primitive=None)


def _unshifted(matcher: Matcher, x: Operand, axes: tuple[int, ...]) -> Operand:
    """Return what the maximum over ``axes`` was subtracted from, else ``x`` itself."""
    if shifted := matcher.producer(matcher.strip(x), "sub"):
        source, shift = shifted.inputs
        if matcher.reduction(shift, "reduce_max", source) == axes:
            return source
    return x


def recognise(graph: Graph) -> Graph:
    """Return ``graph`` with every function of ours as one node, without what became dead."""
    for pattern in (softmax, log_softmax, *PATTERNS):
        matcher = Matcher(graph)
        nodes = tuple(pattern(matcher, n) or n for n in graph.nodes)
        graph = drop_dead(replace(graph, nodes=nodes))
    return graph
