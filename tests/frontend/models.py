"""Models and layers that the frontend tests trace, with weights that hide no mistake."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L

RNG = np.random.default_rng(1)


def randomise(model: keras.Model, seed: int = 7) -> keras.Model:
    """Give every floating-point weight random numbers (positive ones where a variance stands)."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "float" in str(variable.dtype):
            numbers = rng.normal(0, 0.4, variable.shape)
            if "variance" in variable.path:
                numbers = np.abs(numbers) + 0.5
            variable.assign(numbers.astype(np.float32))
    return model


def one_layer(shape: tuple[int, ...], *layers: keras.Layer) -> keras.Model:
    """Return a Sequential model of ``layers``."""
    return randomise(keras.Sequential([keras.Input(shape), *layers]))


def joined(function: Callable[..., object], shape: tuple[int, ...] = (6,)) -> keras.Model:
    """Return a functional model that joins two branches of its input by ``function``."""
    x = keras.Input(shape)
    branches = L.Dense(4)(x), L.Dense(4)(x)
    return randomise(keras.Model(x, function(*branches)))


def post_cnn() -> keras.Model:
    """Return the post's CNN (28 x 28 x 1 to 10 scores)."""
    blocks = [[L.Conv2D(c, 3), L.AveragePooling2D(2), L.ReLU()] for c in (16, 32, 64)]
    flat = [layer for block in blocks for layer in block]
    return one_layer((28, 28, 1), *flat, L.Flatten(), L.Dense(10))


def resnet() -> keras.Model:
    """Return a small residual network with batch normalisation, pooling and softmax."""

    def block(x: keras.KerasTensor, width: int, stride: int) -> keras.KerasTensor:
        y = L.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(y))
        if stride > 1:
            x = L.BatchNormalization()(L.Conv2D(width, 1, stride, use_bias=False)(x))
        return L.ReLU()(L.Add()([x, y]))

    x = keras.Input((16, 16, 3))
    y = L.MaxPooling2D(3, 2, padding="same")(L.Conv2D(4, 3, padding="same")(x))
    y = block(block(y, 4, 1), 8, 2)
    y = L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(y))
    return randomise(keras.Model(x, y))


def nested() -> keras.Model:
    """Return a functional model that holds a Sequential one, and uses a layer twice."""
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, activation="relu"), L.Dense(4)])
    shared = L.Dense(4, name="shared")
    x = keras.Input((6,))
    y = shared(inner(shared(L.Dense(4)(x))))
    return randomise(keras.Model(x, L.Dropout(0.5)(y)))


def multi_head_attention() -> keras.Model:
    """Return self-attention as Keras has it."""
    x = keras.Input((5, 6))
    return randomise(keras.Model(x, L.MultiHeadAttention(2, 3)(x, x)))


@keras.saving.register_keras_serializable("tercet_tests")
class Clipped(L.Layer):
    """A custom layer of several operations: clip, compare, choose, power, absolute value."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        y = keras.ops.clip(x, -0.7, 0.9)
        y = keras.ops.where((y > 0.1) & (y <= 0.8), y**3, keras.ops.abs(y) * 0.3)
        return y + keras.ops.cast(x > 0, "float32") + keras.ops.min(x, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tercet_tests")
class Token(L.Layer):
    """A custom layer that puts a learnt row before the others, as a class token."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        rows = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        y = keras.ops.concatenate([rows, x, keras.ops.zeros_like(x)], axis=1)
        return keras.ops.flip(y[:, 1:], axis=1)


@keras.saving.register_keras_serializable("tercet_tests")
class Attention(L.Layer):
    """Self-attention with a causal mask: products of secrets, a public mask, softmax."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        scores = keras.ops.einsum("btd,bsd->bts", x, x)
        mask = keras.ops.tril(keras.ops.ones((x.shape[1], x.shape[1]), "bool"))
        weights = keras.ops.softmax(keras.ops.where(mask, scores, -1e4))
        return keras.ops.einsum("bts,bsd->btd", weights, x)
