"""Tracing one training step of a compiled Keras model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError, ModelError, UnsupportedOperation
from tercet.frontend import keras_model
from tercet.frontend.differentiable import Forward
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph, Var, drop_dead, flatten
from tercet.frontend.keras import on_jax
from tercet.frontend.losses import METRICS, Loss, hits, loss_of
from tercet.frontend.lowering import Lowering
from tercet.frontend.matching import Matcher
from tercet.frontend.optimizers import Optimizer, Weight, optimizer_of
from tercet.frontend.primitives import bind
from tercet.frontend.private import PrivateStep
from tercet.frontend.recognise import recognise
from tercet.frontend.scales import STATE_SCALE
from tercet.frontend.step import StepLowering, lower_graph
from tercet.frontend.values import Known, Secret, Value
from tercet.program.passes.drop_dead import drop_dead as drop_dead_code
from tercet.program.passes.merge_equal import merge_equal
from tercet.program.private import PrivateSum
from tercet.program.program import Role
from tercet.program.training import (
    DATA_SCALE,
    MAX_STEPS,
    Kind,
    StepInput,
    Training,
    verify_training,
)

#: Fractional bits of the factor of gradients, which lies below 2^4 (SGD) or 2^6.
_FACTOR_SCALE = 14


@dataclass(frozen=True)
class TracedTraining:
    """A traced step and what it starts from.

    Attributes:
        training: the verified step.
        arrays: float64 value of every input of role STATE (at the first step) or PUBLIC, by name;
            each is encoded with the scale of its input.
        variables: for the path of each variable of the model the name of the STATE input that
            holds it.
        name: the name of the model.
    """

    training: Training
    arrays: dict[str, NDArray[np.float64]]
    variables: dict[str, str]
    name: str


def trace_training(
    model: Foreign,
    batch_size: int,
    steps: int,
    *,
    metrics: Sequence[str] = (),
    scale: int = 16,
    privacy: PrivateSum | None = None,
) -> TracedTraining:
    """Trace one step of training ``model``: forward pass, gradients, update.

    Labels are real numbers (batch_size, ...), one-hot where the loss has classes. The optimizer
    starts afresh: its slots are 0 and its schedule is at its start.

    Args:
        model: a compiled Keras 3 model in a process whose Keras runs on JAX.
        batch_size: rows of each step.
        steps: steps that will be run at most; a schedule's last rate is kept after them.
        metrics: what each step sums up over its rows, among ``"loss"`` and ``"accuracy"``; each
            costs work and tells something of the data if it is opened.
        scale: fractional bits of cotangents, functions and metrics; ``frontend.scales`` has others.
        privacy: clip each row's gradient and add noise; ``batch_size`` then is what a step has
            room for, and ``privacy.batch`` what it takes on average.

    Raises:
        UnsupportedOperation: if a layer, the loss or the optimizer has no rule; names it.
        ModelError: if the model is not compiled or has no form that Tercet takes.
        InputError: if an argument makes no sense.
    """
    if batch_size < 1 or not 1 <= steps <= MAX_STEPS:
        raise InputError(
            f"a batch of {batch_size} rows and {steps} steps",
            f"Use at least one row and 1 to {MAX_STEPS} steps",
        )
    if unknown := [m for m in metrics if m not in METRICS]:
        raise InputError(f"metric {unknown[0]!r}", f"Use {', '.join(METRICS)}")
    if not on_jax():
        raise ModelError(
            "training is traced where Keras runs on JAX", "Set KERAS_BACKEND=jax before keras"
        )
    if privacy is not None:
        privacy.check()
        if metrics:
            raise InputError(
                f"metric {metrics[0]!r} of a private training: it would be opened without noise",
                "Leave metrics out: metrics=()",
            )
    loss = loss_of(model)
    return _Trace(model, batch_size, steps, tuple(metrics), scale, loss, privacy).run()


def load_state(
    model: Foreign, traced: TracedTraining, state: Mapping[str, NDArray[np.floating[Any]]]
) -> None:
    """Set the variables of ``model`` to the (decoded) ``state`` of a training.

    Raises:
        ModelError: if the model has other variables than the one that was traced.
    """
    for variable, path in _named(model):
        if path not in traced.variables:
            continue
        value = np.asarray(state[traced.variables[path]])
        if tuple(variable.shape) != value.shape:
            raise ModelError(
                f"Variable {path!r} has shape {tuple(variable.shape)}, its state {value.shape}",
                "Load the state into a model of the architecture that was traced",
            )
        variable.assign(value)


def _named(model: Foreign) -> list[tuple[Foreign, str]]:
    """Return trainable, then other variables with their paths, those of generators left out."""
    names = keras_model.weights(model)
    pairs = zip(keras_model.variables(model), names, strict=True)
    return [(v, n) for v, n in pairs if "float" in str(v.dtype)]


class _Trace:
    def __init__(
        self,
        model: Foreign,
        rows: int,
        steps: int,
        metrics: tuple[str, ...],
        scale: int,
        loss: Loss,
        privacy: PrivateSum | None = None,
    ) -> None:
        self.model = model
        self.rows = rows
        self.metrics = metrics
        self.loss = loss
        self.privacy = privacy
        mean_over = rows if privacy is None else privacy.batch
        self.optimizer: Optimizer = optimizer_of(model, steps, mean_over)
        self.naming = keras_model.naming(model)
        self.low = StepLowering(scale, dict(self.naming.kinds), self.naming.canonical)
        self.named = _named(model)
        self.trainable = len(model.trainable_variables)

    def run(self) -> TracedTraining:
        """Trace, lower, and put the outputs in the order of the states."""
        low = self.low
        keras_model.check_dtypes(self.model)
        shape = (self.rows, *keras_model.input_shape(self.model))
        graph, target = self._forward(shape)
        x = low.wrap(low.builder.input("x", Role.DATA, shape, DATA_SCALE))
        y = low.wrap(low.builder.input("y", Role.DATA, target, DATA_SCALE))
        low.origins.mark_labels(y.handle)
        states = []
        for variable, path in self.named:
            name = self.naming.canonical(path)
            handle = low.builder.input(name, Role.STATE, tuple(variable.shape), STATE_SCALE)
            low.origins.mark_weight(handle)
            states.append((name, low.wrap(handle)))
        factor = low.step_input(
            StepInput("gradient factor", Kind.TABLE, self.optimizer.factors()), (), _FACTOR_SCALE
        )
        values = [v for _, v in states]
        if self.privacy is None:
            step = self._step(graph, shape, target)
            results = lower_graph(low, step, [*values, x, y, factor])
        else:
            results = self._private(self.privacy, graph, states, x, y, factor)
        gradients = results[: self.trainable]
        moved = results[self.trainable : len(states)]
        weights = [
            Weight(name, value, self._secret(g, name))
            for (name, value), g in zip(states, gradients, strict=False)
        ]
        low.source = "update"
        new = [*self.optimizer.update(low, weights), *map(self._state, moved)]
        low.source = "metrics"
        sums = [self._metric(m) for m in results[len(states) :]]
        slots = self.optimizer.slots
        names = [*(name for name, _ in states), *(name for name, _, _ in slots)]
        outputs = [*new, *(after for _, _, after in slots), *sums]
        return self._finish(names, [o.handle for o in outputs])

    def _private(
        self,
        privacy: PrivateSum,
        graph: Graph,
        states: Sequence[tuple[str, Secret]],
        x: Secret,
        y: Secret,
        factor: Secret,
    ) -> list[Value]:
        """Return the noisy gradients times the factor."""
        if len(states) > self.trainable:
            raise UnsupportedOperation(
                f"Variable {states[self.trainable][0]!r} is not trainable, as statistics of a "
                "batch normalization are: they would be released without noise",
                "Train with privacy= models without batch normalization and frozen layers",
            )
        if len(graph.results) > 1:
            raise UnsupportedOperation(
                f"Model {self.model.name!r} has a regularizer, which is not supported with "
                "differential privacy yet",
                "Use weight_decay of the optimizer",
            )
        if not self.optimizer.linear and privacy.clip_norm * (1 + privacy.noise_multiplier) > 8:
            raise InputError(
                f"a clipping norm of {privacy.clip_norm:g} with this optimizer",
                "Keep clip_norm (1 + noise_multiplier) at most 8, or use SGD without clipping",
            )
        names = [name for name, _ in states]
        step = PrivateStep(graph, self.loss, names, privacy, self.rows)
        noisy = step.gradients(self.low, [v for _, v in states], x, y)
        # As they are: clipped, they have room.
        return [Lowering.emit(self.low, "mul", g.handle, factor.handle) for g in noisy]

    def _finish(self, names: list[str], outputs: list[int]) -> TracedTraining:
        low = self.low
        program = low.builder.finish(*outputs)
        # States are outputs in the order of inputs: both in that of their declaration.
        arrays = dict(low.arrays)
        program, arrays = drop_dead_code(*merge_equal(program, arrays))
        training = Training(program, self.metrics, tuple(low.step_inputs), self.privacy)
        order = [i.name for i in training.inputs(Role.STATE)]
        count = len(names)
        by_name = dict(zip(names, program.outputs, strict=False))
        after = (*(by_name[n] for n in order), *program.outputs[count:])
        program = msgspec.structs.replace(program, outputs=after)
        used = {i.name for i in program.inputs}
        training = Training(
            program,
            self.metrics,
            tuple(s for s in low.step_inputs if s.name in used),
            self.privacy,
        )
        verify_training(training)
        values = {
            self.naming.canonical(path): np.asarray(v.value, np.float64) for v, path in self.named
        }
        for given in training.inputs(Role.STATE):
            arrays[given.name] = values.get(given.name, np.zeros(given.type.shape))
        variables = {path: self.naming.canonical(path) for _, path in self.named}
        return TracedTraining(training, arrays, variables, self.model.name)

    def _secret(self, value: Value, name: str) -> Secret:
        if isinstance(value, Known):
            raise ModelError(
                f"Weight {name!r} has no influence on the loss", "Set its layer to trainable=False"
            )
        return value

    def _state(self, value: Value) -> Secret:
        return self.low.to_scale(self.low.share(value), STATE_SCALE)

    def _metric(self, value: Value) -> Secret:
        settled = self.low.settle(self.low.reshape(self.low.share(value), (1,)))
        return self.low.emit("reshare", settled.handle)

    # --- traces -----------------------------------------------------------------------------

    def _forward(self, shape: tuple[int, ...]) -> tuple[Graph, tuple[int, ...]]:
        """Return the graph of (variables, x) -> (output, other variables, losses)."""
        import jax

        model, count = self.model, self.trainable
        others = keras_model.variables(model)[count:]
        kept = [v for v, _ in self.named]
        fixed = {id(v): np.asarray(v.value) for v in others if all(v is not k for k in kept)}

        def call(*arguments: Foreign) -> list[Foreign]:
            *values, x = arguments
            trainable, rest = values[:count], iter(values[count:])
            state = [fixed[id(v)] if id(v) in fixed else next(rest) for v in others]
            output, after, losses = model.stateless_call(
                trainable, state, x, training=True, return_losses=True
            )
            left = [a for v, a in zip(others, after, strict=True) if id(v) not in fixed]
            return [output, *left, *losses]

        avals = [jax.ShapeDtypeStruct(tuple(v.shape), np.float32) for v in kept]
        with keras_model.quiet(), _public_dropout():
            try:
                closed = jax.make_jaxpr(call)(*avals, jax.ShapeDtypeStruct(shape, np.float32))
            except ModelError:
                raise
            except Exception as error:  # user code of a layer may raise anything
                raise keras_model.untraceable(model, error) from error
        graph = recognise(drop_dead(flatten(closed)))
        graph = replace(
            graph,
            nodes=tuple(replace(n, source=self.naming.label(n.source)) for n in graph.nodes),
        )
        _refuse_randomness(graph)
        output = graph.results[0]
        if self.loss.final:
            graph = _without_final(graph, self.loss.final, model.name)
        assert isinstance(output, Var)
        if len(output.shape) < 2:
            raise ModelError(f"Model {model.name!r} has no axis but its rows", "Add a Dense layer")
        return graph, output.shape

    def _step(self, graph: Graph, shape: tuple[int, ...], target: tuple[int, ...]) -> Graph:
        """Return the graph of (variables, x, y, factor) -> (gradients, variables, metrics)."""
        import jax

        forward, count, others = Forward(graph), self.trainable, len(self.named) - self.trainable

        def step(*arguments: Foreign) -> list[Foreign]:
            *values, x, y, factor = arguments

            def run(trainable: list[Foreign]) -> tuple[Foreign, list[Foreign]]:
                z, *rest = forward(*trainable, *values[count:], x)
                losses = rest[others:]
                extra = sum(losses[1:], losses[0]) if losses else None
                return (z, extra), rest[:others]

            (z, extra), backward, after = jax.vjp(run, values[:count], has_aux=True)
            slope = self.loss.slope(z, y) * factor
            # The factor is one row's: what is added to the mean counts for all rows.
            (gradients,) = backward((slope, None if extra is None else factor * float(self.rows)))
            sums = {"loss": self.loss.value, "accuracy": hits}
            return [*gradients, *after, *(sums[m](z, y).sum() for m in self.metrics)]

        avals = [jax.ShapeDtypeStruct(tuple(v.shape), np.float32) for v, _ in self.named]
        rows = [jax.ShapeDtypeStruct(s, np.float32) for s in (shape, target, ())]
        graph = drop_dead(flatten(jax.make_jaxpr(step)(*avals, *rows)))
        return replace(
            graph,
            nodes=tuple(replace(n, source=_layer(n.source)) for n in graph.nodes),
        )


def _refuse_randomness(graph: Graph) -> None:
    """Refuse draws other than those of dropout: a trace would make constants of them."""
    for node in graph.nodes:
        if node.name.startswith(("random_", "threefry")):
            raise UnsupportedOperation(
                f"Layer {node.source!r} draws random numbers, which is not supported in training",
                "Use dropout, whose mask the workers derive from a public seed",
            )


def _layer(source: str) -> str:
    """Return the layer of a name stack of the step: its forward pass, or its gradient."""
    inner = source.replace("jvp(", "").replace("transpose(", "").replace(")", "")
    return inner.strip("/").replace(".", "/")


def _without_final(graph: Graph, name: str, model: str) -> Graph:
    """Return ``graph`` up to the activation that its loss takes over."""
    matcher = Matcher(graph)
    made = matcher.producer(matcher.strip(graph.results[0]), name)
    last = made is not None and tuple(made.params.get("axes", ())) in (
        (),
        (len(made.outputs[0].shape) - 1,),
    )
    if made is None or not last:
        word = "sigmoid" if name == "logistic" else name
        raise ModelError(
            f"Model {model!r} is compiled with a loss of probabilities but does not end in {word}",
            f"End it in activation={word!r}, or compile the loss with from_logits=True",
        )
    return drop_dead(replace(graph, results=(made.inputs[0], *graph.results[1:])))


@contextmanager
def _public_dropout() -> Iterator[None]:
    """Let dropout layers multiply by a mask that the workers derive from a public seed."""
    from keras.src import backend

    original, count = backend.random.dropout, 0

    def dropout(x: Foreign, rate: float, noise_shape: Any = None, seed: Foreign = None) -> Foreign:
        nonlocal count
        given = x.shape if noise_shape is None else noise_shape
        shape = tuple(int(d if n is None else n) for n, d in zip(given, x.shape, strict=True))
        count += 1
        (mask,) = bind("mask", shape=shape, keep=1.0 - float(rate), number=count)
        return x * mask

    backend.random.dropout = dropout
    try:
        yield
    finally:
        backend.random.dropout = original


__all__ = ["TracedTraining", "load_state", "trace_training"]
