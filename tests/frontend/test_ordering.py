"""Sorting, the largest and their places inside models: what NumPy gives, exactly, by three parties.

Few different values, so that ties are the rule: the first of equal numbers comes first.
"""

from __future__ import annotations

from collections.abc import Callable

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
from tercet.frontend.keras import trace_keras
from tercet.frontend.torch import trace_torch
from tercet.frontend.traced import Traced
from tests.coverage.run import by_three, in_the_clear
from tests.frontend.evaluate import evaluate
from tests.frontend.models import one_layer
from tests.frontend.test_torch import Function

RNG = np.random.default_rng(6)
X = RNG.integers(-3, 4, (5, 4, 7)).astype(np.float32)
TABLE = RNG.normal(0, 1, (7, 3)).astype(np.float32).round(3)

Of = Callable[[jax.Array], jax.Array]

PLACES: dict[str, Of] = {
    "argmax": lambda x: jnp.argmax(x, -1),
    "argmax of a middle axis": lambda x: jnp.argmax(x, 1),
    "argmin": lambda x: jnp.argmin(x, 2),
    "argmin, axis kept": lambda x: jnp.argmin(x, 1, keepdims=True),
    "first that is true": lambda x: jnp.argmax(x > 1, 2),
    "top-k": lambda x: jax.lax.top_k(x, 3)[0],
    "places of top-k": lambda x: jax.lax.top_k(x, 3)[1],
    "sort": lambda x: jnp.sort(x, 1),
    "sort, falling": lambda x: jnp.sort(x, 2, descending=True),
    "argsort": lambda x: jnp.argsort(x, 2),
    "argsort of a middle axis": lambda x: jnp.argsort(x, 1),
    "argsort, falling": lambda x: jnp.argsort(x, 2, descending=True),
    "median": lambda x: jnp.median(x, 2),
    "arithmetic on a place": lambda x: jnp.argmax(x, 2) * 3 - 1,
    "products of places": lambda x: (
        jnp.argmax(x, 1) * jnp.argmin(x, 1) == jnp.array([0, 1, 2, 3, 4, 6, 2])
    ).astype(jnp.float32),
    "places compared": lambda x: (
        jnp.argmax(x, 1) * jnp.argmin(x, 1) >= jnp.array([0, 1, 2, 3, 4, 6, 2])
    ).astype(jnp.float32),
    "one-hot of a place": lambda x: jax.nn.one_hot(jnp.argmax(x, 2), 7),
    "rows of a table": lambda x: jnp.asarray(TABLE)[jnp.argmax(x, 2)],
    "columns of a table": lambda x: jnp.moveaxis(jnp.asarray(TABLE.T)[:, jnp.argmax(x, 2)], 0, 1),
    "along an axis": lambda x: jnp.take_along_axis(x, jnp.argmin(x, 2, keepdims=True), 2),
    "along a middle axis": lambda x: jnp.take_along_axis(x, jnp.argsort(-x, 1), 1),
    "some rows of each": lambda x: jax.vmap(lambda a, i: a[:, i])(x, jnp.argsort(x[:, 1], 1)),
    "repeated": lambda x: jnp.argmax(jnp.tile(x, (1, 2, 3)), 2),
    "keras argmax": lambda x: keras.ops.argmax(x, axis=2),
    "keras argmin": lambda x: keras.ops.argmin(x, axis=2),
    "keras argsort": lambda x: keras.ops.argsort(x, axis=1),
    "keras top_k": lambda x: keras.ops.top_k(x, 2)[1],
    "keras sort": lambda x: keras.ops.sort(x, axis=1),
}


def compare(traced: Traced, x: np.ndarray, exact: np.ndarray, atol: float = 0) -> None:
    """Hold the program to ``exact``, in float64, in the clear and by three parties."""
    for got in (evaluate(traced, x), in_the_clear(traced, x), by_three(traced, x)):
        np.testing.assert_allclose(got, exact, atol=atol, rtol=0)


@pytest.mark.parametrize("name", PLACES)
def test_functions_of_jax_and_keras(name: str) -> None:
    function = PLACES[name]
    exact = np.asarray(function(jnp.asarray(X)))
    compare(tercet.trace(function, X.shape[1:]), X, exact, 2.0**-17)


TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "argmax": lambda x: x.argmax(2),
    "argmin": lambda x: x.argmin(1, keepdim=True),
    "max": lambda x: x.max(2).values + x.max(2).indices,
    "min": lambda x: x.min(2).indices,
    "topk": lambda x: x.topk(3, 1).values,
    "topk of the smallest": lambda x: x.topk(2, largest=False).values,
    "sort": lambda x: x.sort(dim=2, stable=True).values,
    "places of sort": lambda x: x.sort(dim=2, stable=True).indices,
    "places and values": lambda x: torch.cat(x.sort(dim=2, stable=True), 1),
    "gather": lambda x: x.gather(2, x.argsort(dim=2, stable=True)),
    "a table": lambda x: torch.from_numpy(TABLE)[x.argmax(2)],
    "argsort, falling": lambda x: x.argsort(dim=1, descending=True, stable=True),
}


@pytest.mark.parametrize("name", TORCH)
def test_functions_of_torch(name: str) -> None:
    x = torch.from_numpy(X)
    exact = TORCH[name](x).numpy()
    compare(trace_torch(Function(TORCH[name]), x), X, exact, 2.0**-17)


def test_places_of_topk_of_torch_where_nothing_is_equal() -> None:
    x = RNG.permutation(3 * 40).reshape(3, 40).astype(np.float32) - 60
    exact = torch.from_numpy(x).topk(5).indices.numpy()
    compare(trace_torch(Function(lambda x: x.topk(5).indices), torch.from_numpy(x)), x, exact)


class _HardAttention(L.Layer):
    """Each query reads the value of the key nearest to it: argmax in the place of softmax."""

    def call(self, x: object) -> object:
        scores = keras.ops.einsum("bqd,bkd->bqk", x, x[:, ::-1])
        chosen = keras.ops.one_hot(keras.ops.argmax(scores, -1), 4)
        return keras.ops.matmul(chosen, x)


def test_hard_attention() -> None:
    model = one_layer((4, 7), L.Dense(5), _HardAttention(), L.Dense(2))
    x = RNG.normal(0, 1, (5, 4, 7)).astype(np.float32)
    compare(trace_keras(model), x, np.asarray(model(x)), 5e-3)


def nearest(x: jax.Array, centres: jax.Array) -> jax.Array:
    """Return the centre that a row belongs to."""
    distance = jnp.sum((x[:, None] - centres) ** 2, -1)
    return centres[jnp.argmin(distance, 1)]


def test_the_nearest_centre() -> None:
    centres = RNG.normal(0, 3, (6, 3)).astype(np.float32)
    x = RNG.normal(0, 3, (40, 3))
    exact = centres[((x[:, None] - centres) ** 2).sum(-1).argmin(1)]
    compare(tercet.trace(nearest, (3,), centres), x, exact, 2.0**-15)


REFUSED: dict[str, tuple[Of, tuple[str, ...]]] = {
    "too many": (
        lambda x: jnp.argmax(jnp.tile(x.reshape(x.shape[0], -1), (1, 4096)), 1),
        ("argmax", "65,536", "release the scores"),
    ),
    "too long to sort": (
        lambda x: jnp.argsort(jnp.tile(x.reshape(x.shape[0], -1), (1, 256)), 1),
        ("sorting", "4,096"),
    ),
    "several keys": (lambda x: jnp.lexsort((x, -x)), ("sorting", "several")),
    "by another array": (
        lambda x: jax.lax.sort((x, 2 * x), num_keys=1)[1],
        ("sorting", "several", "argsort"),
    ),
    "running maximum": (lambda x: jax.lax.cummax(x, 1), ("cumulative maximum",)),
    "half of a place": (lambda x: jnp.argmax(x, 1) // 2, ("whole numbers",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    function, words = REFUSED[name]
    with pytest.raises(UnsupportedOperation) as caught:
        tercet.trace(function, X.shape[1:])
    for word in words:
        assert word in str(caught.value)


def test_the_rows_of_a_batch_are_not_ranked() -> None:
    for function in (lambda x: jnp.argmax(x, 0), lambda x: jnp.argmax(x)[None]):
        with pytest.raises(ModelError, match="rows of a batch"):
            tercet.trace(function, (3,))


def test_a_class_of_a_network() -> None:
    module = nn.Sequential(nn.Linear(6, 4), Function(lambda x: x.argmax(-1)))
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    compare(trace_torch(module, x), x.numpy(), module(x).numpy())
