"""Models are of float32 and of whole numbers; others are refused, by name, before sharing."""

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
from tercet.errors import InputError, ModelError
from tercet.frontend.keras import supported_layers, trace_keras
from tercet.frontend.torch import trace_torch
from tests.frontend.evaluate import evaluate
from tests.frontend.models import one_layer
from tests.frontend.test_torch import Function

# JAX makes float32 of float64, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*float64:UserWarning")

POLICIES = {
    "float64": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "mixed_bfloat16": "bfloat16",
    "mixed_float16": "float16",
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_layer_of_keras_is_named(policy: str) -> None:
    model = one_layer((6,), L.Dense(3, name="first"), L.Dense(2, dtype=policy, name="other"))
    with pytest.raises(ModelError, match=f"'other' .Dense. works in {POLICIES[policy]}") as caught:
        trace_keras(model)
    assert "set_dtype_policy('float32')" in caught.value.remedy
    first, other = supported_layers(model)
    assert first.supported
    assert (other.reason, other.remedy) == (caught.value.message, caught.value.remedy)
    with pytest.raises(ModelError, match="'other'"):
        tercet.lower(model)
    assert not tercet.check(model).supported


def test_a_layer_within_a_wrapper_is_named() -> None:
    model = one_layer((4, 6), L.TimeDistributed(L.Dense(3, dtype="bfloat16"), name="each"))
    with pytest.raises(ModelError, match=r"'each' \(TimeDistributed\) works in bfloat16"):
        trace_keras(model)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "string", "complex64"])
def test_a_declared_input_of_keras(dtype: str) -> None:
    x = keras.Input((3,), dtype="float32")
    model = keras.Model(x, L.Dense(2)(x))
    model.inputs[0]._dtype = dtype
    with pytest.raises(ModelError, match=f"takes {dtype} input"):
        trace_keras(model)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_whole_numbers_may_be_declared(dtype: str) -> None:
    x = keras.Input((3,), dtype=dtype)
    model = keras.Model(x, L.Dense(2)(L.Rescaling(1 / 255)(x)))
    rows = np.array([[0, 7, 255], [1, 2, 3]])
    np.testing.assert_allclose(evaluate(trace_keras(model), rows), model(rows), atol=1e-4)


TORCH = {"float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("dtype", TORCH)
def test_a_weight_of_torch_is_named(dtype: str) -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    x = torch.zeros(3, 6)
    with pytest.raises(ModelError, match=f"Example input of {dtype}.*x.float"):
        trace_torch(module, x.to(TORCH[dtype]))
    batch = {0: torch.export.Dim("batch")}
    other = module.to(TORCH[dtype])
    program = torch.export.export(other, (x.to(TORCH[dtype]),), dynamic_shapes=(batch,))
    with pytest.raises(ModelError, match=rf"'0.weight' holds {dtype} numbers.*module.float\(\)"):
        trace_torch(program)


@pytest.mark.parametrize("dtype", TORCH)
def test_torch_that_computes_in_other_numbers(dtype: str) -> None:
    module = nn.Sequential(nn.Linear(6, 4), Function(lambda x: x.to(TORCH[dtype]).exp().float()))
    with pytest.raises(ModelError, match=f"'1' .Function.*{dtype}"):
        trace_torch(module, torch.zeros(3, 6))


def test_a_mixed_buffer_of_torch() -> None:
    module = nn.Linear(3, 2)
    module.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
    module.forward = lambda x: nn.functional.linear((x - module.mean).float(), module.weight)
    with pytest.raises(ModelError, match="'mean' holds float64"):
        trace_torch(module, torch.zeros(2, 3))


def test_data_is_converted() -> None:
    module = nn.Linear(6, 4)
    rows = np.random.default_rng(0).normal(0, 1, (3, 6))
    exact = module(torch.from_numpy(rows).float()).detach().numpy()
    for example in (rows, rows.astype(np.float16), [rows.tolist()]):
        np.testing.assert_allclose(evaluate(trace_torch(module, example), rows), exact, atol=1e-5)


class _Model:
    def __init__(self, weight: np.ndarray) -> None:
        self.weight = weight

    def score(self, x: jax.Array) -> jax.Array:
        return x @ self.weight


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "complex64", "<U3"])
def test_a_weight_of_a_function_is_named(dtype: str) -> None:
    weights = {
        "w": jnp.ones((3, 2), dtype) if dtype == "bfloat16" else np.ones((3, 2)).astype(dtype)
    }
    with pytest.raises(InputError, match=r"weight \"given\['w'\]\" has dtype") as caught:
        tercet.trace(lambda x, given: x @ given["w"], (3,), weights)
    assert "float32" in caught.value.remedy


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_captured_array_is_named(dtype: str) -> None:
    held = np.ones((3, 2), dtype)
    for fn, name in ((lambda x: x @ held, "held"), (_Model(held).score, "weight")):
        with pytest.raises(ModelError, match=f"captures '{name}' of dtype {dtype}.*float32"):
            tercet.trace(fn, (3,))


def test_numbers_of_python_have_no_dtype() -> None:
    traced = tercet.trace(lambda x, a, b: x * a + b, (3,), 0.5, 2)
    rows = np.ones((2, 3))
    np.testing.assert_allclose(evaluate(traced, rows), 2.5 * rows)


COMPUTED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "bfloat16": lambda x: jnp.exp(x.astype(jnp.bfloat16)).astype(jnp.float32),
    "float16": lambda x: jnp.exp(x.astype(jnp.float16)).astype(jnp.float32),
    "complex64": lambda x: jnp.abs(x + 1j),
    "float64": lambda x: x.astype(jnp.float64) * 2,
}


@pytest.mark.parametrize("dtype", COMPUTED)
def test_a_function_that_computes_in_other_numbers(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"), pytest.raises(ModelError, match=f"in {dtype}"):
        tercet.trace(COMPUTED[dtype], (3,))
