"""Each pass on the smallest program that shows what it does and where it stops."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tercet.errors import ProgramError
from tercet.program.builder import Builder
from tercet.program.passes import lower, narrow
from tercet.program.passes.drop_dead import drop_dead
from tercet.program.passes.finish_output import finish_output
from tercet.program.passes.fold_pools import fold_pools
from tercet.program.passes.fold_scales import fold_scales
from tercet.program.passes.fuse_relu import fuse_relu
from tercet.program.passes.merge_biases import merge_biases
from tercet.program.passes.merge_equal import merge_equal
from tercet.program.passes.rewrite import Rewrite
from tercet.program.passes.sink_truncations import sink_truncations
from tercet.program.program import Program, Role
from tercet.program.verify import MAX_NAME, verify
from tests.program.lowering_models import Model
from tests.program.real_numbers import evaluate


def ops(program: Program) -> list[str]:
    """Operations with their shift or bits, those of a linear layer's shape left bare."""
    return [
        f"{i.op} {i.attrs['shift']}" if "shift" in i.attrs else i.op for i in program.instructions
    ]


def names(program: Program) -> list[str]:
    return [i.name for i in program.inputs]


def same(model: Model, output: int, lowered: tuple[Program, dict[str, np.ndarray]]) -> None:
    """Check in float64 that ``lowered`` means what the model means."""
    program, arrays = model.finish(output)
    x = np.random.default_rng(5).uniform(-1, 1, (2, *program.input_shape()[1:]))
    verify(lowered[0])
    np.testing.assert_allclose(
        evaluate(*lowered, x), evaluate(program, arrays, x), rtol=1e-12, atol=1e-12
    )


def folded(model: Model, output: int) -> Program:
    """Fold, prune, check the meaning."""
    result = drop_dead(*fold_scales(*model.finish(output)))
    same(model, output, result)
    return result[0]


# --- fold_scales ------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_batch_norm_folds_into_any_convolution(groups: int) -> None:
    model = Model((5, 5, 4))
    x = model.bias(model.conv(model.x, "conv", 8, groups=groups), "conv")
    program = folded(model, model.batch_norm(x, "bn"))
    assert ops(program) == ["conv", "truncate 16", "add", "add"]
    assert names(program) == ["x", "conv/kernel*bn/gamma", "conv/bias*bn/gamma", "bn/beta"]


def test_batch_norm_folds_into_a_dense_layer() -> None:
    model = Model((7,))
    x = model.bias(model.dense(model.x, "dense", 3), "dense")
    assert ops(folded(model, model.batch_norm(x, "bn"))) == ["matmul", "truncate 16", "add", "add"]


def test_batch_norms_in_a_row_fold_into_one_kernel() -> None:
    model = Model((5, 5, 1))
    x = model.batch_norm(model.batch_norm(model.conv(model.x, "c", 2), "a"), "b")
    program = folded(model, x)
    assert names(program) == ["x", "c/kernel*a/gamma*b/gamma", "a/beta*b/gamma", "b/beta"]


def test_a_factor_folds_through_pool_transpose_and_reshape() -> None:
    model = Model((5, 5, 1))
    x = model.bias(model.conv(model.x, "c", 6), "c")
    x = model.emit("transpose", model.average_pool(model.emit("neg", x), "p", 3), axes=(0, 3, 1, 2))
    x = model.emit("reshape", x, shape=(-1, 6, 1))
    gamma = model.array("gamma", (6, 1))
    x = model.truncate(model.emit("mul", gamma, x))
    program = folded(model, x)
    assert "mul" not in ops(program)


def test_a_factor_stays_where_channels_are_mixed() -> None:
    model = Model((5, 5, 1))
    x = model.flatten(model.conv(model.x, "c", 6))
    assert "mul" in ops(folded(model, model.batch_norm(x, "bn")))


@pytest.mark.parametrize("place", ["conv", "truncate", "bias"])
def test_a_factor_stays_if_anything_else_uses_the_value(place: str) -> None:
    model = Model((5, 5, 1))
    x = model.bias(model.conv(model.x, "c", 2), "c")
    norm = model.batch_norm(x, "bn")
    other = {"conv": model.truncate(x - 2), "truncate": x - 1, "bias": x}[place]
    assert "mul" in ops(folded(model, model.emit("add", norm, other)))


def test_a_weight_does_not_fold_into_a_public_kernel() -> None:
    # The product with a public array is local; with a secret one it would need a resend.
    model = Model((4,))
    x = model.truncate(model.emit("matmul", model.x, model.array("k", (4, 3), Role.PUBLIC)))
    assert "mul" in ops(folded(model, model.batch_norm(x, "bn")))


def test_a_kernel_that_two_layers_share_is_kept_for_the_other() -> None:
    model = Model((4,))
    kernel = model.array("k", (4, 4))
    x = model.truncate(model.emit("matmul", model.x, kernel))
    x = model.relu(model.batch_norm(x, "bn"))
    x = model.truncate(model.emit("matmul", x, kernel))
    assert {"k", "k*bn/gamma"} <= set(names(folded(model, x)))


def test_a_constant_keeps_its_power_of_two() -> None:
    model = Model((6, 6, 1))
    x = model.average_pool(model.bias(model.conv(model.x, "c", 2), "c"), "p", 3)
    program = folded(model, x)
    (scale,) = (i for i in program.instructions if i.op == "scale")
    assert scale.attrs == {"multiplier": 1, "bits": 4}  # 1/9 = 1.777 / 16
    assert ops(program)[-1] == "truncate 4"


@pytest.mark.parametrize(("multiplier", "bits", "left"), [(3, 0, []), (-1, 1, ["scale"])])
def test_a_large_or_negative_constant(multiplier: int, bits: int, left: list[str]) -> None:
    model = Model((4,))
    x = model.emit("scale", model.dense(model.x, "d", 2), multiplier=multiplier, bits=bits)
    x = model.truncate(x, bits) if bits else x
    program = folded(model, x)
    assert [o for o in ops(program) if o == "scale"] == left


def test_a_power_of_two_does_not_fold() -> None:
    model = Model((5, 5, 1))
    x = model.average_pool(model.conv(model.x, "c", 2), "p", 2)
    assert names(folded(model, x)) == ["x", "c/kernel"]


def test_long_names_stay_legal_and_apart() -> None:
    rewrite = Rewrite(*Model((2,)).finish(-1))
    array = np.ones(2)
    first = rewrite.declare("a" * 300, Role.WEIGHT, array, 16)
    assert rewrite.declare("a" * 300, Role.WEIGHT, array, 16) == first
    assert rewrite.declare("a" * 300, Role.WEIGHT, array * 2, 16) != first
    assert rewrite.declare("a" * 301, Role.WEIGHT, array, 16) != first
    assert len(rewrite.arrays) == 3
    assert all(len(name) <= MAX_NAME for name in rewrite.arrays)


# --- merge_biases -----------------------------------------------------------------------------


def test_biases_in_a_row_become_one() -> None:
    model = Model((3,))
    x = model.bias(model.x, "a")
    x = model.emit("sub", x, model.array("mask", (3,), Role.PUBLIC))
    x = model.bias(x, "b")
    program, arrays = drop_dead(*merge_biases(*model.finish(x)))
    same(model, x, (program, arrays))
    assert ops(program) == ["add"]
    assert names(program) == ["x", "a/bias-mask+b/bias"]
    assert program.inputs[1].role is Role.WEIGHT


def test_public_biases_stay_public() -> None:
    model = Model((3,))
    x = model.emit("add", model.x, model.array("a", (3,), Role.PUBLIC))
    x = model.emit("add", model.array("b", (1,), Role.PUBLIC), x)
    program, arrays = drop_dead(*merge_biases(*model.finish(x)))
    same(model, x, (program, arrays))
    assert [i.role for i in program.inputs] == [Role.INPUT, Role.PUBLIC]


def test_a_biased_value_in_use_stays() -> None:
    model = Model((3,))
    x = model.bias(model.x, "a")
    x = model.emit("add", model.bias(x, "b"), x)
    program, arrays = drop_dead(*merge_biases(*model.finish(x)))
    same(model, x, (program, arrays))
    assert ops(program) == ["add", "add", "add"]


# --- sink_truncations -------------------------------------------------------------------------


def sunk(model: Model, output: int) -> Program:
    result = drop_dead(*sink_truncations(*model.finish(output)))
    same(model, output, result)
    return result[0]


def test_two_products_are_truncated_once() -> None:
    model = Model((4,))
    x = model.emit("add", model.dense(model.x, "a", 3), model.dense(model.x, "b", 3))
    assert ops(sunk(model, x)) == ["matmul", "matmul", "add", "truncate 16"]


def test_a_residual_is_lifted() -> None:
    model = Model((4,))
    x = model.emit("sub", model.x, model.dense(model.x, "a", 4))
    assert ops(sunk(model, x)) == ["matmul", "shift_left", "sub", "truncate 16"]


def test_truncations_of_different_shifts_meet_at_the_larger() -> None:
    model = Model((4,))
    half = model.truncate(model.emit("scale", model.x, multiplier=3, bits=2), 2)
    x = model.emit("add", half, model.dense(model.x, "a", 4))
    assert ops(sunk(model, x)) == ["scale", "matmul", "shift_left", "add", "truncate 16"]


def test_the_program_does_not_depend_on_the_size_of_a_bias() -> None:
    digests = set()
    for value in (0.0, 16_000.0):
        model = Model((4,))
        x = model.bias(model.dense(model.x, "a", 3), "a")
        model.arrays["a/bias"][1] = value
        digests.add(sunk(model, x).digest())
    assert len(digests) == 1


def test_constants_are_lifted() -> None:
    model = Model((4,))
    x = model.emit("add_const", model.dense(model.x, "a", 3), value=-5)
    program = sunk(model, x)
    assert program.instructions[1].attrs == {"value": -5 << 16}


def test_a_sum_without_head_room_keeps_its_truncation_above() -> None:
    model = Model((5, 5, 1), scale=24)
    x = model.relu(model.average_pool(model.conv(model.x, "c", 2), "p"))
    assert ops(sunk(model, x)) == [
        "conv",
        "truncate 24",
        "window_sum",
        "scale",
        "truncate 2",
        "relu 0",
    ]


@pytest.mark.parametrize(("count", "sinks"), [(1 << 16, True), ((1 << 16) + 1, False)])
def test_the_head_room_of_a_sum(count: int, sinks: bool) -> None:
    model = Model((count, 1))
    x = model.truncate(model.emit("mul", model.x, model.array("w", (1,))))
    program = sunk(model, model.emit("sum", x, axes=(1,)))
    assert ops(program)[-1] == ("truncate 16" if sinks else "sum")


def test_padding_does_not_multiply_truncations() -> None:
    model = Model((4, 4, 1))
    x = model.conv(model.x, "a", 2)
    x = model.emit("pad", x, low=(0, 1, 1, 0), high=(0, 1, 1, 0), interior=(0,) * 4)
    program = sunk(model, model.conv(x, "b", 2))
    assert ops(program) == ["conv", "truncate 16", "pad", "conv", "truncate 16"]


def test_a_comparison_takes_the_truncation_even_past_padding() -> None:
    model = Model((4, 4, 1))
    x = model.conv(model.x, "a", 2)
    x = model.emit("pad", x, low=(0, 1, 1, 0), high=(0, 1, 1, 0), interior=(0,) * 4)
    assert ops(sunk(model, model.relu(x))) == ["conv", "pad", "truncate 16", "relu 0"]


def test_broadcasting_an_addition_does_not_multiply_truncations() -> None:
    model = Model((4,))
    x = model.emit("reshape", model.dense(model.x, "a", 1), shape=(-1, 1))
    x = model.emit("add", x, model.x)
    assert ops(sunk(model, x)) == ["matmul", "reshape", "truncate 16", "add"]


def test_concatenated_products_are_truncated_together() -> None:
    model = Model((4,))
    parts = [model.dense(model.x, n, 3) for n in "ab"]
    x = model.emit("concat", *parts, axis=1)
    assert ops(sunk(model, x)) == ["matmul", "matmul", "concat", "truncate 16"]


def test_different_forms_are_not_concatenated_untruncated() -> None:
    model = Model((4,))
    scaled = model.truncate(model.emit("scale", model.x, multiplier=3, bits=16))
    x = model.emit("concat", model.dense(model.x, "a", 3), scaled, axis=1)
    assert ops(sunk(model, x))[-1] == "concat"


def test_a_value_used_twice_is_truncated_once() -> None:
    model = Model((4,))
    x = model.dense(model.x, "a", 4)
    x = model.emit("add", model.relu(x), x)
    assert ops(sunk(model, x)) == ["matmul", "truncate 16", "relu 0", "add"]


# --- fold_pools -------------------------------------------------------------------------------


def pooled(model: Model, output: int) -> Program:
    result = drop_dead(*fold_pools(*sink_truncations(*model.finish(output))))
    same(model, output, result)
    return result[0]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_pool_folds_into_any_convolution(groups: int, stride: int, dilation: int) -> None:
    model = Model((11, 12, 4))
    x = model.conv(model.x, "conv", 8, groups=groups, stride=stride, dilation=dilation)
    program = pooled(model, model.average_pool(model.bias(x, "conv"), "p"))
    assert ops(program) == ["conv", "add", "scale", "truncate 18"]
    assert names(program)[1:] == ["conv/kernel/pooled", "conv/bias@32/pooled"]
    assert program.inputs[1].type.shape[:2] == (stride + 3, 4 if dilation == 1 else 6)


def test_a_pool_stays_where_folding_costs_products() -> None:
    model = Model((11, 12, 4))
    pool = {"window": (1, 3, 3, 1), "strides": (1, 1, 1, 1), "low": (0,) * 4, "high": (0,) * 4}
    x = model.emit("window_sum", model.conv(model.x, "conv", 8, size=1), **pool)
    assert "window_sum" in ops(pooled(model, x))


@pytest.mark.parametrize("why", ["padding", "other use", "bias a position", "kernel computed"])
def test_a_pool_stays_where_it_cannot_fold(why: str) -> None:
    model = Model((9, 9, 2))
    x = model.conv(model.x, "conv", 2)
    if why == "bias a position":
        x = model.emit("add", x, model.array("map", (7, 7, 2)))
    if why == "kernel computed":
        k = model.emit("neg", model.array("k", (3, 3, 2, 2)))
        attrs = {"strides": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
        attrs |= {"input_dilation": (1, 1), "kernel_dilation": (1, 1)}
        x = model.truncate(model.emit("conv", model.x, k, **attrs))
    low = (0, 1, 0, 0) if why == "padding" else (0, 0, 0, 0)
    pool = {"window": (1, 2, 2, 1), "strides": (1, 2, 2, 1), "low": low, "high": low}
    y = model.emit("window_sum", x, **pool)
    if why == "other use":
        first = {"start": (0,) * 4, "stride": (1,) * 4, "limit": (-1, *model.shape(y)[1:])}
        y = model.emit("add", y, model.emit("slice", x, **first))
    assert "window_sum" in ops(pooled(model, y))


# --- fuse_relu, merge_equal, drop_dead, finish_output -----------------------------------------


def test_a_relu_takes_over_its_truncation() -> None:
    model = Model((4,))
    x = model.relu(model.dense(model.x, "a", 4))
    program, _ = drop_dead(*fuse_relu(*model.finish(x)))
    assert ops(program) == ["matmul", "relu 16"]
    assert program.instructions[1].attrs["bits"] == 46


def test_so_does_a_comparison() -> None:
    model = Model((4,))
    bit = model.emit("negative", model.dense(model.x, "a", 4), shift=0, bits=30)
    program, _ = drop_dead(*fuse_relu(*model.finish(model.emit("select", bit, model.x))))
    assert ops(program) == ["matmul", "negative 16", "select"]
    assert program.instructions[1].attrs["bits"] == 30


def test_a_truncation_in_use_elsewhere_stays() -> None:
    model = Model((4,))
    x = model.dense(model.x, "a", 4)
    x = model.emit("add", model.relu(x), x)
    assert ops(fuse_relu(*model.finish(x))[0]) == ["matmul", "truncate 16", "relu 0", "add"]


def test_equal_instructions_are_merged() -> None:
    model = Model((4,))
    y = model.array("y", (4,))
    a, b = model.emit("add", model.x, y), model.emit("add", y, model.x)
    x = model.emit("sub", model.relu(a), model.relu(b))
    assert ops(merge_equal(*model.finish(x))[0]) == ["add", "relu 0", "sub"]


def test_attributes_keep_instructions_apart() -> None:
    model = Model((4,))
    a, b = (model.emit("add_const", model.x, value=v) for v in (1, 2))
    assert len(merge_equal(*model.finish(model.emit("add", a, b)))[0].instructions) == 3


def test_dead_code_and_its_weights_go() -> None:
    builder = Builder(16)
    builder.input("unused", Role.WEIGHT, (3,))
    w = builder.input("w", Role.WEIGHT, (1, 3))
    builder.input("x", Role.INPUT, (-1, 3))
    builder.emit("neg", w)
    out = builder.emit("broadcast", w, shape=(-1, 3))
    program, arrays = drop_dead(builder.finish(out), {"w": np.zeros((1, 3)), "unused": np.zeros(3)})
    assert names(program) == ["x", "w"]
    assert ops(program) == ["broadcast"]
    assert set(arrays) == {"w"}


def test_the_output_is_reshared_once() -> None:
    model = Model((4,))
    once = finish_output(*model.finish(model.relu(model.x)))
    assert ops(once[0]) == ["relu 0", "reshare"]
    assert finish_output(*once)[0] == once[0]


def test_a_truncated_output_is_truncated_afresh() -> None:
    model = Model((4,))
    product = model.emit("matmul", model.x, model.array("k", (4, 4)))
    truncated = model.truncate(product)
    kept = finish_output(*model.finish(truncated))
    assert ops(drop_dead(*kept)[0])[1:] == ["truncate_fresh 16"]
    assert finish_output(*kept)[0] == kept[0]


def test_an_output_that_is_used_elsewhere_is_truncated_once() -> None:
    model = Model((4,))
    program, _ = model.finish(model.relu(model.truncate(model.emit("mul", model.x, model.x))))
    value = program.outputs[0] - 1
    both = msgspec.structs.replace(program, outputs=(value, program.outputs[0]))
    found, _ = finish_output(both, {})
    assert ops(found)[1:] == ["truncate 16", "relu 0", "reshare", "reshare"]


def test_an_output_of_another_scale_is_brought_to_f() -> None:
    model = Model((4,))
    product = model.emit("matmul", model.x, model.array("k", (4, 4)))
    assert ops(finish_output(*model.finish(product))[0])[1:] == ["truncate_fresh 16"]
    low = model.emit("truncate", model.x, shift=4)
    assert ops(finish_output(*model.finish(low))[0])[-2:] == ["shift_left", "reshare"]


def test_an_input_may_be_the_output() -> None:
    assert ops(lower(*Model((4,)).finish(-1))[0]) == ["reshare"]


def test_a_bit_or_a_public_value_is_no_output() -> None:
    model = Model((4,))
    with pytest.raises(ProgramError, match="not a secret number"):
        lower(*model.finish(model.emit("negative", model.x, shift=0, bits=62)))
    with pytest.raises(ProgramError, match="not a secret number"):
        lower(*model.finish(model.array("p", (4,), Role.PUBLIC)))


# --- narrow -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "bits"),
    [
        (0, 24),
        ((1 << 19) - 1, 24),
        (1 << 19, 28),
        ((1 << 23) - 1, 28),
        (1 << 23, 32),
        (1 << 27, 40),
        (1 << 35, 46),
        (1 << 60, 46),
    ],
)
def test_windows_of_a_sign(bound: int, bits: int) -> None:
    model = Model((4,))
    program, _ = lower(*model.finish(model.relu(model.dense(model.x, "a", 4))))
    assert narrow(program, {1: bound}).instructions[1].attrs["bits"] == bits


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("reduce_max", {"axes": (1,)}),
        ("softmax", {"axis": 1}),
        ("max_pool", {"window": (1, 2), "strides": (1, 2), "low": (0, 0), "high": (0, 0)}),
        ("maximum", {}),
    ],
)
def test_a_difference_takes_one_bit_more(op: str, attrs: dict[str, int | tuple[int, ...]]) -> None:
    model = Model((4,))
    args = (model.x,) * (2 if op == "maximum" else 1)
    program, _ = model.finish(model.emit(op, *args, bits=62, **attrs))
    for bound, bits in (((1 << 18) - 1, 24), (1 << 18, 28), (1 << 43, 62)):
        assert narrow(program, {0: bound}).instructions[0].attrs["bits"] == bits


def test_no_bound_leaves_the_window() -> None:
    program, _ = Model((4,)).finish(-1)
    assert narrow(program, {}) == program


@pytest.mark.parametrize("number", [-1, 0, 5])
def test_a_bound_for_something_else_is_refused(number: int) -> None:
    model = Model((4,))
    program, _ = model.finish(model.emit("neg", model.x))
    with pytest.raises(ProgramError, match="compares nothing"):
        narrow(program, {number: 1})
