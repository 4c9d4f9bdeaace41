"""One architecture gives one program: names, digests, shared weights, sources."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tercet.frontend.keras import trace_keras
from tercet.program.program import Role
from tests.frontend.evaluate import evaluate
from tests.frontend.models import nested, one_layer, post_cnn, randomise, resnet


@pytest.mark.parametrize("make", [post_cnn, resnet, nested])
def test_digest_does_not_depend_on_the_weights(make: type[keras.Model]) -> None:
    model = make()
    first = trace_keras(model)
    second = trace_keras(randomise(model, seed=8))
    assert first.program.digest() == second.program.digest()
    assert any(not np.array_equal(first.arrays[n], second.arrays[n]) for n in first.arrays)
    for variable in model.variables:
        # Equal numbers everywhere must not merge, collapse or drop anything.
        variable.assign(np.zeros(variable.shape, np.float32))
    assert trace_keras(model).program.digest() == first.program.digest()


def test_a_model_built_again_in_one_session_gives_the_same_program() -> None:
    first, second = trace_keras(post_cnn()), trace_keras(post_cnn())
    assert first.program.digest() == second.program.digest()
    assert list(first.arrays) == [
        f"{layer}/{kind}"
        for layer in ("conv2d", "conv2d_1", "conv2d_2", "dense")
        for kind in ("kernel", "bias")
    ]


def test_another_architecture_has_another_digest() -> None:
    models = (
        one_layer((6,), L.Dense(3, activation="relu")),
        one_layer((6,), L.Dense(3)),
        one_layer((6,), L.Dense(4)),
        one_layer((6,), L.Dense(3), L.Rescaling(2.0)),
        one_layer((6,), L.Dense(3), L.Rescaling(2.5)),
    )
    assert len({trace_keras(m).program.digest() for m in models}) == len(models)


def test_a_weight_used_twice_is_registered_once() -> None:
    model = nested()
    traced = trace_keras(model)
    assert [n for n in traced.arrays if n.startswith("shared/")] == ["shared/kernel", "shared/bias"]
    assert len(traced.arrays) == len(model.trainable_variables)


def test_weights_carry_no_batch_axis() -> None:
    traced = trace_keras(resnet())
    assert all(d > 0 for i in traced.program.inputs[1:] for d in i.type.shape)
    x = np.random.default_rng(0).normal(0, 1, (3, 16, 16, 3))
    assert evaluate(traced, x).shape == (3, 5)


def test_instructions_name_their_layer() -> None:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="deep")], name="block")
    model = one_layer((6,), L.Dense(4, name="first"), inner, L.ReLU(name="rectify"))
    sources = list(dict.fromkeys(i.source for i in trace_keras(model).program.instructions))
    assert sources == ["first", "block/deep", "rectify"]


def test_statistics_of_data_are_weights_not_public() -> None:
    model = one_layer((2,), L.Normalization(mean=[1.0, 2.0], variance=[3.0, 4.0]))
    assert not trace_keras(model).program.named(Role.PUBLIC)


def test_counts_of_a_padded_average_are_public_and_precise() -> None:
    traced = trace_keras(one_layer((5, 5, 1), L.AveragePooling2D(3, 2, padding="same")))
    ((_, counts),) = traced.program.named(Role.PUBLIC)
    assert counts.type.shape == (3, 3, 1)
    error = np.abs(traced.arrays[counts.name] * 2.0**counts.type.scale % 1)
    assert np.minimum(error, 1 - error).max() * 2.0**-counts.type.scale < 1e-7


@pytest.mark.parametrize("scale", [8, 16, 20])
def test_scale_is_that_of_inputs_weights_and_output(scale: int) -> None:
    traced = trace_keras(post_cnn(), scale=scale)
    assert traced.program.scale == scale
    assert {i.type.scale for i in traced.program.inputs} == {scale}
    assert traced.program.type_of(traced.program.outputs[0]).scale == scale
