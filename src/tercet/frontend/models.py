"""Every kind of model behind one door: which frontend traces it."""

from __future__ import annotations

import os
from pathlib import Path

from tercet.errors import ModelError
from tercet.frontend.foreign import Foreign
from tercet.frontend.reports import LayerReport
from tercet.frontend.torch import export, is_torch, supported_modules, trace_torch
from tercet.frontend.traced import Traced


def trace_model(model: Foreign, example_inputs: Foreign = None, *, scale: int = 16) -> Traced:
    """Trace a Keras model, a PyTorch module or a file of either.

    What ``tercet.trace`` made is traced already: it is returned as it is.

    Raises:
        ModelError, UnsupportedOperation: as the frontends.
    """
    if isinstance(model, Traced):
        return model
    if is_torch(model):
        return trace_torch(model, example_inputs, scale=scale)
    from tercet.frontend.keras import trace_keras

    _check_kind(model)
    return trace_keras(model, scale=scale)


def prepared(model: Foreign, example_inputs: Foreign = None) -> Foreign:
    """Return ``model`` such that it can be reported on and traced without exporting it twice."""
    return export(model, example_inputs) if is_torch(model) else model


def report_model(model: Foreign, example_inputs: Foreign = None) -> list[LayerReport]:
    """Return for each layer whether Tercet supports it.

    Raises:
        ModelError: if the model as a whole has no form that Tercet takes.
    """
    if isinstance(model, Traced):
        return list(model.layers)
    if is_torch(model):
        return supported_modules(model, example_inputs)
    from tercet.frontend.keras import supported_layers

    _check_kind(model)
    return supported_layers(model)


def _check_kind(model: Foreign) -> None:
    """Refuse what is nothing of which a frontend knows, before one is imported."""
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix.lower() in (".pt", ".pth"):
        raise ModelError(
            f"{model} is a pickle of PyTorch, which may run code and is never loaded",
            "Save the model by torch.export.save as .pt2, or load it yourself and pass the module",
        )
    if callable(model) and type(model).__name__ in ("function", "PjitFunction", "partial"):
        raise ModelError(
            f"{getattr(model, '__name__', 'a function')} is a function, not a model",
            "Trace it first: tercet.trace(fn, shape, *weights)",
        )
