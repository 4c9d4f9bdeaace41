"""What cannot run is refused before anything is shared, and the error says what to do."""

from __future__ import annotations

from collections.abc import Callable

import jax
import keras
import numpy as np
import pytest
from keras import layers as L

from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.keras import supported_layers, trace_keras
from tests.frontend.models import one_layer, randomise


def _loop(x: object) -> object:
    return jax.lax.while_loop(lambda s: s.sum() < 10, lambda s: s + 1, x)


def _branch(x: object) -> object:
    return jax.lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x)  # type: ignore[attr-defined]


UNSUPPORTED: dict[str, tuple[tuple[int, ...], L.Layer, tuple[str, ...]]] = {
    "sine": ((6,), L.Lambda(keras.ops.sin, name="wave"), ("'wave' (Lambda", "sin")),
    "rounding": ((6,), L.Lambda(keras.ops.floor), ("Lambda", "rounding", "released")),
    "loop": ((6,), L.Lambda(_loop, name="until"), ("'until'", "while", "fixed number")),
    "branch": ((6,), L.Lambda(_branch), ("branch on a secret value", "both branches")),
    "secret exponent": ((6,), L.Lambda(lambda x: x**x), ("power", "exponent")),
    "running product": ((6,), L.Lambda(lambda x: keras.ops.cumprod(x, 1)), ("cumprod",)),
    "large table": ((6,), L.Embedding(300_000, 1), ("Embedding", "table lookup", "plain")),
    "sort by key": (
        (6,),
        L.Lambda(lambda x: jax.lax.sort((x, x * 2), num_keys=1)[1], name="order"),
        ("'order'", "sorting", "several"),
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_layer_is_named_with_a_remedy(case: str) -> None:
    shape, layer, words = UNSUPPORTED[case]
    model = one_layer(shape, layer)
    with pytest.raises(UnsupportedOperation) as caught:
        trace_keras(model)
    for word in words:
        assert word in str(caught.value)
    (report,) = supported_layers(model)
    assert not report.supported
    assert (report.reason, report.remedy) == (caught.value.message, caught.value.remedy)


def test_report_goes_on_after_an_unsupported_layer() -> None:
    inner = keras.Sequential(
        [keras.Input((4, 3)), L.Lambda(keras.ops.sin, name="memory")], name="block"
    )
    model = one_layer(
        (4, 6),
        L.Dense(3, name="first"),
        inner,
        L.Lambda(keras.ops.floor, name="norm"),
        L.Dropout(0.5, name="drop"),
        L.Dense(2, name="last"),
        L.Lambda(keras.ops.cos, name="gate"),
    )
    reports = {r.name: r for r in supported_layers(model)}
    assert list(reports) == ["first", "block/memory", "norm", "drop", "last", "gate"]
    refused = [name for name, r in reports.items() if not r.supported]
    assert refused == ["block/memory", "norm", "gate"]
    assert reports["gate"].kind == "Lambda"


def _two_inputs() -> keras.Model:
    a, b = keras.Input((3,)), keras.Input((3,))
    return keras.Model([a, b], L.Add()([a, b]))


def _two_outputs() -> keras.Model:
    x = keras.Input((3,))
    return keras.Model(x, [L.Dense(1)(x), L.Dense(2)(x)])


def _broken() -> keras.Model:
    model = one_layer((3,), L.Dense(2, name="sick"))
    model.layers[0].bias.assign([1.0, np.nan])
    return model


def _huge() -> keras.Model:
    model = one_layer((3,), L.Dense(2, name="huge"))
    model.layers[0].bias.assign([1.0, 1e12])
    return model


def _constant() -> keras.Model:
    return one_layer((3,), L.Lambda(lambda x: keras.ops.zeros_like(x) + 1.0))


def _of(function: Callable[..., object]) -> Callable[[], keras.Model]:
    return lambda: one_layer((4,), L.Lambda(function, name="mixer"))


def _truths() -> keras.Model:
    x = keras.Input((4,), dtype="bool")
    return keras.Model(x, L.Lambda(lambda b: keras.ops.cast(b, "float32"))(x))


class Bare(keras.Model):
    """A subclassed model: its input shape is in no attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(2)

    def build(self, shape: tuple[int, ...]) -> None:
        self.dense.build(shape)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self.dense(x)


def _bare() -> keras.Model:
    model = Bare()
    model.build((None, 3))
    return model


MODELS: dict[str, tuple[Callable[[], object], str]] = {
    "no model": (lambda: object(), "no Keras 3 model"),
    "not built": (lambda: keras.Sequential([L.Dense(2)]), "not built"),
    "unknown extents": (
        lambda: keras.Sequential([keras.Input((None, 3)), L.Conv1D(2, 2)]),
        "unknown extents",
    ),
    "fixed batch": (
        lambda: keras.Sequential([keras.Input((3,), batch_size=4), L.Dense(2)]),
        "batch size to 4",
    ),
    "two inputs": (_two_inputs, "2 inputs"),
    "two outputs": (_two_outputs, "2 outputs"),
    "truth values": (_truths, "bool input"),
    "subclassed": (_bare, "keras.Model(x, model(x))"),
    "not a number": (_broken, "'sick/bias'"),
    "out of range": (_huge, "huge/bias"),
    "constant": (_constant, "does not depend on the input"),
    "mean over the batch": (
        _of(lambda x: x - keras.ops.mean(x, axis=0, keepdims=True)),
        "mixes the rows",
    ),
    "batch size as a factor": (_of(lambda x: x * keras.ops.shape(x)[0]), "batch size"),
    "batch size as a term": (
        _of(lambda x: x + keras.ops.arange(4, dtype="float32") / keras.ops.shape(x)[0]),
        "batch size",
    ),
    "rows reversed": (_of(lambda x: keras.ops.flip(x, axis=0)), "mixes the rows"),
    "row numbers": (
        _of(lambda x: x * keras.ops.arange(keras.ops.shape(x)[0], dtype="float32")[:, None]),
        "batch size",
    ),
    "huge constant": (_of(lambda x: x * 1e30), "out of the fixed-point range"),
    "division by zero": (_of(lambda x: x / 0.0), "out of the fixed-point range"),
}


@pytest.mark.parametrize("case", MODELS)
def test_model_is_refused_with_a_remedy(case: str) -> None:
    make, words = MODELS[case]
    with pytest.raises(ModelError) as caught:
        trace_keras(make())
    assert words in str(caught.value)
    assert caught.value.remedy


def test_subclassed_model_works_wrapped() -> None:
    x = keras.Input((3,))
    traced = trace_keras(randomise(keras.Model(x, Bare()(x))))
    assert len(traced.arrays) == 2


class Failing(L.Layer):
    """A layer that states its shape but cannot run."""

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        raise RuntimeError("no luck")


def test_layer_that_fails_is_no_traceback() -> None:
    with pytest.raises(ModelError, match=r"cannot be traced: .*no luck"):
        trace_keras(one_layer((3,), Failing()))
