"""The whole of ``lower``: golden text, meaning kept, arrays checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import ProgramError
from tercet.program.passes import lower
from tercet.program.program import Program, Role
from tercet.program.text import format_program
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.interpreter import run as interpret
from tests.program.lowering_models import Model, post_cnn
from tests.program.real_numbers import evaluate

_CONV = (
    "groups=1, high=[0 0], input_dilation=[1 1], kernel_dilation=[1 1], low=[0 0], strides=[2 2]"
)

CNN = f"""\
  %0 = input 'x' : share<B x 28 x 28 x 1, f16>
  %1 = weight 'conv1/kernel/pooled' : share<4 x 4 x 1 x 16, f16>
  %2 = weight 'conv1/bias@32/pooled' : share<16, f32>
  %3 = weight 'conv2/kernel/pooled' : share<4 x 4 x 16 x 32, f16>
  %4 = weight 'conv2/bias@32/pooled' : share<32, f32>
  %5 = weight 'conv3/kernel/pooled' : share<4 x 4 x 32 x 64, f16>
  %6 = weight 'conv3/bias@32/pooled' : share<64, f32>
  %7 = weight 'dense/kernel' : share<64 x 10, f16>
  %8 = weight 'dense/bias@32' : share<10, f32>
  %9 = conv(%0, %1, {_CONV}) : partial<B x 13 x 13 x 16, f32>  # conv1
  %10 = add(%9, %2) : partial<B x 13 x 13 x 16, f32>  # conv1
  %11 = scale(%10, bits=2, multiplier=1) : partial<B x 13 x 13 x 16, f34>  # pool1
  %12 = relu(%11, bits=44, shift=18) : share<B x 13 x 13 x 16, f16>  # relu1
  %13 = conv(%12, %3, {_CONV}) : partial<B x 5 x 5 x 32, f32>  # conv2
  %14 = add(%13, %4) : partial<B x 5 x 5 x 32, f32>  # conv2
  %15 = scale(%14, bits=2, multiplier=1) : partial<B x 5 x 5 x 32, f34>  # pool2
  %16 = relu(%15, bits=44, shift=18) : share<B x 5 x 5 x 32, f16>  # relu2
  %17 = conv(%16, %5, {_CONV}) : partial<B x 1 x 1 x 64, f32>  # conv3
  %18 = add(%17, %6) : partial<B x 1 x 1 x 64, f32>  # conv3
  %19 = scale(%18, bits=2, multiplier=1) : partial<B x 1 x 1 x 64, f34>  # pool3
  %20 = relu(%19, bits=44, shift=18) : share<B x 1 x 1 x 64, f16>  # relu3
  %21 = reshape(%20, shape=[-1 64]) : share<B x 64, f16>  # relu3
  %22 = matmul(%21, %7) : partial<B x 10, f32>  # dense
  %23 = add(%22, %8) : partial<B x 10, f32>  # dense
  %24 = truncate_fresh(%23, shift=16) : share<B x 10, f16>  # dense
  return %24"""


def run(program: Program, arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Run in the clear in fixed point and decode."""
    inputs: dict[str, object] = {}
    for value in program.inputs:
        array = x if value.role is Role.INPUT else arrays[value.name]
        words = encode(array, value.type.scale)
        inputs[value.name] = words if value.role is Role.PUBLIC else Share((words,))
    result = finish(interpret(program, Plaintext(), inputs, len(x)))
    return decode(result.parts[0], program.scale)


def test_the_posts_cnn() -> None:
    program, arrays = lower(*post_cnn())
    assert format_program(program).split("\n", 1)[1] == CNN
    assert set(arrays) == {i.name for i in program.inputs} - {"x"}


def test_the_digest_is_stable() -> None:
    first, second = lower(*post_cnn())[0], lower(*post_cnn())[0]
    assert first.digest() == second.digest()


def test_lowering_twice_changes_nothing() -> None:
    once, arrays = lower(*post_cnn())
    twice, again = lower(once, arrays)
    assert twice == once
    assert again.keys() == arrays.keys()


def test_the_posts_cnn_keeps_its_meaning() -> None:
    program, arrays = post_cnn()
    lowered, weights = lower(program, arrays)
    x = np.random.default_rng(1).uniform(0, 1, (2, 28, 28, 1))
    exact = evaluate(program, arrays, x)
    np.testing.assert_allclose(evaluate(lowered, weights, x), exact, rtol=1e-12)
    np.testing.assert_allclose(run(lowered, weights, x), exact, atol=1e-2 * np.abs(exact).max())


@pytest.mark.parametrize("wrong", [{}, {"dense/kernel": np.zeros((64, 11))}])
def test_arrays_must_fit(wrong: dict[str, np.ndarray]) -> None:
    program, arrays = post_cnn()
    del arrays["dense/kernel"]
    with pytest.raises(ProgramError, match="dense/kernel"):
        lower(program, {**arrays, **wrong})


# --- random programs ------------------------------------------------------------------------


def _layer(model: Model, x: int, earlier: list[int], kind: str, number: int) -> int:
    """Append one layer; every layer keeps values about as large as they were."""
    name, shape = f"l{number}", model.shape(x)
    model.builder.source = name
    rank = len(shape)
    if kind == "conv":
        padded = model.emit("pad", x, low=(0, 1, 1, 0), high=(0, 1, 1, 0), interior=(0, 0, 0, 0))
        out = model.conv(padded, name, 2, groups=1 + (shape[-1] == 2) * (number % 2))
        model.arrays[f"{name}/kernel"] /= 9
        return out
    if kind == "norm":
        return model.batch_norm(x, name)
    if kind == "bias":
        return model.bias(x, name)
    if kind == "public":
        return model.emit("sub", x, model.array(f"{name}/mask", shape[1:], Role.PUBLIC))
    if kind == "weight":
        y = model.array(f"{name}/weight", shape[1:], spread=1)
        return model.truncate(model.emit("mul", y, x))
    if kind == "pool":
        side = (0, 1, 0, 0)
        x = model.emit(
            "window_sum", x, window=(1, 3, 1, 1), strides=(1,) * rank, low=side, high=side
        )
        return model.truncate(model.emit("scale", x, multiplier=349525, bits=20), 20)
    if kind == "half":
        return model.truncate(model.emit("scale", x, multiplier=1, bits=1), 1)
    if kind == "constant":
        return model.emit("add_const", x, value=12345)
    if kind == "neg":
        return model.emit("neg", x)
    if kind == "transpose":
        return model.emit("transpose", x, axes=(0, 2, 1, 3))
    if kind == "reverse":
        return model.emit("reverse", x, axes=(3,))
    if kind == "relu":
        return model.relu(x, name)
    if kind == "residual":
        y = earlier[number % len(earlier)]
        return model.emit("add", x, y) if model.shape(y) == shape else x
    assert kind == "concat"
    y = earlier[number % len(earlier)]
    wide = model.emit("concat", x, y, axis=1)
    return model.emit("slice", wide, start=(0, 2, 0, 0), limit=(-1, 6, 4, 2), stride=(1, 1, 1, 1))


_KINDS = (
    "conv",
    "norm",
    "bias",
    "public",
    "weight",
    "pool",
    "half",
    "constant",
    "neg",
    "transpose",
    "reverse",
    "relu",
    "residual",
    "concat",
)


def _random_model(kinds: list[str]) -> tuple[Program, dict[str, np.ndarray]]:
    model = Model((4, 4, 2))
    x, earlier = model.x, [model.x]
    for number, kind in enumerate(kinds):
        x = _layer(model, x, earlier, kind, number)
        earlier.append(x)
    return model.finish(x)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=9))
def test_random_programs_keep_their_meaning(kinds: list[str]) -> None:
    program, arrays = _random_model(kinds)
    lowered, weights = lower(program, arrays)
    x = np.random.default_rng(2).uniform(-1, 1, (3, 4, 4, 2))
    exact = evaluate(program, arrays, x)
    np.testing.assert_allclose(evaluate(lowered, weights, x), exact, rtol=1e-9, atol=1e-6)
    allowed = 2.0**-16 * 16 * 2 ** len(kinds)
    np.testing.assert_allclose(run(program, arrays, x), exact, atol=allowed, rtol=0)
    np.testing.assert_allclose(run(lowered, weights, x), exact, atol=allowed, rtol=0)
    assert lower(lowered, weights)[0] == lowered
