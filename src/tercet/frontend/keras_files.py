"""Reading Keras model files, with errors that say which file and what to do."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tercet.errors import ModelError
from tercet.frontend.foreign import Foreign

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_SAVE_AGAIN = "Save the model again with model.save('model.keras')"


def check_file(path: Path) -> None:
    """Check what can be checked of a model file without Keras.

    Raises:
        ModelError: if it is missing, of another kind, or cut short.
    """
    if not path.exists():
        raise ModelError(f"There is no model file {path}", "Check the path")
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder, not a model file",
            "Load a SavedModel with TensorFlow, and save it with model.save('model.keras')",
        )
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})", "Check its owner") from error
    if suffix == ".keras":
        _check_archive(path)
    elif suffix in (".h5", ".hdf5"):
        if head != _HDF5_MAGIC:
            raise ModelError(f"{path} is not an HDF5 file, or is damaged", _SAVE_AGAIN)
    else:
        raise ModelError(
            f"{path} has no ending of a Keras model file", "Use a .keras, .h5 or .hdf5 file"
        )


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise ModelError(f"{path} is not a .keras file, or is damaged", _SAVE_AGAIN) from error
    if damaged is not None:
        raise ModelError(f"{path} is damaged ({damaged} has a wrong checksum)", _SAVE_AGAIN)
    if "config.json" not in names:
        raise ModelError(f"{path} is no Keras model: config.json is missing", _SAVE_AGAIN)


def _check_hdf5(path: Path) -> None:
    """Refuse what Keras's reader of HDF5 may do in silence: run the code of a Lambda layer."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            if config is None:
                raise ModelError(
                    f"{path} holds weights without an architecture",
                    "Save the whole model: model.save('model.keras')",
                )
            text = config.decode() if isinstance(config, bytes) else str(config)
        classes = set(_classes(json.loads(text)))
    except (OSError, RuntimeError, ValueError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} is not a Keras model, or is damaged", _SAVE_AGAIN) from error
    if "Lambda" in classes:
        raise ModelError(f"{path} holds code in a Lambda layer", _remedy("lambda"))


def _classes(config: Foreign) -> Iterator[str]:
    """Yield the name of every class that a configuration asks for."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config["class_name"]
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)


def load(path: Path, *, compiled: bool = False) -> Foreign:
    """Return the model in ``path``; code in the file is never run.

    Args:
        path: a model file.
        compiled: with its optimizer and loss, for a training.

    Raises:
        ModelError: if Keras cannot read it.
    """
    import keras

    if path.suffix.lower() != ".keras":
        _check_hdf5(path)
    try:
        return keras.saving.load_model(path, compile=compiled, safe_mode=True)
    except Exception as error:  # Keras raises almost anything on a bad file
        text = str(error).strip().splitlines()
        reason = text[0][:300] if text else type(error).__name__
        raise ModelError(f"Keras cannot load {path}: {reason}", _remedy(str(error))) from error


def _remedy(text: str) -> str:
    lowered = text.lower()
    if "lambda" in lowered or "unsafe" in lowered or "safe_mode" in lowered:
        return (
            "Tercet never runs code from a file. Replace the Lambda layer, or load the model "
            "yourself and pass the live model"
        )
    if "could not locate class" in lowered or "custom object" in lowered or "unknown" in lowered:
        return (
            "Register custom layers with @keras.saving.register_keras_serializable() and pass the "
            "live model"
        )
    return _SAVE_AGAIN
