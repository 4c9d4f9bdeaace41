"""Tracing plain JAX functions: any order of axes, what is recognised, and what must not be."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tercet.frontend.jax import trace
from tercet.program.program import Role
from tests.frontend.evaluate import evaluate

RNG = np.random.default_rng(3)
W = RNG.normal(0, 1, (4, 3, 2)).astype(np.float32)
KERNEL = RNG.normal(0, 1, (5, 2, 3, 2)).astype(np.float32)  # O, I, H, W
SQUARE = RNG.normal(0, 1, (4, 4)).astype(np.float32)


@jax.custom_vjp
def _custom(x: jax.Array) -> jax.Array:
    return x * 3.0


_custom.defvjp(lambda x: (_custom(x), None), lambda _, g: (g * 3.0,))


def _convolve(x: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x.transpose(1, 2, 3, 0),
        KERNEL,
        (1, 2),
        [(1, 0), (-1, 2)],
        lhs_dilation=(2, 1),
        rhs_dilation=(1, 2),
        dimension_numbers=("CHWN", "OIHW", "HNCW"),
    ).transpose(1, 0, 2, 3)


def _softmax(x: jax.Array) -> jax.Array:
    e = jnp.exp(x)
    return e / e.sum(1, keepdims=True)


def _update(x: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(x, x[:, :2] * 2, (0, 1))


FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[[jax.Array], jax.Array]]] = {
    "secret by known": ((3, 4), lambda x: jnp.einsum("bij,jik->bk", x, W)),
    "known by secret": ((3, 4), lambda x: jnp.einsum("jik,bij->kb", W, x).T),
    "known by secret, free axes": ((3, 4), lambda x: jnp.einsum("pj,bij->bpi", SQUARE, x)),
    "known with batch axes": ((3, 4), lambda x: jnp.einsum("jik,bij->bik", W, x)),
    "vector by matrix": ((4,), lambda x: x @ SQUARE),
    "vector by vector": ((4,), lambda x: x @ SQUARE[0]),
    "secret by secret": ((3, 4), lambda x: jnp.einsum("bij,bkj->bik", x, x * 2)),
    "outer product": ((4,), lambda x: jnp.einsum("bi,bj->bij", x, x)),
    "convolution in another order": ((2, 5, 7), _convolve),
    "softmax": ((3, 4), lambda x: jax.nn.softmax(x, axis=1)),
    "softmax of two axes": ((3, 4, 2), lambda x: jax.nn.softmax(x, axis=(1, 3))),
    "softmax spelt out": ((4,), _softmax),
    "masked": ((4,), lambda x: jnp.where(jnp.arange(4) < 2, x, -x)),
    "masked by constants": ((4,), lambda x: jnp.where(jnp.arange(4) < 2, x, -1e3)),
    "chosen": ((4,), lambda x: jnp.where(x > 0.5, 2.0, -1.0)),
    "chosen from secrets": ((4,), lambda x: jnp.where(x < x[:, ::-1], x, x * x)),
    "logic": ((4,), lambda x: jnp.where(~((x >= 0) | (x < -1)), x, 0.5)),
    "bounds": ((4,), lambda x: jnp.minimum(0.5, jnp.maximum(x, jnp.arange(4) / 4 - 1))),
    "clamp": ((4,), lambda x: lax.clamp(-0.5, x, 0.5)),
    "no bound": ((4,), lambda x: jnp.minimum(jnp.maximum(x, -jnp.inf), jnp.inf)),
    "powers": ((4,), lambda x: x**2 + x**5 + jnp.square(x)),
    "absolute": ((4,), jnp.abs),
    "smallest": ((3, 4), lambda x: x.min(axis=1)),
    "update": ((4,), _update),
    "strided slice": ((5,), lambda x: lax.slice(x, (0, 1), x.shape, (1, 2))),
    "dynamic slice": ((4,), lambda x: lax.dynamic_slice(x, (0, 3), (x.shape[0], 2))),
    "filled padding": ((4,), lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=0.3)),
    "cropping padding": ((4,), lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 1)))),
    "subtracted from": ((4,), lambda x: 1.0 - x / 3 - SQUARE[1] * x),
    "matrix form": ((4,), lambda x: (x[:, :, None] - x[:, None, :]).sum(2)),
    "custom derivative": ((4,), _custom),
    "remat": ((4,), jax.checkpoint(lambda x: x * 2.5)),
    "whole exponentials": ((4,), lambda x: jnp.exp2(x) + jnp.expm1(x) + jnp.log1p(jnp.abs(x))),
    "roots": ((4,), lambda x: jnp.sqrt(x * x + 1) - lax.rsqrt(jnp.exp(x)) + lax.erf(x)),
    "real powers": ((4,), lambda x: (x * x + 1) ** 1.7 + (jnp.abs(x) + 1) ** -2 + x**3),
    "quotients": ((4,), lambda x: x / (x - 7) + 2 / (x + 8) - x / jnp.exp(x).sum(1, keepdims=True)),
    "softplus": ((4,), jax.nn.softplus),
    "gates": ((4,), lambda x: jax.nn.silu(x) + jax.nn.gelu(x) - jax.nn.gelu(x, approximate=False)),
    "mish": ((4,), jax.nn.mish),
    "log softmax": ((4,), lambda x: jax.nn.log_softmax(x, axis=1)),
    "log of sums": ((4,), lambda x: jnp.logaddexp(x, 1.0) + jax.nn.logsumexp(x, 1)[:, None]),
    "sign": ((4,), lambda x: jnp.sign(x) + lax.erfc(x)),
    "equality": ((4,), lambda x: jnp.where(jnp.round(SQUARE[0]) == 0, x, -x)),
    "more logic": ((4,), lambda x: jnp.where((x > 0) & ~((x > 1) | (x < -1)), x, 1.0)),
    "any": ((4,), lambda x: x * jnp.any(x > 1, axis=1, keepdims=True)),
    "sorted": ((5,), lambda x: jnp.sort(x, axis=1)),
    "running sums": ((5,), lambda x: jnp.cumsum(x, 1) - lax.cumsum(x, 1, reverse=True)),
    "rows": ((5, 3), lambda x: x[:, np.array([4, 0, 0])]),
    "columns": ((5, 3), lambda x: jnp.take(x, np.array([[2, 0], [1, 1]]), axis=2)),
    "steps": (
        (5, 3),
        lambda x: lax.scan(lambda s, r: (s * 0.5 + r, s), x[:, 0], jnp.moveaxis(x, 1, 0))[0],
    ),
    "steps back": (
        (4, 3),
        lambda x: jnp.moveaxis(
            lax.scan(
                lambda s, r: (s + r, jnp.tanh(s)),
                jnp.zeros_like(x[:, 0]),
                jnp.moveaxis(x, 1, 0),
                reverse=True,
            )[1],
            0,
            1,
        ),
    ),
    "counted loop": ((4,), lambda x: lax.fori_loop(0, 3, lambda i, s: s * 0.5 + x, x)),
    "masked softmax": (
        (4, 4),
        lambda x: jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((4, 4))) > 0, x, -jnp.inf)),
    ),
    "cumulative": ((4,), lambda x: x @ jnp.tril(jnp.ones((4, 4)))),
    "mean": ((3, 4), lambda x: x.mean(axis=(1, 2))),
    "window of ones": (
        (8, 1),
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), (1, 2, 1), "SAME"),
    ),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_program_computes_the_function(case: str) -> None:
    shape, function = FUNCTIONS[case]
    x = RNG.normal(0, 1, (4, *shape)).astype(np.float32)
    traced = trace(function, shape)
    for batch in (1, 4):
        expected = np.asarray(function(x[:batch]))
        got = evaluate(traced, x[:batch])
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)


def _divided(divisor: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    def function(x: jax.Array) -> jax.Array:
        e = jnp.exp(x)
        return e / divisor(e)

    return function


NOT_SOFTMAX: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sums of other rows": _divided(lambda e: e.sum(2)[:, None, :]),
    "sums turned around": _divided(lambda e: e.sum(2, keepdims=True).reshape(-1, 1, 4)),
    "unsummed": _divided(lambda e: e),
    "sums of something else": lambda x: jnp.exp(x) / jnp.exp(2 * x).sum(1, keepdims=True),
    "half": _divided(lambda e: e.sum(1, keepdims=True) + 1),
}


@pytest.mark.parametrize("case", NOT_SOFTMAX)
def test_what_only_looks_like_softmax_is_not_taken_for_it(case: str) -> None:
    x = RNG.normal(0, 1, (2, 4, 4)).astype(np.float32)
    traced = trace(NOT_SOFTMAX[case], (4, 4))
    assert not any(i.op == "softmax" for i in traced.program.instructions)
    expected = np.asarray(NOT_SOFTMAX[case](x))
    np.testing.assert_allclose(evaluate(traced, x), expected, atol=1e-4, rtol=1e-4)


def test_shifted_by_another_maximum_is_softmax_of_the_difference() -> None:
    # softmax(x - m) with m not constant along the axis is no softmax of x.
    def function(x: jax.Array) -> jax.Array:
        e = jnp.exp(x - x.max(2, keepdims=True))
        return e / e.sum(1, keepdims=True)

    x = RNG.normal(0, 1, (2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(evaluate(trace(function, (4, 4)), x), function(x), atol=1e-5)


def test_captured_arrays_are_weights_and_literals_public() -> None:
    traced = trace(lambda x: x @ SQUARE * jnp.arange(4.0), (4,))
    ((_, weight),) = traced.program.named(Role.WEIGHT)
    ((_, ramp),) = traced.program.named(Role.PUBLIC)
    np.testing.assert_array_equal(traced.arrays[weight.name], SQUARE)
    np.testing.assert_array_equal(traced.arrays[ramp.name], np.arange(4.0))
    assert ramp.type.scale == 0


@pytest.mark.parametrize("factor", [0.5, -0.25, 3.0, 1 / 255, 1 / 9, 1e-4, 0.0, -7.3, 1000.25])
def test_public_factor_is_precise_and_within_the_ring(factor: float) -> None:
    program = trace(lambda x: x * factor, (4,)).program
    scale, *rest = program.instructions
    assert scale.op == "scale"
    multiplier, bits = scale.attrs["multiplier"], scale.attrs["bits"]
    exact = float(np.float32(factor))
    assert abs(multiplier / 2**bits - exact) <= abs(exact) * 2**-20
    assert scale.type.scale <= 48
    assert [i.op for i in rest] == (["truncate"] if bits else [])


def test_halving_is_one_bit() -> None:
    scale, truncate = trace(lambda x: x / 4, (4,)).program.instructions
    assert (scale.attrs, truncate.attrs) == ({"multiplier": 1, "bits": 2}, {"shift": 2})


def test_products_of_secrets_are_truncated_at_once() -> None:
    program = trace(lambda x: (x @ SQUARE) * x + x * x, (4,)).program
    following = {i.args[0]: i.op for i in program.instructions if i.op == "truncate"}
    for number, instruction in enumerate(program.instructions, len(program.inputs)):
        if instruction.op in ("mul", "matmul", "conv"):
            assert following[number] == "truncate"
