"""Tracing Keras 3 models: files and live models, on any backend.

JAX does the tracing. A model that lives on another backend is saved and traced in a child process
whose Keras runs on JAX (``child.py``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tercet.errors import ModelError
from tercet.frontend.foreign import Foreign
from tercet.frontend.reports import LayerReport
from tercet.frontend.traced import Traced

Result = TypeVar("Result")


def trace_keras(model: Foreign, *, scale: int = 16) -> Traced:
    """Trace a Keras model to a program.

    Args:
        model: a live Keras 3 model, or the path of a ``.keras``, ``.h5`` or ``.hdf5`` file.
        scale: fractional bits of inputs, weights and outputs.

    Raises:
        UnsupportedOperation: if a layer has an operation without a rule; names the layer.
        ModelError: if the file cannot be read or the model has no form that Tercet takes.
    """

    def here(live: Foreign) -> Traced:
        from tercet.frontend import keras_model

        return keras_model.trace_live(live, scale)

    def child(path: Path) -> Traced:
        from tercet.frontend import child as process

        return process.trace_elsewhere(path, scale)

    return _dispatch(model, here, child)


def supported_layers(model: Foreign) -> list[LayerReport]:
    """Return for each layer of a Keras model (or of its file) whether Tercet supports it.

    Raises:
        ModelError: if the file cannot be read or the model as a whole has no form that Tercet
            takes.
    """

    def here(live: Foreign) -> list[LayerReport]:
        from tercet.frontend import keras_model

        return keras_model.report_live(live)

    def child(path: Path) -> list[LayerReport]:
        from tercet.frontend import child as process

        return process.report_elsewhere(path)

    return _dispatch(model, here, child)


def _dispatch(
    model: Foreign, here: Callable[[Foreign], Result], child: Callable[[Path], Result]
) -> Result:
    """Run ``here`` on the live model if this process has Keras on JAX, else ``child`` on a file."""
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        from tercet.frontend import keras_files

        keras_files.check_file(path)
        if not on_jax():
            return child(path)
        return here(keras_files.load(path))
    if not _is_keras_model(model):
        raise ModelError(
            f"{type(model).__module__}.{type(model).__name__} is no Keras 3 model",
            "Pass a keras.Model or the path of a .keras, .h5 or .hdf5 file",
        )
    if on_jax():
        return here(model)
    if not model.built:
        raise ModelError(
            f"Model {model.name!r} is not built", "Call it once, or give it a keras.Input"
        )
    with TemporaryDirectory(prefix="tercet-") as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
        except Exception as error:  # user code may raise anything in get_config
            raise ModelError(
                f"Model {model.name!r} cannot be saved to trace it on JAX ({error})",
                "Give every custom layer a get_config and register it",
            ) from error
        return child(path)


def _is_keras_model(model: Foreign) -> bool:
    # No model can exist before its framework is imported.
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def on_jax() -> bool:
    """Whether Keras runs on JAX in this process; choose JAX if nothing was chosen yet."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        if os.environ["KERAS_BACKEND"] != "jax":
            return False
    try:
        import jax  # noqa: F401
        import keras
    except ImportError as error:
        raise ModelError(
            f"Keras models need keras and jax ({error})", "pip install 'tercet[keras]'"
        ) from error
    return bool(keras.backend.backend() == "jax")


__all__ = ["LayerReport", "supported_layers", "trace_keras"]
