"""Plain JAX functions: what becomes a weight, what is refused, and that they compute the same."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tercet
from tercet.errors import InputError, ModelError, UnsupportedOperation
from tercet.program.program import Role
from tests.frontend.evaluate import evaluate

RNG = np.random.default_rng(4)
W = RNG.normal(0, 1, (5, 3)).astype(np.float32)
B = RNG.normal(0, 1, 3).astype(np.float32)


def affine(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    return x @ w + b


def test_weights_are_named_by_parameter_and_secret() -> None:
    traced = tercet.trace(affine, (5,), W, B)
    assert traced.name == "affine"
    assert {i.name: i.role for i in traced.program.inputs} == {
        "input": Role.INPUT,
        "w": Role.WEIGHT,
        "b": Role.WEIGHT,
    }
    x = RNG.normal(0, 1, (4, 5))
    np.testing.assert_allclose(evaluate(traced, x), x @ W + B, atol=1e-4)


def test_captured_arrays_are_secret_weights() -> None:
    traced = tercet.trace(lambda x: jnp.tanh(x @ jnp.asarray(W) + B), (5,))
    roles = {i.role for i in traced.program.inputs if i.name != "input"}
    assert roles == {Role.WEIGHT}
    captured = [a for a in traced.arrays.values() if a.shape == W.shape]
    assert any(np.allclose(a, W, atol=1e-6) for a in captured)


def test_trees_of_weights() -> None:
    layers = [{"w": W, "b": B}, {"w": W[:3, :2], "b": B[:2]}]

    def network(x: jax.Array, layers: list[dict[str, jax.Array]]) -> jax.Array:
        for place, layer in enumerate(layers):
            with jax.named_scope(f"layer{place}"):
                x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x

    traced = tercet.trace(network, (5,), layers)
    assert "layers[0]['w']" in traced.arrays
    assert {i.source for i in traced.program.instructions} == {"layer0", "layer1"}
    x = RNG.normal(0, 1, (4, 5)).astype(np.float32)
    np.testing.assert_allclose(evaluate(traced, x), network(x, layers), atol=1e-4)


class Owner:
    def __init__(self) -> None:
        self.bias = np.float64(0.5)

    def score(self, x: jax.Array) -> jax.Array:
        return x + self.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.bias


def _closure(held: dict[str, np.ndarray]) -> Callable[..., object]:
    return lambda x: x + held["b"]


SECRET = np.float32(0.25)
_NUMBER = jnp.float32(0.1)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * SECRET,
        lambda x, number=_NUMBER: x * _NUMBER,
        functools.partial(lambda b, x: x + b, np.float64(2.0)),
        Owner().score,
        Owner(),
        _closure({"b": np.array(1.5)}),
    ],
)
def test_a_captured_single_number_is_refused(fn: Callable[..., object]) -> None:
    with pytest.raises(ModelError, match=r"captures the single number.*public constant"):
        tercet.trace(fn, (5,))


def test_a_single_number_may_be_a_weight() -> None:
    traced = tercet.trace(lambda x, scale: x * scale, (5,), np.float32(0.25))
    assert {i.name: i.role for i in traced.program.inputs}["scale"] is Role.WEIGHT


def _loop(x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda s: s.sum() < 10, lambda s: s + 1, x)


def _named(x: jax.Array) -> jax.Array:
    with jax.named_scope("wave"):
        return jnp.sin(x)


@pytest.mark.parametrize(
    ("fn", "kind", "words"),
    [
        (_loop, UnsupportedOperation, ("while", "fixed number")),
        (
            lambda x: jax.lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x),
            UnsupportedOperation,
            ("branch on a secret value", "both branches"),
        ),
        (lambda x: x if x.sum() > 0 else -x, ModelError, ("branches on its data", "jnp.where")),
        (_named, UnsupportedOperation, ("'wave'", "sine")),
        (lambda x: x - x.mean(0), ModelError, ("rows of a batch",)),
        (lambda x: x @ jnp.ones((4, 2)), ModelError, ("cannot be traced", "(rows, 5)")),
        (lambda x: (x, x), ModelError, ("2 outputs",)),
        (lambda x: jax.lax.complex(x, x), UnsupportedOperation, ("complex",)),
    ],
)
def test_what_cannot_run_is_refused(
    fn: Callable[..., object], kind: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(kind) as caught:
        tercet.trace(fn, (5,))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "weights", "words"),
    [
        ((None, 5), (), "one row"),
        ((0,), (), "one row"),
        ((5,), (np.array(["a"]),), "dtype"),
        ((5,), (np.array([1j]),), "dtype"),
    ],
)
def test_bad_shapes_and_weights(
    shape: tuple[int, ...], weights: tuple[np.ndarray, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        tercet.trace(lambda x, *w: x, shape, *weights)


def test_a_function_must_be_traced_first() -> None:
    with pytest.raises(ModelError, match=r"tercet\.trace"):
        tercet.lower(affine)
