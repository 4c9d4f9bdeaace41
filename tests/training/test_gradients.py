"""Every gradient within 1e-3 of float32, relative to its layer's largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.training import steps
from tests.training.cases import LAYERS, Layers

BOUND = 1e-3
ROWS = 8


def _gradients(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    import jax

    fixed = [v.value for v in model.non_trainable_variables]

    @jax.jit
    def loss(trainable: Any) -> Any:
        output, _ = model.stateless_call(trainable, fixed, x, training=True)
        return model._compile_loss(y, output)

    value, found = jax.value_and_grad(loss)([v.value for v in model.trainable_variables])
    paths = [v.path.split("/", 1)[1] for v in model.trainable_variables]
    return float(value), dict(zip(paths, map(np.asarray, found), strict=True))


def _check(model: Any, loss: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Hold one step in the clear and one on shares to the gradients of JAX."""
    import keras

    from tercet.frontend.training import trace_training

    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=loss)
    value, wanted = _gradients(model, x, y)
    traced = trace_training(model, ROWS, 1, metrics=("loss",))
    largest: dict[str, float] = {}
    for path, gradient in wanted.items():
        layer = path.rsplit("/", 1)[0]
        largest[layer] = max(largest.get(layer, 0.0), float(np.abs(gradient).max()))
    for run in (steps.in_the_clear, steps.on_three):
        state, sums, *_ = next(run(traced, [(x, y)]))
        after = steps.decoded(traced, state)
        for path, gradient in wanted.items():
            name = traced.variables[path]
            error = np.abs(traced.arrays[name] - after[name] - gradient).max()
            assert error <= BOUND * largest[path.rsplit("/", 1)[0]], path
        assert abs(sums["loss"] / ROWS - value) < 1e-3


@pytest.mark.parametrize(("layers", "shape"), [c[1:] for c in LAYERS], ids=[c[0] for c in LAYERS])
def test_layer(layers: Layers, shape: tuple[int, ...]) -> None:
    import keras

    keras.utils.set_random_seed(0)
    stack = [keras.Input(shape), *layers(keras.layers), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential(stack)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (ROWS, *shape)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, ROWS)]
    _check(model, "categorical_crossentropy", x, y)


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy", "smooth"])
def test_loss(name: str) -> None:
    import keras

    keras.utils.set_random_seed(0)
    end = "sigmoid" if name == "binary_crossentropy" else "linear"
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(3, activation=end)])
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (ROWS, 20)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, ROWS)]
    _check(model, smooth if name == "smooth" else name, x, y)


@pytest.mark.parametrize("kind", ["ReLU", "LeakyReLU"])
def test_background(kind: str) -> None:
    """A value that is exactly 0 at the kink, as a patch of background has it."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [layers.Conv2D(4, 3), layers.AveragePooling2D(2), getattr(layers, kind)()]
    model = keras.Sequential([keras.Input((10, 10, 1)), *stack, layers.Flatten(), layers.Dense(3)])
    x = np.zeros((ROWS, 10, 10, 1), np.float32)
    x[:, 5:, 5:] = np.random.default_rng(0).uniform(0, 1, (ROWS, 5, 5, 1))
    y = np.eye(3, dtype=np.float32)[np.arange(ROWS) % 3]
    _check(model, keras.losses.CategoricalCrossentropy(from_logits=True), x, y)
