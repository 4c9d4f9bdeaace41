"""A jaxpr as a flat list of nodes: calls inlined, each node labelled with its layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tercet.frontend.foreign import Foreign

#: Primitives that only call an inner jaxpr, and the parameter that holds it. Names differ between
#: JAX 0.7 and 0.10 (``pjit`` became ``jit``, ``checkpoint`` was ``remat2`` once).
CALLS: Mapping[str, str] = {
    "pjit": "jaxpr",
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}


@dataclass(frozen=True)
class Var:
    """A value of the graph, by number, with the shape and the dtype that the trace gave it."""

    number: int
    shape: tuple[int, ...]
    dtype: Foreign

    @property
    def is_truth(self) -> bool:
        """Whether the trace has truth values here."""
        return str(self.dtype) == "bool"


@dataclass(frozen=True)
class Lit:
    """A constant that the trace wrote into the graph."""

    value: Foreign


Operand: TypeAlias = Var | Lit


@dataclass(frozen=True)
class Node:
    """One primitive on its operands; ``primitive`` is JAX's object, ``None`` for our own.

    ``traceback`` tells where it was written, if JAX knows.
    """

    name: str
    params: Mapping[str, Foreign]
    inputs: tuple[Operand, ...]
    outputs: tuple[Var, ...]
    source: str
    primitive: Foreign = None
    traceback: Foreign = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Graph:
    """Nodes in order, the variables that stand for arguments and constants, and the results."""

    nodes: tuple[Node, ...]
    arguments: tuple[Var, ...]
    constants: tuple[tuple[Var, Foreign], ...]
    results: tuple[Operand, ...]


class _Flattener:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: list[tuple[Var, Foreign]] = []
        self.count = 0

    def fresh(self, aval: Foreign) -> Var:
        self.count += 1
        return Var(self.count, tuple(aval.shape), aval.dtype)

    def run(self, closed: Foreign, arguments: Sequence[Operand], prefix: str) -> list[Operand]:
        """Add the nodes of ``closed`` applied to ``arguments`` and return its results."""
        jaxpr: Foreign = getattr(closed, "jaxpr", closed)
        scope: dict[Foreign, Operand] = {}
        for var, value in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True):
            fresh = self.fresh(var.aval)
            self.constants.append((fresh, value))
            scope[var] = fresh
        scope.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Foreign) -> Operand:
            # A Literal has a value; a variable does not.
            if hasattr(atom, "val"):
                if getattr(atom.val, "ndim", 0):
                    # Newer JAX writes captured arrays as literals: they are constants all the
                    # same, perhaps statistics of somebody's data.
                    fresh = self.fresh(atom.aval)
                    self.constants.append((fresh, atom.val))
                    return fresh
                return Lit(atom.val)
            return scope[atom]

        for eqn in jaxpr.eqns:
            inputs = tuple(map(read, eqn.invars))
            stack = str(eqn.source_info.name_stack)
            source = f"{prefix}/{stack}".strip("/")
            name = eqn.primitive.name
            if name == "scan":
                scope.update(zip(eqn.outvars, self.unroll(eqn, inputs, source), strict=True))
                continue
            inner = eqn.params.get(CALLS[name]) if name in CALLS else None
            if inner is not None:
                scope.update(zip(eqn.outvars, self.run(inner, inputs, source), strict=True))
                continue
            outputs = tuple(self.fresh(v.aval) for v in eqn.outvars)
            scope.update(zip(eqn.outvars, outputs, strict=True))
            # A dot marks what is no primitive of JAX: an operation of PyTorch without a rule.
            own = None if "." in name else eqn.primitive
            made = eqn.source_info.traceback
            self.nodes.append(Node(name, eqn.params, inputs, outputs, source, own, made))
        return [read(v) for v in jaxpr.outvars]

    def unroll(self, eqn: Foreign, inputs: Sequence[Operand], source: str) -> list[Operand]:
        """Add the nodes of every step of a ``scan``, whose length is part of the model."""
        p = eqn.params
        fixed, carried, length = p["num_consts"], p["num_carry"], int(p["length"])
        constants, state = list(inputs[:fixed]), list(inputs[fixed : fixed + carried])
        stacked: list[list[Operand]] = []
        places = range(length - 1, -1, -1) if p["reverse"] else range(length)
        for place in places:
            rows = [
                self.own("scan_row", {"place": place}, (x,), var.aval, source)
                for x, var in zip(
                    inputs[fixed + carried :],
                    p["jaxpr"].jaxpr.invars[fixed + carried :],
                    strict=True,
                )
            ]
            results = self.run(p["jaxpr"], [*constants, *state, *rows], source)
            state = results[:carried]
            stacked.append(results[carried:])
        if p["reverse"]:
            stacked.reverse()
        return [
            *state,
            *(
                self.own("scan_stack", {}, tuple(row[n] for row in stacked), var.aval, source)
                for n, var in enumerate(eqn.outvars[carried:])
            ),
        ]

    def own(
        self,
        name: str,
        params: Mapping[str, Foreign],
        inputs: tuple[Operand, ...],
        aval: Foreign,
        source: str,
    ) -> Var:
        """Add a node that is no primitive of JAX and return its result."""
        output = self.fresh(aval)
        self.nodes.append(Node(name, params, inputs, (output,), source))
        return output


def flatten(closed: Foreign) -> Graph:
    """Return the closed jaxpr ``closed`` as a graph, all calls inlined."""
    flattener = _Flattener()
    arguments = tuple(flattener.fresh(v.aval) for v in closed.jaxpr.invars)
    results = flattener.run(closed, arguments, "")
    return Graph(tuple(flattener.nodes), arguments, tuple(flattener.constants), tuple(results))


def drop_dead(graph: Graph) -> Graph:
    """Return ``graph`` without the nodes that no result needs."""
    needed = {r.number for r in graph.results if isinstance(r, Var)}
    kept = []
    for node in reversed(graph.nodes):
        if any(o.number in needed for o in node.outputs):
            used = node
            if node.name == "sort" and not any(o.number in needed for o in node.outputs[1:]):
                # Places that nobody asks for: sorting alone is cheaper.
                keys = node.params["num_keys"]
                used = replace(node, inputs=node.inputs[:keys], outputs=node.outputs[:keys])
            kept.append(used)
            needed.update(i.number for i in used.inputs if isinstance(i, Var))
    return Graph(tuple(reversed(kept)), graph.arguments, graph.constants, graph.results)
