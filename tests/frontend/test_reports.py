"""Every operation is reported, where it was written, and a refusal does not stop at the first."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import tercet
from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.reports import LayerReport, OperationReport, joined, layer_reports
from tercet.frontend.torch_archive import read
from tercet.preflight.report import Operation, Verdict
from tests.frontend.models import one_layer

W = np.ones((4, 3), np.float32)


def mixed(x: jax.Array, w: jax.Array) -> jax.Array:
    with jax.named_scope("wave"):
        y = jnp.sin(x @ w)
        y = jnp.floor(y) + jnp.tanh(x @ w)
    for _ in range(3):
        y = jnp.cos(y)
    return jnp.argmax(y, 1)


def smooth(x: jax.Array, w: jax.Array) -> jax.Array:
    y = x @ w
    return jax.nn.gelu(y) + 1.0


def line(function: object, text: str) -> str:
    """Return file and line of what a function of this file holds."""
    lines, first = inspect.getsourcelines(function)
    (number,) = [n for n, source in enumerate(lines) if text in source]
    return f"{Path(__file__).name}:{first + number}"


def test_all_refusals_of_a_function_are_told_at_once() -> None:
    with pytest.raises(UnsupportedOperation) as caught:
        tercet.trace(mixed, (4,), W)
    for word, text in (("sine", "jnp.sin"), ("rounding", "jnp.floor"), ("cosine", "jnp.cos")):
        assert word in caught.value.message
        assert line(mixed, text) in caught.value.message
    assert "polynomial" in caught.value.remedy
    assert "released values" in caught.value.remedy
    wave, rest = caught.value.layers
    assert (wave.name, rest.name) == ("wave", "mixed")
    told = {o.name: (o.place, o.supported, o.count) for o in wave.operations if o.name != "add"}
    assert told == {
        "dot_general": (line(mixed, "jnp.floor"), True, 1),
        "sin": (line(mixed, "jnp.sin"), False, 1),
        "floor": (line(mixed, "jnp.floor"), False, 1),
        "tanh": (line(mixed, "jnp.tanh"), True, 1),
    }
    assert [(o.name, o.supported, o.count) for o in rest.operations] == [
        ("cos", False, 3),
        ("argmax", True, 1),
    ]


def test_operations_of_a_function_that_runs() -> None:
    (layer,) = tercet.check(tercet.trace(smooth, (4,), W)).layers
    product, gelu, one = layer.operations
    assert product == Operation("dot_general", line(smooth, "x @ w"), Verdict.SUPPORTED)
    assert (gelu.name, gelu.verdict, gelu.functions) == (
        "gelu_tanh", Verdict.APPROXIMATED, ("gelu_tanh",)
    )  # fmt: skip
    assert "1e-4" in gelu.error
    assert (one.name, one.place) == ("add", line(smooth, "+ 1.0"))


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(x)
        return torch.round(y) + torch.tanh(x)


def test_operations_of_a_module() -> None:
    module = nn.Sequential(nn.Linear(6, 4), Odd(), nn.GELU(), Odd())
    report = tercet.check(module, example_inputs=torch.zeros(2, 6))
    assert [layer.verdict == Verdict.REFUSED for layer in report.layers] == [
        False, True, False, True
    ]  # fmt: skip
    first, odd, gelu, _ = report.layers
    assert [o.name for o in first.operations] == ["aten.linear"]
    assert [o.functions for o in gelu.operations] == [("gelu",)]
    told = {o.name: o for o in odd.operations}
    assert list(told) == ["aten.sin", "aten.round", "aten.tanh", "aten.add.Tensor"]
    assert told["aten.sin"].place == line(Odd, "torch.sin")
    assert told["aten.round"].verdict is Verdict.REFUSED
    assert told["aten.tanh"].verdict is Verdict.APPROXIMATED
    assert told["aten.add.Tensor"].verdict is Verdict.SUPPORTED
    with pytest.raises(UnsupportedOperation) as caught:
        tercet.lower(module, example_inputs=torch.zeros(2, 6))
    for word in ("'1' (Odd)", "'3' (Odd)", "sine", "rounding", line(Odd, "torch.sin")):
        assert word in caught.value.message


def test_names_of_files_in_a_module_s_file_are_harmless() -> None:
    buffer, batch = io.BytesIO(), {0: torch.export.Dim("batch")}
    program = torch.export.export(Odd(), (torch.zeros(2, 3),), dynamic_shapes=(batch,))
    for node in program.graph.nodes:
        node.meta["stack_trace"] = 'File "/tmp/\x1b[31m[bold]evil/../a b\x1b.py", line 7, in f\n'
    torch.export.save(program, buffer)
    buffer.seek(0)
    places = {call.line for call in read(buffer, "odd").block.walk()}
    assert places == {"a_b_.py:7"}


def test_all_refusals_of_layers_of_keras() -> None:
    model = one_layer(
        (6,),
        L.Lambda(lambda x: keras.ops.sin(x) + keras.ops.floor(x), name="odd"),
        L.Dense(3, activation="tanh", name="fine"),
    )
    odd, fine = tercet.check(model).layers
    assert [o.verdict for o in odd.operations] == [
        Verdict.REFUSED, Verdict.REFUSED, Verdict.SUPPORTED
    ]  # fmt: skip
    assert "sine" in odd.reason
    assert "rounding" in odd.reason
    assert all(o.place.startswith(Path(__file__).name) for o in odd.operations)
    assert [(o.name, o.place) for o in fine.operations][-1] == ("tanh", "")


def test_many_refusals_are_cut() -> None:
    message, remedy = joined([ModelError(f"refusal {n}", "the same") for n in range(50)])
    assert message.endswith("refusal 19; and 30 more")
    assert remedy == "the same"


def test_what_stands_at_one_place_is_one_row() -> None:
    refused = OperationReport("sin", "a.py:1", supported=False, reason="no", remedy="yes")
    rows = [
        ("a", OperationReport("exp", "a.py:1", ("exp",))),
        ("a", refused),
        ("a", OperationReport("exp", "a.py:1", ("exp", "truncate"))),
    ]
    exp = OperationReport("exp", "a.py:1", ("exp", "truncate"), count=2)
    assert layer_reports({}, rows) == [
        LayerReport("a", "function", False, "no", "yes", (exp, refused))
    ]


def test_the_command_line_shows_a_function_that_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text(
        "import jax.numpy as jnp, tercet\n"
        "def f(x):\n"
        "    y = jnp.sin(x)\n"
        "    return jnp.exp(y) + jnp.floor(y)\n"
        "model = tercet.trace(f, (4,))\n"
    )
    command = [sys.executable, "-m", "tercet.cli", "check", f"{script}:model"]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    (layer,) = json.loads(done.stdout)["layers"]
    assert [(o["name"], o["place"], o["verdict"]) for o in layer["operations"]] == [
        ("sin", "model.py:3", "not supported"),
        ("exp", "model.py:4", "approximated"),
        ("floor", "model.py:4", "not supported"),
        ("add", "model.py:4", "supported"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    for word in ("model.py:3", "sine", "approximated", "rounding", "written at"):
        assert word in done.stdout
