"""Tracing a live Keras model on the JAX backend. Imported only where Keras runs on JAX."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from msgspec.structs import replace

from tercet.errors import ModelError
from tercet.frontend import jax as tracing
from tercet.frontend.foreign import Foreign
from tercet.frontend.numbers import is_narrowed
from tercet.frontend.reports import LayerReport, layer_reports
from tercet.frontend.traced import Traced

_SHAPE_REMEDY = "Give the model a keras.Input with every extent but the batch fixed"


def trace_live(model: Foreign, scale: int) -> Traced:
    """Trace ``model`` to a program; see ``tercet.frontend.keras.trace_keras``."""
    shape = input_shape(model)
    check_dtypes(model)
    known = weights(model)
    with quiet():
        try:
            return tracing.trace(
                function(model),
                shape,
                weights=known,
                scale=scale,
                name=model.name,
                naming=naming(model),
            )
        except ModelError:
            raise
        except Exception as error:  # user code of a layer may raise anything
            raise untraceable(model, error) from error


def report_live(model: Foreign) -> list[LayerReport]:
    """Report on every layer of ``model``; see ``tercet.frontend.keras.supported_layers``."""
    shape, known, names = input_shape(model), weights(model), naming(model)
    with quiet():
        try:
            graph = tracing.graph_of(function(model), shape, known, tracing.SIZES[0])
        except Exception as error:
            raise untraceable(model, error) from error
        lowered = tracing.lower(graph, known, names, 16, tolerant=True)
    other = _of_other_dtypes(model)
    kinds = {label: type(layer).__name__ for label, layer in _layers(model)}
    reports = []
    for one in layer_reports(kinds, lowered.operations, other):
        if one.name in kinds:
            reports.append(one)
        elif not one.supported and not other:  # else what is converted between layers
            # Operations outside of any layer, as of a subclassed model's own call.
            name, kind = one.name or model.name, type(model).__name__
            reports.append(replace(one, name=name, kind=kind))
    return reports


def untraceable(model: Foreign, error: Exception) -> ModelError:
    """Return the error for what user code raised during a trace."""
    # Keras names the layer on the first line, then the cause, in terminal colours.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    text = " ".join(lines[:2]) or type(error).__name__
    return ModelError(
        f"Model {model.name!r} cannot be traced: {text[:300].rstrip('.')}",
        "Its layers must compute with keras.ops on arrays of fixed shape",
    )


def function(model: Foreign) -> Foreign:
    """Return the prediction of ``model`` as a function of x and of its weights, in order."""
    trainable = len(model.trainable_variables)

    def call(x: Foreign, *weights: Foreign) -> Foreign:
        result, _ = model.stateless_call(
            list(weights[:trainable]), list(weights[trainable:]), x, training=False
        )
        return result

    return call


def variables(model: Foreign) -> list[Foreign]:
    """Return the trainable variables, then the others."""
    return [*model.trainable_variables, *model.non_trainable_variables]


def weights(model: Foreign) -> dict[str, Foreign]:
    """Return the weights by path, in the order in which ``function`` takes them."""
    result: dict[str, Foreign] = {}
    for variable in variables(model):
        array = np.asarray(variable.value)
        path = variable.path.removeprefix(f"{model.name}/")
        name, count = path, 1
        while name in result:
            count += 1
            name = f"{path}_{count}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                f"Weight {name!r} of model {model.name!r} holds NaN or infinity",
                "Train the model again, perhaps at a lower learning rate, or load another copy",
            )
        result[name] = array
    return result


def check_dtypes(model: Foreign) -> None:
    """Refuse a model that computes in other real numbers than float32, naming the layer."""
    for error in _of_other_dtypes(model).values():
        raise error


def _of_other_dtypes(model: Foreign) -> dict[str, ModelError]:
    """Return for each layer that computes in other real numbers than float32 the error."""
    found = {}
    for label, layer in _layers(model):
        for inner in layer._flatten_layers():
            dtypes = (inner.compute_dtype, inner.variable_dtype)
            other = next(filter(is_narrowed, dtypes), None)
            if other is not None:
                found[label] = ModelError(
                    f"Layer {label!r} ({type(layer).__name__}) works in {other}; only float32 is "
                    "supported",
                    "Build the model under keras.config.set_dtype_policy('float32') and copy the "
                    "weights into it: new.set_weights(old.get_weights())",
                )
    return found


def input_shape(model: Foreign) -> tuple[int, ...]:
    """Return the shape of one row of the model's only input: real numbers or integers."""
    if not model.built:
        raise ModelError(f"Model {model.name!r} is not built", _SHAPE_REMEDY)
    inputs, outputs = _tensors(model, "inputs"), _tensors(model, "outputs")
    for word, tensors in (("inputs", inputs), ("outputs", outputs)):
        if tensors is not None and len(tensors) != 1:
            raise ModelError(
                f"Model {model.name!r} has {len(tensors)} {word}; exactly one is supported",
                f"Join the {word} into one tensor, or share one model for each",
            )
    if inputs is None:
        raise ModelError(
            f"Model {model.name!r} does not state its input shape",
            "Wrap a subclassed model: x = keras.Input(shape); keras.Model(x, model(x))",
        )
    shape, dtype = tuple(inputs[0].shape), str(inputs[0].dtype)
    if any(d is None for d in shape[1:]):
        raise ModelError(
            f"Model {model.name!r} takes input with unknown extents {shape}", _SHAPE_REMEDY
        )
    if shape[0] is not None:
        raise ModelError(
            f"Model {model.name!r} fixes its batch size to {shape[0]}",
            "Leave the batch size open: keras.Input(shape) without batch_size",
        )
    if is_narrowed(dtype):
        raise ModelError(
            f"Model {model.name!r} takes {dtype} input; only float32 and integers are supported",
            "Build it with keras.Input(shape, dtype='float32'); what is asked about is converted",
        )
    if "float" not in dtype and "int" not in dtype:
        raise ModelError(
            f"Model {model.name!r} takes {dtype} input; only numbers are supported",
            "Encode it as numbers where it is still plain",
        )
    return tuple(int(d) for d in shape[1:])


def _tensors(model: Foreign, name: str) -> list[Foreign] | None:
    """Return the symbolic inputs or outputs of a model; ``None`` for a subclassed one."""
    try:
        return list(getattr(model, name))
    except (AttributeError, TypeError, ValueError):
        return None


def _is_model(layer: Foreign) -> bool:
    import keras

    return isinstance(layer, keras.Model)


def _layers(model: Foreign, prefix: str = "") -> Iterator[tuple[str, Foreign]]:
    """Yield ``(label, layer)`` of every layer, those of nested models one by one."""
    import keras

    for layer in model.layers:
        label = f"{prefix}{layer.name}"
        if _is_model(layer) and layer.layers:
            yield from _layers(layer, f"{label}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield label, layer


def _kind(layer: Foreign) -> str:
    """Return the class of ``layer``, with its activation if it has one, for messages."""
    kind = type(layer).__name__
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return kind if activation == "linear" else f"{kind} with activation {activation}"


def naming(model: Foreign) -> tracing.Naming:
    """Return how traces of ``model`` are labelled."""
    kinds = {label: _kind(layer) for label, layer in _layers(model)}
    renamed = _renamed(model)

    def label(stack: str) -> str:
        parts = stack.split("/")
        if parts[0] == model.name and len(parts) > 1:
            parts = parts[1:]
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            if path in kinds:
                return path
        return parts[0] if len(parts) == 1 else "/".join(parts)

    def canonical(name: str) -> str:
        return "/".join(renamed.get(p, p) for p in name.split("/"))

    return tracing.Naming(label, kinds, canonical)


def _renamed(model: Foreign) -> Mapping[str, str]:
    """Return names for layers that Keras named, as a fresh session would have named them.

    Keras counts layers a session: the second model built has ``conv2d_3`` where the first has
    ``conv2d``. The names of weights are part of a program, and one architecture must give one
    program.
    """
    groups: dict[str, dict[int, str]] = {}
    for layer in model._flatten_layers():
        stem = _snake(type(layer).__name__)
        if found := re.fullmatch(re.escape(stem) + r"(?:_(\d+))?", layer.name):
            groups.setdefault(stem, {})[int(found.group(1) or 0)] = layer.name
    return {
        names[number]: f"{stem}_{count}" if count else stem
        for stem, names in groups.items()
        for count, number in enumerate(sorted(names))
    }


def _snake(name: str) -> str:
    """Return ``name`` as Keras writes it in the names of layers."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what JAX and Keras warn of a model's 64-bit types: the trace is 32-bit anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(float64|int64|uint64).*")
        yield
