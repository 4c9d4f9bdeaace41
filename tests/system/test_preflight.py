"""``tercet check``: the report, on every kind of model, and its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import tercet
from tercet.crypto.prg import fresh
from tercet.errors import InputError, IntegrityError, ModelError
from tercet.preflight.report import Verdict
from tercet.protocol.replicated.sharing import deal
from tercet.ring.fixed import encode
from tercet.runtime.batch import INPUT_NAME
from tercet.service.messages import Answer, Predict
from tests.coverage.torch_models import Bert
from tests.frontend.models import one_layer

RNG = np.random.default_rng(6)


def keras_model() -> keras.Model:
    return one_layer((8,), L.Dense(6, name="first", activation="gelu"), L.Dense(3, name="last"))


def torch_module() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))


def function() -> tercet.Traced:
    def score(x: object, w: object) -> object:
        import jax

        with jax.named_scope("product"):
            y = x @ w
        with jax.named_scope("squash"):
            return jax.nn.sigmoid(y)

    return tercet.trace(score, (8,), RNG.normal(0, 1, (8, 3)).astype(np.float32))


@pytest.mark.parametrize(
    ("make", "approximated", "exact"),
    [(keras_model, "first", "last"), (torch_module, "1", "2"), (function, "squash", "product")],
)
def test_every_kind_of_model(make: object, approximated: str, exact: str) -> None:
    sample = RNG.normal(0, 1, (20, 8)).astype(np.float32)
    report = tercet.check(make(), sample=sample, batch=4)  # type: ignore[operator]
    layers = {layer.name: layer for layer in report.layers}
    assert report.supported
    assert layers[approximated].verdict is Verdict.APPROXIMATED
    assert layers[approximated].error == "1e-4 relative or 3.1e-05"
    assert layers[exact].verdict is Verdict.SUPPORTED
    assert report.bytes == sum(layer.bytes for layer in report.layers) > 0
    assert report.rounds == sum(layer.rounds for layer in report.layers)
    assert sum(layer.share for layer in report.layers) == pytest.approx(1)
    assert 0 < report.compute_seconds < report.lan_seconds < report.wan_seconds
    assert 0 < layers[exact].largest < 100
    assert report.proposed_scale == 16
    assert not report.warnings


def test_the_cost_is_what_a_request_costs() -> None:
    """Bytes and rounds of the report are those that a real request is charged."""
    module, sample = torch_module(), RNG.normal(0, 1, (20, 8)).astype(np.float32)
    report = tercet.check(module, sample=sample, batch=5)
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(module, cluster, "m", sample=sample)
        tercet.serve("m", cluster)
        with tercet.connect(cluster) as client:
            got = client.predict("m", sample[:5])
            cost = client.last_cost
    np.testing.assert_allclose(got, module(torch.tensor(sample[:5])).detach(), atol=1e-3)
    assert cost is not None
    assert cost.bytes == report.bytes
    assert cost.rounds <= report.rounds


def test_other_fractional_bits_are_another_program() -> None:
    """A client that was told of 12 fractional bits is refused by workers that hold 16."""
    ones = np.ones((4, 2), np.float32)
    traced = {f: tercet.trace(lambda x, w: x @ w, (4,), ones, scale=f) for f in (12, 16)}
    twelve = tercet.lower(traced[12]).program.digest()
    assert twelve != tercet.lower(traced[16]).program.digest()
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(traced[16], cluster, "m")
        tercet.serve("m", cluster)
        with tercet.connect(cluster) as client:
            known = client.describe("m")
            words = encode(np.ones((1, 4)), 12, "input")
            name, pairs = fresh(16), deal({INPUT_NAME: words})
            bodies = [Predict(name, known.id, twelve, 1, pair) for pair in pairs]
            with pytest.raises(IntegrityError, match="another program"):
                client._connection.call_all(bodies, Answer, 20)


def test_token_ids_over_three_workers() -> None:
    module = Bert().eval()
    ids = torch.randint(0, 50, (3, 8), generator=torch.Generator().manual_seed(1))
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(module, cluster, "bert", example_inputs=ids)
        tercet.serve("bert", cluster)
        with tercet.connect(cluster) as client:
            got = client.predict("bert", ids.numpy())
    exact = module(ids).detach().numpy()
    assert np.abs(got - exact).max() <= 1e-2 * np.ptp(exact)
    assert (got.argmax(-1) == exact.argmax(-1)).all()


def _large(factor: float) -> nn.Module:
    """Return layers whose weights are large, as are the values that they make."""
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.uniform_(0.5, 1.0, generator=torch.Generator().manual_seed(1))
            layer.weight.mul_(factor)
    return module


def test_what_may_overflow_is_told_by_layer() -> None:
    module, sample = _large(2.0**5), RNG.uniform(0, 2.0**12, (20, 8)).astype(np.float32)
    report = tercet.check(module, sample=sample)
    (warning,) = report.warnings
    assert warning.startswith("2: values up to")
    assert "fixed point holds" in warning
    assert report.proposed_scale is not None
    assert report.proposed_scale < 16
    again = tercet.check(module, sample=sample, scale=report.proposed_scale)
    assert again.supported
    assert not again.warnings


def test_ranges_that_cannot_fit() -> None:
    module, sample = _large(2.0**13), RNG.uniform(0, 2.0**13, (20, 8)).astype(np.float32)
    report = tercet.check(module, sample=sample)
    assert not report.supported
    assert "beyond the fixed-point range" in report.error
    with pytest.raises(ModelError, match="beyond the fixed-point range"):
        tercet.lower(module, sample=sample)


def test_saturation_is_told() -> None:
    import jax.numpy as jnp

    model = tercet.trace(lambda x: jnp.exp(x), (3,))
    assert "saturates at 32768" in tercet.check(model, sample=np.full((2, 3), 11.0)).warnings[0]
    assert not tercet.check(model, sample=np.full((2, 3), -11.0)).warnings


def test_what_cannot_be_ranked_is_told() -> None:
    import jax.numpy as jnp

    model = tercet.trace(lambda x: jnp.argmax(jnp.tile(x * 2.0**14, (1, 3000)), 1), (4,))
    for size, told in ((2.0**13, 1), (1.0, 0)):
        report = tercet.check(model, sample=size * np.ones((2, 4)))
        assert len([w for w in report.warnings if "than the largest" in w]) == told


@pytest.mark.parametrize("sample", [np.zeros((2, 7)), np.array([["a"] * 8]), np.zeros((0, 8))])
def test_bad_samples(sample: np.ndarray) -> None:
    with pytest.raises(InputError):
        tercet.check(keras_model(), sample=sample)


def _check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet.cli", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_line_on_a_file(tmp_path: Path) -> None:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(
        torch_module().eval(), (torch.randn(2, 8),), dynamic_shapes=(batch,)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    np.save(tmp_path / "x.npy", RNG.normal(0, 1, (9, 8)))
    done = _check(tmp_path / "m.pt2", "--data", tmp_path / "x.npy", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["supported"]
    assert [layer["verdict"] for layer in told["layers"]][:2] == ["supported", "approximated"]
    table = _check(tmp_path / "m.pt2", "--data", tmp_path / "x.npy").stdout
    for word in ("approximated", "gelu", "LAN", "WAN", "largest", "total"):
        assert word in table


def test_the_command_line_on_a_script(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text(
        "import jax.numpy as jnp, numpy as np, torch, tercet\n"
        "model = tercet.trace(lambda x, w: jnp.tanh(x @ w), (4,), np.ones((4, 2), 'float32'))\n"
        "class Wave(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.sin(x)\n"
        "wave = torch.nn.Sequential(torch.nn.Linear(4, 2), Wave())\n"
    )
    assert _check(f"{script}:model", "--json").returncode == 0
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    done = _check(f"{script}:wave", "--data", tmp_path / "x.npy", "--json")
    assert done.returncode == 1
    layers = {layer["name"]: layer for layer in json.loads(done.stdout)["layers"]}
    assert layers["0"]["verdict"] == "supported"
    assert layers["1"]["verdict"] == "not supported"
    assert "sine" in layers["1"]["reason"]
    assert layers["1"]["remedy"]
    done = _check(f"{script}:nothing")
    assert done.returncode == 1
    assert "has no 'nothing'" in done.stderr
