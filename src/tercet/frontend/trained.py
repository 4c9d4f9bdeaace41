"""The prediction of a model whose weights are the states of a training, as it leaves them.

``keras_model.trace_live`` computes with the weights where they are in the clear: it folds a batch
norm into factors, scales into kernels. What a training leaves is shared and has more fractional
bits, so here each weight is an input as it stands and whatever follows from it is computed under
sharing, at each prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tercet.errors import ModelError, ProgramError
from tercet.frontend import keras_model
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph
from tercet.frontend.jax import SIZES, graph_of
from tercet.frontend.keras import on_jax
from tercet.frontend.scales import STATE_SCALE
from tercet.frontend.step import StepLowering, lower_graph
from tercet.frontend.traced import Traced
from tercet.frontend.values import Secret, Value, public
from tercet.program.passes.drop_dead import drop_dead
from tercet.program.passes.merge_equal import merge_equal
from tercet.program.program import Program, Role
from tercet.program.unify import unify
from tercet.program.verify import verify, verify_release


def trace_trained(model: Foreign, *, scale: int = 16) -> Traced:
    """Trace the prediction of ``model`` on the states that ``trace_training`` gives it.

    Args:
        model: a Keras 3 model in a process whose Keras runs on JAX.
        scale: fractional bits of inputs and outputs.

    Returns:
        A program that ends in a resend. Its weights have the names, shapes and scales of the
        states of that training; its arrays are those of PUBLIC inputs alone.

    Raises:
        UnsupportedOperation: if a layer has no rule; names it.
        ModelError: if the model has no form that Tercet takes.
    """
    if not on_jax():
        raise ModelError(
            "training is traced where Keras runs on JAX", "Set KERAS_BACKEND=jax before keras"
        )
    keras_model.check_dtypes(model)
    names = keras_model.naming(model)
    weights = keras_model.weights(model)
    shape = keras_model.input_shape(model)
    with keras_model.quiet():
        graphs = [graph_of(keras_model.function(model), shape, weights, n) for n in SIZES]
    graphs = [
        replace(g, nodes=tuple(replace(n, source=names.label(n.source)) for n in g.nodes))
        for g in graphs
    ]
    lowered = []
    for graph in graphs:
        low = StepLowering(scale, dict(names.kinds), names.canonical)
        lowered.append((_lower(low, graph, weights), dict(low.arrays)))
    (first, arrays), (second, _) = lowered
    try:
        program = unify(first, SIZES[0], second, SIZES[1])
        program, arrays = drop_dead(*merge_equal(program, arrays))
        verify(program)
        verify_release(program)
    except ProgramError as error:
        raise ModelError(
            f"the model mixes the rows of a batch ({error.message})",
            "Treat every row of the batch alike and return one result for each",
        ) from error
    kept = {i.name for _, i in program.named(Role.PUBLIC)}
    return Traced(program, {n: a for n, a in arrays.items() if n in kept}, model.name)


def _lower(low: StepLowering, graph: Graph, weights: dict[str, Foreign]) -> Program:
    data, *parameters = graph.arguments
    # The first input: the lowering takes a zero from it where it needs one.
    arguments: list[Value] = [low.wrap(low.builder.input("input", Role.INPUT, data.shape))]
    for var, (path, array) in zip(parameters, weights.items(), strict=True):
        numbers = np.asarray(array)
        if "float" in str(numbers.dtype):
            name = low.canonical(path)
            handle = low.builder.input(name, Role.WEIGHT, var.shape, STATE_SCALE)
            arguments.append(low.wrap(handle))
        else:  # the state of a generator
            arguments.append(public(numbers))
    (output,) = lower_graph(low, graph, arguments)
    if not isinstance(output, Secret):
        raise ModelError("the output does not depend on the input", "Check the model")
    settled = low.settle(low.share(output))
    return low.builder.finish(low.emit("reshare", settled.handle).handle)


def load_trained(model: Foreign, weights: Mapping[str, NDArray[np.float64]]) -> None:
    """Set the variables of ``model`` to the opened weights of a training, by name of the state.

    Raises:
        ModelError: if the model is of another architecture than the one that was trained.
    """
    canonical = keras_model.naming(model).canonical
    pairs = zip(keras_model.variables(model), keras_model.weights(model), strict=True)
    named = {canonical(path): v for v, path in pairs if "float" in str(v.dtype)}
    if set(named) != set(weights) or any(
        tuple(v.shape) != weights[name].shape for name, v in named.items()
    ):
        raise ModelError(
            f"Model {model.name!r} is not of the architecture that was trained",
            "Build the same layers again, with the same names",
        )
    for name, variable in named.items():
        variable.assign(weights[name])


def trained_states(model: Foreign) -> list[str]:
    """Return the names of the states that are the model's own variables, in order."""
    canonical = keras_model.naming(model).canonical
    arrays = keras_model.weights(model)
    return [canonical(path) for path, array in arrays.items() if "float" in str(array.dtype)]
