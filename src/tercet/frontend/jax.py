"""Tracing a JAX function to a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from msgspec.structs import replace as changed

from tercet.errors import ModelError, ProgramError, UnsupportedOperation
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph, Node, Operand, Var, drop_dead, flatten
from tercet.frontend.known import evaluate
from tercet.frontend.lowering import Lowering
from tercet.frontend.numbers import is_supported
from tercet.frontend.places import user_line
from tercet.frontend.recognise import recognise
from tercet.frontend.reports import OperationReport, joined, layer_reports
from tercet.frontend.rules import RULES
from tercet.frontend.rules.rule import Rule
from tercet.frontend.traced import Traced
from tercet.frontend.values import Known, Secret, Taint, Value, public
from tercet.program.program import Program, Role
from tercet.program.unify import unify
from tercet.program.verify import verify

#: Two coprime batch sizes, neither of them 1, which broadcasting treats apart.
SIZES = (2, 3)


@dataclass(frozen=True)
class Naming:
    """How a trace is labelled.

    Attributes:
        label: turns a name stack of JAX into the label of a layer.
        kinds: the class of the layer of each label.
        canonical: turns the name of a weight into the name of its input.
        told: names the operation of a node and the place where it was written.
    """

    label: Callable[[str], str] = str
    kinds: Mapping[str, str] = field(default_factory=dict)
    canonical: Callable[[str], str] = str
    told: Callable[[Node], tuple[str, str]] = field(
        default=lambda node: (node.name, user_line(node.traceback))
    )


def trace(
    fn: Callable[..., Foreign],
    input_shape: Sequence[int],
    *,
    weights: Mapping[str, Foreign] | None = None,
    scale: int = 16,
    name: str = "model",
    naming: Naming | None = None,
) -> Traced:
    """Trace ``fn(x, *weights)`` to a program with a symbolic batch.

    Args:
        fn: a function of a float32 array of shape (batch, *input_shape) and of the weights, in
            order, to one array (batch, ...). Arrays that it captures count as weights too.
        input_shape: the shape of one row.
        weights: the weights by name, all of them secret.
        scale: fractional bits of the program.
        name: the name of the model.
        naming: labels for layers and weights.

    Raises:
        UnsupportedOperation: if an operation has no rule; names the layer.
        ModelError: if the function treats rows of the batch differently or cannot be traced.
    """
    naming = naming or Naming()
    weights = dict(weights or {})
    try:
        first, second = (
            lower(graph_of(fn, input_shape, weights, n), weights, naming, scale) for n in SIZES
        )
    except UnsupportedOperation as error:
        raise _all_refused(fn, input_shape, weights, naming, scale, error) from error
    _check_constants(first, second)
    try:
        program = unify(first.program, SIZES[0], second.program, SIZES[1])
        verify(program)
    except ProgramError as error:
        raise ModelError(
            f"the model mixes the rows of a batch ({error.message})",
            "Treat every row of the batch alike and return one result for each",
        ) from error
    layers = layer_reports(naming.kinds, first.operations)
    return Traced(program, first.arrays, name, tuple(layers))


def _all_refused(
    fn: Callable[..., Foreign],
    input_shape: Sequence[int],
    weights: Mapping[str, Foreign],
    naming: Naming,
    scale: int,
    first: UnsupportedOperation,
) -> UnsupportedOperation:
    """Return the error that names not the first operation without a rule, but all of them."""
    try:
        graph = graph_of(fn, input_shape, weights, SIZES[0])
        lowered = lower(graph, weights, naming, scale, tolerant=True)
    except ModelError:
        return first
    layers = layer_reports(naming.kinds, lowered.operations)
    refused = [
        ModelError(o.reason, o.remedy) for x in layers for o in x.operations if not o.supported
    ]
    if not refused:
        return first
    error = UnsupportedOperation(*joined(refused))
    error.layers = layers
    return error


def _check_constants(first: Lowered, second: Lowered) -> None:
    """Refuse numbers that depend on the batch size: a program has one number for all sizes."""
    for name, array in first.arrays.items():
        if name in second.arrays and not np.array_equal(array, second.arrays[name]):
            raise _depends(name)
    for a, b in zip(first.program.instructions, second.program.instructions, strict=False):
        if a.op == b.op and any(
            isinstance(value, int) and value != b.attrs.get(key) for key, value in a.attrs.items()
        ):
            raise _depends(a.source or "the model")


def _depends(where: str) -> ModelError:
    return ModelError(
        f"{where} computes with the batch size or mixes the rows of a batch",
        "Treat every row of the batch alike and return one result for each",
    )


def graph_of(
    fn: Callable[..., Foreign],
    input_shape: Sequence[int],
    weights: Mapping[str, Foreign],
    size: int,
) -> Graph:
    """Trace ``fn`` on ``size`` rows to a graph without dead nodes."""
    import jax

    x = jax.ShapeDtypeStruct((size, *input_shape), np.dtype(np.float32))
    return recognise(drop_dead(flatten(jax.make_jaxpr(fn)(x, *weights.values()))))


@dataclass
class Lowered:
    """One lowered trace: its program, the arrays, and each operation with its layer, in order."""

    program: Program
    arrays: dict[str, Foreign]
    operations: list[tuple[str, OperationReport]]


def lower(
    graph: Graph,
    weights: Mapping[str, Foreign],
    naming: Naming,
    scale: int,
    *,
    tolerant: bool = False,
) -> Lowered:
    """Lower ``graph`` at its concrete batch size.

    With ``tolerant``, an operation without a rule is noted and its result replaced by a fresh
    secret, so that one pass finds all of them; the program is then of no use.
    """
    low = Lowering(scale, dict(naming.kinds), naming.canonical)
    operations: list[tuple[str, OperationReport]] = []
    data, *parameters = graph.arguments
    scope: dict[int, Value] = {data.number: _input(low, graph, data)}
    for var, (name, array) in zip(parameters, weights.items(), strict=True):
        numbers = np.asarray(array)
        scope[var.number] = Known(numbers, var.shape, Taint.MODEL, f"weight {name}", name)
    for count, (var, array) in enumerate(graph.constants):
        numbers = np.asarray(array)
        scope[var.number] = Known(numbers, var.shape, Taint.MODEL, f"constant {count}")

    def read(operand: Operand) -> Value:
        return scope[operand.number] if isinstance(operand, Var) else public(operand.value)

    for node in graph.nodes:
        low.source = naming.label(node.source)
        operation, low.line = naming.told(node)
        args, before = [read(i) for i in node.inputs], len(low.emitted)
        told = OperationReport(operation, low.line)
        try:
            results = apply(low, node, args, RULES)
            told = changed(told, made=tuple(dict.fromkeys(low.emitted[before:])))
        except ModelError as error:
            if not tolerant:
                raise
            told = changed(told, supported=False, reason=error.message, remedy=error.remedy)
            results = [_stand_in(low, o) for o in node.outputs]
        if not told.supported or any(isinstance(a, Secret) for a in args):
            operations.append((low.source, told))
        scope.update({o.number: r for o, r in zip(node.outputs, results, strict=True)})
    low.source = low.line = ""
    outputs = [read(r) for r in graph.results]
    if len(outputs) != 1:
        raise ModelError(
            f"the model has {len(outputs)} outputs", "Share a model with exactly one output"
        )
    (output,) = outputs
    if isinstance(output, Known):
        raise ModelError("the output does not depend on the input", "Check the model")
    return Lowered(low.builder.finish(output.handle), low.arrays, operations)


def _input(low: Lowering, graph: Graph, data: Var) -> Secret:
    """Return the client's input, in units of the program's scale."""
    reads = [n for n in graph.nodes if data in n.inputs]
    if not reads or not all(map(_makes_whole, reads)):
        return Secret(low.builder.input("input", Role.INPUT, data.shape), data.shape)
    # Whole numbers may be larger than others: the ids of tokens, say.
    handle = low.builder.input("input", Role.INPUT, data.shape, scale=0)
    return low.emit("shift_left", handle, bits=low.scale)


def _makes_whole(node: Node) -> bool:
    return node.name == "convert_element_type" and np.dtype(node.params["new_dtype"]).kind in "iu"


def apply(
    low: Lowering, node: Node, args: Sequence[Value], rules: Mapping[str, Rule]
) -> Sequence[Value]:
    """Return the results of one node: evaluated if all is known, else lowered by its rule.

    Raises:
        UnsupportedOperation: if there is no rule, or it cannot be applied; names the layer.
    """
    known = [a for a in args if isinstance(a, Known)]
    if len(known) == len(args) and node.primitive is not None:
        return evaluate(node, known)
    for output in node.outputs:
        if not is_supported(output.dtype):
            raise low.unsupported("dtype", f"in {output.dtype}")
    rule = rules.get(node.name)
    if rule is None:
        raise low.unsupported(node.name, str(node.params.get("detail", "")))
    try:
        results = rule(low, node, args)
        return [_typed(r, o) for r, o in zip(results, node.outputs, strict=True)]
    except ProgramError as error:
        raise low.unsupported(node.name, f"in a form ({error.message})") from error


def _typed(result: Value, output: Var) -> Value:
    """Return ``result``, marked if it is a number where the trace has a truth value."""
    if isinstance(result, Known) or result.bit or not output.is_truth:
        return result
    return replace(result, truth=True)


def _stand_in(low: Lowering, output: Var) -> Secret:
    name = f"stand-in {output.number}"
    handle = low.builder.input(name, Role.INPUT, output.shape)
    if output.is_truth:
        return low.negative(Secret(handle, output.shape))
    return Secret(handle, output.shape)
