"""Tracing in a child process whose Keras runs on JAX, for models of other backends.

The child reads a model file and leaves its result in a folder: the program as msgpack, the arrays
as safetensors, an error as msgpack. Run as ``python -m tercet.frontend.child TASK MODEL FOLDER
SCALE``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from tercet.children import environment
from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.reports import LayerReport
from tercet.frontend.traced import Traced
from tercet.program.program import encode
from tercet.program.verify import decode

#: Large models take minutes to load and trace; one that takes longer hangs.
TIMEOUT_SECONDS = 900

_ERRORS: dict[str, type[ModelError]] = {
    "ModelError": ModelError,
    "UnsupportedOperation": UnsupportedOperation,
}


class _Error(msgspec.Struct):
    kind: str
    message: str
    remedy: str


def trace_elsewhere(path: Path, scale: int) -> Traced:
    """Trace the model file ``path`` in a child process."""
    from safetensors.numpy import load_file

    with TemporaryDirectory(prefix="tercet-") as name:
        folder = Path(name)
        _run("trace", path, folder, scale)
        program = decode((folder / "program").read_bytes())
        arrays = load_file(folder / "arrays")
        return Traced(program, dict(arrays), (folder / "name").read_text())


def report_elsewhere(path: Path) -> list[LayerReport]:
    """Report on the layers of the model file ``path`` from a child process."""
    with TemporaryDirectory(prefix="tercet-") as name:
        folder = Path(name)
        _run("report", path, folder, 16)
        return msgspec.msgpack.decode((folder / "reports").read_bytes(), type=list[LayerReport])


def _run(task: str, path: Path, folder: Path, scale: int) -> None:
    package = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "tercet.frontend.child", task, str(path), str(folder)]
    try:
        done = subprocess.run(
            [*command, str(scale)],
            env=environment(KERAS_BACKEND="jax", PYTHONPATH=search),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"Tracing {path} on JAX took more than {TIMEOUT_SECONDS} s", "Share a smaller model"
        ) from error
    report = folder / "error"
    if report.exists():
        found = msgspec.msgpack.decode(report.read_bytes(), type=_Error)
        raise _ERRORS.get(found.kind, ModelError)(found.message, found.remedy)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise ModelError(
            f"The process that traces {path} on JAX ended with {done.returncode}: {last}",
            "Install keras and jax beside Tercet: pip install 'tercet[keras]'",
        )


def main(arguments: list[str]) -> int:
    """Do ``TASK`` on ``MODEL`` and leave the result or the error in ``FOLDER``."""
    task, model, place, scale = arguments
    folder = Path(place)
    from tercet.frontend.keras import supported_layers, trace_keras

    try:
        if task == "report":
            reports = supported_layers(model)
            (folder / "reports").write_bytes(msgspec.msgpack.encode(reports))
        else:
            _write(trace_keras(model, scale=int(scale)), folder)
    except ModelError as error:
        found = _Error(type(error).__name__, error.message, error.remedy)
        (folder / "error").write_bytes(msgspec.msgpack.encode(found))
    return 0


def _write(traced: Traced, folder: Path) -> None:
    from safetensors.numpy import save_file

    (folder / "program").write_bytes(encode(traced.program))
    save_file(
        {name: np.ascontiguousarray(a) for name, a in traced.arrays.items()}, folder / "arrays"
    )
    (folder / "name").write_text(traced.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
