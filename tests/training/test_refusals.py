"""What cannot be trained is refused when it is traced, and malformed steps before they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tercet.errors import InputError, ModelError, ProgramError, UnsupportedOperation
from tercet.program.program import Program, Role
from tercet.program.training import (
    Kind,
    Training,
    decode_training,
    encode_training,
    verify_training,
)
from tercet.program.verify import verify


def _model(end: str = "linear", **settings: Any) -> Any:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation=end)])
    if settings:
        model.compile(**settings)
    return model


def _trace(model: Any, **settings: Any) -> Any:
    from tercet.frontend.training import trace_training

    return trace_training(model, 4, 3, **settings)


@pytest.mark.parametrize(
    ("end", "settings", "error", "text"),
    [
        ("linear", {}, ModelError, "not compiled"),
        ("linear", {"optimizer": "sgd", "loss": "poisson"}, UnsupportedOperation, "poisson"),
        ("linear", {"optimizer": "ftrl", "loss": "mse"}, UnsupportedOperation, "Ftrl"),
        ("linear", {"optimizer": "sgd", "loss": ["mse"]}, ModelError, "several losses"),
        (
            "linear",
            {"optimizer": "sgd", "loss": "categorical_crossentropy"},
            ModelError,
            "does not end in softmax",
        ),
        (
            "softmax",
            {"optimizer": "sgd", "loss": "binary_crossentropy"},
            ModelError,
            "does not end in sigmoid",
        ),
    ],
)
def test_refused_models(
    end: str, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        _trace(_model(end, **settings))


def test_refused_optimizer_settings() -> None:
    import keras

    with pytest.raises(UnsupportedOperation, match="amsgrad"):
        _trace(_model(optimizer=keras.optimizers.Adam(amsgrad=True), loss="mse"))


def test_refused_arguments() -> None:
    from tercet.frontend.training import trace_training

    model = _model(optimizer="sgd", loss="mse")
    with pytest.raises(InputError, match="0 rows"):
        trace_training(model, 0, 3)
    with pytest.raises(InputError, match="auc"):
        _trace(model, metrics=("auc",))


def test_refused_layer_is_named() -> None:
    import keras

    layers = [keras.layers.Dense(3, name="first"), keras.layers.GaussianNoise(0.1, name="noisy")]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(UnsupportedOperation, match="noisy"):
        _trace(model)


@pytest.fixture(scope="module")
def training() -> Training:
    found: Training = _trace(_model(optimizer="sgd", loss="mse"), metrics=("loss",)).training
    return found


def test_a_training_survives_its_wire_form(training: Training) -> None:
    again = decode_training(encode_training(training))
    assert again == training
    assert again.digest() == training.digest()


def test_a_step_is_no_prediction(training: Training) -> None:
    with pytest.raises(ProgramError, match="client"):
        verify(training.program)


def _inputs(program: Program, change: Callable[[Any], Any]) -> Program:
    return msgspec.structs.replace(program, inputs=tuple(map(change, program.inputs)))


def _role(role: Role, other: Role) -> Callable[[Any], Any]:
    return lambda i: msgspec.structs.replace(i, role=other) if i.role is role else i


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p: msgspec.structs.replace(p, outputs=p.outputs[:-1]), "outputs for"),
        (lambda p: msgspec.structs.replace(p, outputs=p.outputs[::-1]), "becomes"),
        (lambda p: msgspec.structs.replace(p, outputs=(*p.outputs[:-1], 0)), "metric of type"),
        (lambda p: _inputs(p, _role(Role.DATA, Role.INPUT)), "role input"),
        (lambda p: _inputs(p, _role(Role.DATA, Role.STATE)), "without data"),
        (lambda p: _inputs(p, _role(Role.STEP, Role.DATA)), "form"),
    ],
)
def test_malformed_steps(
    training: Training, change: Callable[[Program], Program], text: str
) -> None:
    with pytest.raises(ProgramError, match=text):
        verify_training(msgspec.structs.replace(training, program=change(training.program)))


def test_malformed_derivations(training: Training) -> None:
    (table,) = training.step_inputs
    for wrong in (
        (),
        (table, table),
        (msgspec.structs.replace(table, values=()),),
        (msgspec.structs.replace(table, values=(float("nan"),)),),
        (msgspec.structs.replace(table, values=(1e18,)),),
        (msgspec.structs.replace(table, kind=Kind.MASK, values=(), keep=0.0),),
    ):
        with pytest.raises(ProgramError):
            verify_training(msgspec.structs.replace(training, step_inputs=wrong))
