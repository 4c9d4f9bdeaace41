"""PyTorch modules: files, names, layout, and what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import Tensor, nn

import tercet
from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.keras import trace_keras
from tercet.frontend.torch import supported_modules, trace_torch
from tercet.program.passes import lower
from tests.coverage.torch_cases import Function
from tests.coverage.torch_models import Bert, mlp, vgg
from tests.frontend.evaluate import evaluate

# What torch.export.save warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def _save(module: nn.Module, example: Tensor, path: Path, *, functional: bool = False) -> Path:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=(batch,))
    torch.export.save(program.run_decompositions({}) if functional else program, path)
    return path


@pytest.mark.parametrize("make", [mlp, vgg])
def test_a_file_gives_what_the_module_gives(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    module = make()
    shape = (2, 12) if make is mlp else (2, 3, 16, 16)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    loaded = trace_torch(_save(module, x, tmp_path / "m.pt2"))
    assert loaded.program == trace_torch(module, x).program
    np.testing.assert_allclose(evaluate(loaded, x.numpy()), module(x).detach(), atol=1e-4)


def test_a_file_needs_no_pytorch(tmp_path: Path) -> None:
    path = _save(mlp(), torch.randn(2, 12), tmp_path / "m.pt2")
    code = (
        "import sys; sys.modules['torch'] = None; import tercet;"
        f"print(len(tercet.lower({str(path)!r}).arrays))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6"


def test_the_passes_see_what_they_see_of_keras() -> None:
    """Channels in front of space cost nothing: the lowered programs have the same operations."""
    torch_model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(4, 2, 3),
        nn.ReLU(), nn.MaxPool2d(2),
    )  # fmt: skip
    keras_model = keras.Sequential(
        [keras.Input((14, 14, 1)), L.Conv2D(4, 3), L.BatchNormalization(), L.AveragePooling2D(2),
         L.ReLU(), L.Conv2D(2, 3), L.ReLU(), L.MaxPooling2D(2)]
    )  # fmt: skip
    programs = [
        lower(t.program, t.arrays)[0]
        for t in (trace_torch(torch_model, torch.zeros(2, 1, 14, 14)), trace_keras(keras_model))
    ]
    first, second = ([i.op for i in p.instructions if i.op != "transpose"] for p in programs)
    assert [op for op in first if op != "reshape"] == [op for op in second if op != "reshape"]


def test_a_state_is_left_as_it_was() -> None:
    module = mlp().train()
    module[2].eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    trace_torch(module, torch.randn(1, 12))
    assert module.training
    assert not module[2].training
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_two_copies_of_an_architecture_give_one_program() -> None:
    first, second = Bert(), Bert()
    ids = torch.zeros(2, 8, dtype=torch.int64)
    assert trace_torch(first, ids).program == trace_torch(second, ids).program


def _of(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), Function(function))


UNSUPPORTED: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "sine": (_of(torch.sin), ("'1' (Function)", "sine")),
    "rounding": (_of(torch.round), ("'1' (Function)", "rounding")),
    "running product": (_of(lambda x: x.cumprod(1)), ("cumulative product", "logarithms")),
    "random": (_of(lambda x: x + torch.rand_like(x)), ("'1' (Function)", "rand")),
    "large table": (
        nn.Sequential(Function(lambda x: x.long()), nn.Embedding(300_000, 1)),
        ("'1' (Embedding)", "table lookup", "262,144"),
    ),
    "branch": (
        _of(lambda x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))),
        ("branch", "both branches"),
    ),
    "complex": (_of(lambda x: torch.fft.fft(x).real), ("'1' (Function)", "fft")),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_module_is_named_with_a_remedy(case: str) -> None:
    module, words = UNSUPPORTED[case]
    with pytest.raises(UnsupportedOperation) as caught:
        trace_torch(module, torch.randn(2, 6))
    for word in words:
        assert word in str(caught.value)
    (report,) = [r for r in supported_modules(module, torch.randn(2, 6)) if not r.supported]
    assert (report.reason, report.remedy) == (caught.value.message, caught.value.remedy)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x + 2


def _with(value: float) -> nn.Module:
    module = nn.Linear(6, 2)
    with torch.no_grad():
        module.bias[1] = value
    return module


IDS = torch.zeros(2, 6, dtype=torch.int64)
REFUSED: dict[str, tuple[nn.Module, object, tuple[str, ...]]] = {
    "no example": (nn.Linear(6, 2), None, ("example_inputs",)),
    "strings": (nn.Linear(6, 2), (["a", "b"],), ("Example input", "example_inputs")),
    "complex": (nn.Linear(6, 2), torch.zeros(2, 6, dtype=torch.complex64), ("complex64", "real")),
    "complex weights": (
        nn.Linear(6, 2, dtype=torch.complex64), torch.zeros(2, 6), ("complex64", "real numbers")
    ),
    "bool": (nn.Linear(6, 2), torch.zeros(2, 6, dtype=torch.bool), ("bool", "Encode")),
    "two inputs": (TwoInputs(), (torch.zeros(2, 6),) * 2, ("2 inputs", "exactly one")),
    "two outputs": (TwoOutputs(), torch.zeros(2, 6), ("2 outputs",)),
    "wrong shape": (nn.Linear(6, 2), torch.zeros(2, 5), ("cannot be exported",)),
    "data-dependent branch": (
        Function(lambda x: x if x.sum() > 0 else -x), torch.zeros(2, 6), ("branches on its data",)
    ),
    "dynamic shape": (
        Function(lambda x: x[x > 0]), torch.zeros(2, 6), ("Function",)
    ),
    "fixed batch": (Function(lambda x: x.view(2, 3, 2)), torch.zeros(2, 6), ("batch",)),
    "mixed rows": (Function(lambda x: x - x.mean(0)), torch.zeros(2, 6), ("batch",)),
    "softmax over rows": (nn.Softmax(0), torch.zeros(2, 6), ("batch",)),
    "NaN": (_with(float("nan")), torch.zeros(2, 6), ("bias", "NaN")),
    "range": (_with(1e12), torch.zeros(2, 6), ("bias", "fixed-point range")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_shared(case: str) -> None:
    module, example, words = REFUSED[case]
    with pytest.raises(ModelError) as caught:
        tercet.lower(module, example_inputs=example)
    for word in words:
        assert word in str(caught.value)


def test_a_fixed_batch_in_a_file_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(mlp().eval(), (torch.randn(4, 12),))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"for 4 rows.*dynamic_shapes"):
        tercet.lower(tmp_path / "m.pt2")


def _rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Return a copy of an archive with every member changed."""
    out = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out


def _pickled(name: str, content: bytes) -> bytes:
    if not name.endswith("model_weights_config.json"):
        return content
    config = json.loads(content)
    next(iter(config["config"].values()))["use_pickle"] = True
    return json.dumps(config).encode()


def _short(name: str, content: bytes) -> bytes:
    return content[:-4] if name.endswith("weight_0") else content


def _other_format(name: str, content: bytes) -> bytes:
    if not name.endswith("model.json"):
        return content
    model = json.loads(content)
    model["schema_version"]["major"] = 99
    return json.dumps(model).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [(_pickled, "pickled, which may run code"), (_short, "longer than"), (_other_format, "format")],
)
def test_bad_archives(change: Callable[[str, bytes], bytes], words: str, tmp_path: Path) -> None:
    path = _save(mlp(), torch.randn(2, 12), tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=words):
        tercet.lower(_rewritten(path, change))


def test_what_is_pickled_is_never_read(tmp_path: Path) -> None:
    """Sample inputs are a pickle in every file; one that would run code does not."""
    witness = tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + str(witness).encode() + b"'\ntR."
    path = _save(mlp(), torch.randn(2, 12), tmp_path / "m.pt2")
    changed = _rewritten(path, lambda n, c: evil if n.endswith("sample_inputs/model.pt") else c)
    assert len(tercet.lower(changed).arrays) == 6
    assert not witness.exists()


def test_code_in_an_expression_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    code = f"__import__('os').system('touch {witness}')"

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("model.json"):
            return content
        model = json.loads(content)
        for kind in model["graph_module"]["graph"]["tensor_values"].values():
            for size in kind["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code
        for call in model["graph_module"]["graph"]["nodes"]:
            call["target"] = call["target"].replace("torch.ops.aten.tanh", "os.system")
        return json.dumps(model).encode()

    path = _save(mlp(), torch.randn(2, 12), tmp_path / "m.pt2")
    with pytest.raises(ModelError):
        tercet.lower(_rewritten(path, change))
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"nothing of the kind"])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"torch\.export\.save"):
        tercet.lower(tmp_path / "m.pt2")


def test_pickles_of_pytorch_are_never_loaded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(mlp(), buffer)
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="never loaded"):
        tercet.lower(tmp_path / "m.pt")


def test_in_place_operations_in_a_file(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.relu_()
            y += 1
            return y - x

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    traced = trace_torch(_save(InPlace(), x, tmp_path / "m.pt2"))
    np.testing.assert_allclose(evaluate(traced, x.numpy()), InPlace()(x), atol=1e-4)


def test_in_place_on_a_part_is_refused_in_a_file(tmp_path: Path) -> None:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[:, 1].add_(1.0)
            return y

    x = torch.randn(3, 6)
    with pytest.raises(UnsupportedOperation, match="into a part of a tensor in place"):
        trace_torch(_save(Part(), x, tmp_path / "m.pt2"))
    functional = trace_torch(_save(Part(), x, tmp_path / "n.pt2", functional=True))
    np.testing.assert_allclose(evaluate(functional, x.numpy()), Part()(x), atol=1e-4)
