"""Model files: both formats, other backends, and files that are not what they seem."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from keras import layers as L

import tercet
from tercet.errors import ModelError
from tercet.frontend.keras import trace_keras
from tests.frontend.models import Clipped, one_layer, post_cnn

# Keras saves its variables through NumPy's older array protocol.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.mark.parametrize("suffix", ["keras", "h5", "hdf5"])
@pytest.mark.parametrize("text", [True, False])
def test_file_gives_the_program_of_the_live_model(tmp_path: Path, suffix: str, text: bool) -> None:
    model = post_cnn()
    path = tmp_path / f"model.{suffix}"
    model.save(path)
    live, loaded = trace_keras(model), trace_keras(str(path) if text else path)
    assert loaded.program == live.program
    assert loaded.arrays.keys() == live.arrays.keys()
    assert all(np.array_equal(loaded.arrays[n], live.arrays[n]) for n in live.arrays)


def test_registered_custom_layer_loads_in_this_process(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    one_layer((6,), Clipped()).save(path)
    assert trace_keras(path).program.instructions


def _bytes(name: str, data: bytes) -> object:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def _cut(suffix: str, keep: float) -> object:
    def write(folder: Path) -> Path:
        path = folder / f"model.{suffix}"
        one_layer((6,), L.Dense(3)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        return path

    return write


def _flipped(folder: Path) -> Path:
    path = folder / "model.keras"
    one_layer((6,), L.Dense(300)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


def _weights_only(folder: Path) -> Path:
    path = folder / "model.weights.h5"
    one_layer((6,), L.Dense(3)).save_weights(path)
    return path


def _lambda(suffix: str) -> object:
    def write(folder: Path) -> Path:
        path = folder / f"model.{suffix}"
        one_layer((6,), L.Lambda(lambda x: x * 2)).save(path)
        return path

    return write


def _bad_config(folder: Path) -> Path:
    path = folder / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = '{"class_name": "Sequential"'
    return path


def _folder(folder: Path) -> Path:
    path = folder / "saved"
    path.mkdir()
    return path


FILES = {
    "missing": (lambda folder: folder / "none.keras", "no model file"),
    "folder": (_folder, "is a folder"),
    "other ending": (_bytes("model.pt", b"PK"), "ending"),
    "empty": (_bytes("model.keras", b""), "damaged"),
    "no archive": (_bytes("model.keras", b"not a zip file" * 99), "damaged"),
    "no hdf5": (_bytes("model.h5", b"not an HDF5 file" * 99), "damaged"),
    "pickle": (_bytes("model.h5", b"\x80\x04\x95"), "damaged"),
    "cut archive": (_cut("keras", 0.7), "damaged"),
    "cut hdf5": (_cut("h5", 0.6), "damaged"),
    "flipped byte": (_flipped, "damaged"),
    "weights only": (_weights_only, "without an architecture"),
    "bad config": (_bad_config, "damaged"),
    "lambda in keras": (_lambda("keras"), "never runs code"),
    "lambda in h5": (_lambda("h5"), "never runs code"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_file_is_refused_naming_it(tmp_path: Path, case: str) -> None:
    make, words = FILES[case]
    path = make(tmp_path)
    with pytest.raises(ModelError) as caught:
        trace_keras(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.remedy


SCRIPT = """
import sys
import numpy as np
import keras
from tercet.errors import UnsupportedOperation
from tercet.frontend.keras import supported_layers, trace_keras
sys.path.insert(0, {tests!r})
from tests.frontend.evaluate import evaluate

L = keras.layers
assert keras.backend.backend() == "numpy"
layers = L.Conv2D(3, 3, name="conv"), L.ReLU(name="relu"), L.Flatten(name="flat")
model = keras.Sequential([keras.Input((6, 6, 1)), *layers, L.Dense(2, name="dense")])
model.save({path!r})
x = np.random.default_rng(0).normal(0, 1, (3, 6, 6, 1)).astype("float32")
traced = trace_keras(model)
assert np.allclose(evaluate(traced, x), model.predict(x, verbose=0), atol=1e-4)
assert traced.name == model.name
reports = supported_layers({path!r})
assert [r.name for r in reports] == ["conv", "relu", "flat", "dense"]
assert all(r.supported for r in reports)
refused = keras.Sequential([keras.Input((3,)), L.Embedding(300_000, 1, name="gate")])
try:
    trace_keras(refused)
except UnsupportedOperation as error:
    assert "'gate'" in error.message and "plain" in error.remedy
else:
    raise AssertionError("not refused")
"""


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(tercet.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_model_of_another_backend_is_traced_in_a_child(tmp_path: Path) -> None:
    script = SCRIPT.format(path=str(tmp_path / "m.keras"), tests=str(Path(__file__).parents[2]))
    done = _run(script, KERAS_BACKEND="numpy")
    assert done.returncode == 0, done.stderr


def test_importing_the_frontend_imports_no_framework() -> None:
    done = _run(
        "import sys, tercet.frontend.keras, tercet.frontend.traced, tercet.frontend.jax;"
        "print([m for m in ('jax', 'keras', 'h5py') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_keras_runs_on_jax_unless_the_environment_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    one_layer((6,), L.Dense(3)).save(path)
    code = f"""
import os
os.environ.pop("KERAS_BACKEND", None)
from tercet.frontend.keras import trace_keras
trace_keras({str(path)!r})
import keras
assert keras.backend.backend() == "jax"
"""
    done = _run(code)
    assert done.returncode == 0, done.stderr
