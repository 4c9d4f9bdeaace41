"""Every Keras layer and activation of the coverage table: one model a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers as L

from tests.coverage.run import marked
from tests.frontend.models import joined, one_layer, randomise

IMAGE = (8, 8, 3)
SERIES = (6, 8)


@dataclass(frozen=True)
class Case:
    """How to build a model, its stated error relative to the spread of the output, its inputs.

    ``indices`` says that the inputs are whole numbers below this; ``approximated`` that a function
    with a contract is among the operations.
    """

    model: Callable[[], keras.Model]
    error: float = 1e-3
    indices: int = 0
    note: str = ""
    approximated: bool = False

    def sample(self, rows: int) -> np.ndarray:
        """Return random rows of the model's input."""
        shape = (rows, *self.model_shape)
        rng = np.random.default_rng(3)
        if self.indices:
            return rng.integers(0, self.indices, shape).astype(np.float32)
        return rng.normal(0, 1, shape).astype(np.float32)

    @property
    def model_shape(self) -> tuple[int, ...]:
        """Return the shape of one row."""
        return tuple(self.model().input_shape[1:])


def _row(shape: tuple[int, ...], *layers: Callable[[], L.Layer], **more: object) -> Case:
    return Case(lambda: one_layer(shape, *(make() for make in layers)), **more)  # type: ignore[arg-type]


def _activation(name: str, **more: object) -> Case:
    return _row((6,), lambda: L.Dense(7), lambda: L.Activation(name), **more)


def _operation(function: Callable[[object], object]) -> Case:
    return _row(SERIES, lambda: L.Lambda(lambda x: keras.ops.cast(function(x), "float32")))


def _functional(shape: tuple[int, ...], function: Callable[[object], object]) -> Case:
    def build() -> keras.Model:
        x = keras.Input(shape)
        return randomise(keras.Model(x, function(x)))

    return Case(build)


def _join(function: Callable[..., object]) -> Case:
    return Case(lambda: joined(function))


def _tokens() -> keras.Model:
    x = keras.Input((6,), dtype="int32")
    return randomise(keras.Model(x, L.Dense(3)(L.Embedding(11, 4)(x))))


def _transformer(causal: bool) -> keras.Model:
    """Return two blocks of attention and feed-forward layers on tokens."""
    x = keras.Input((8,), dtype="int32")
    h = L.Embedding(20, 16)(x)
    for _ in range(2):
        a = L.LayerNormalization()(h)
        h = L.Add()([h, L.MultiHeadAttention(2, 8)(a, a, use_causal_mask=causal)])
        a = L.LayerNormalization()(h)
        h = L.Add()([h, L.Dense(16)(L.Dense(32, activation="gelu")(a))])
    top = L.Dense(20)(h) if causal else L.Dense(5)(L.GlobalAveragePooling1D()(h))
    return randomise(keras.Model(x, top))


class Causal(L.Layer):
    """Self-attention with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = L.MultiHeadAttention(2, 4)

    def build(self, shape: tuple[int, ...]) -> None:
        self.attend.build(shape, shape)

    def call(self, x: object) -> object:
        return self.attend(x, x, use_causal_mask=True)


class Rows(L.Layer):
    """Rows of its input at places that are public."""

    def call(self, x: object) -> object:
        return keras.ops.take(x, np.array([3, 0, 3, 5]), axis=1)


CASES: dict[str, Case] = {
    "Dense": _row((6,), lambda: L.Dense(3)),
    "Dense(relu)": _row((6,), lambda: L.Dense(3, activation="relu")),
    "EinsumDense": _row((5, 6), lambda: L.EinsumDense("abc,cd->abd", (5, 7), bias_axes="d")),
    "Conv1D": _row(SERIES, lambda: L.Conv1D(4, 3)),
    "Conv2D": _row(IMAGE, lambda: L.Conv2D(4, 3)),
    "Conv2D(same,stride2,dilated-free)": _row(
        IMAGE, lambda: L.Conv2D(4, 3, strides=2, padding="same")
    ),
    "Conv2D(groups=3)": _row(IMAGE, lambda: L.Conv2D(6, 3, groups=3)),
    "Conv3D": _row((5, 6, 4, 2), lambda: L.Conv3D(3, 2)),
    "DepthwiseConv2D": _row(IMAGE, lambda: L.DepthwiseConv2D(3)),
    "SeparableConv2D": _row(IMAGE, lambda: L.SeparableConv2D(4, 3)),
    "Conv2DTranspose": _row(IMAGE, lambda: L.Conv2DTranspose(4, 3, strides=2)),
    "BatchNormalization": _row(IMAGE, lambda: L.BatchNormalization()),
    "LayerNormalization": _row((6,), lambda: L.Dense(12), lambda: L.LayerNormalization()),
    "RMSNormalization": _row((6,), lambda: L.Dense(12), lambda: L.RMSNormalization()),
    "GroupNormalization": _row((4, 4, 6), lambda: L.GroupNormalization(3)),
    "UnitNormalization": _row((6,), lambda: L.UnitNormalization()),
    "Normalization": _row(
        (3,), lambda: L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])
    ),
    "Rescaling": _row(IMAGE, lambda: L.Rescaling(1 / 255, offset=0.1)),
    "MaxPooling2D": _row(IMAGE, lambda: L.MaxPooling2D(2)),
    "MaxPooling1D": _row(SERIES, lambda: L.MaxPooling1D(2)),
    "AveragePooling2D": _row(IMAGE, lambda: L.AveragePooling2D(2)),
    "AveragePooling2D(same)": _row(IMAGE, lambda: L.AveragePooling2D(3, padding="same")),
    "GlobalAveragePooling2D": _row(IMAGE, lambda: L.GlobalAveragePooling2D()),
    "GlobalMaxPooling2D": _row(IMAGE, lambda: L.GlobalMaxPooling2D()),
    "ReLU": _row((6,), lambda: L.Dense(7), lambda: L.ReLU()),
    "ReLU6": _row((6,), lambda: L.Rescaling(6.0), lambda: L.ReLU(6.0)),
    "LeakyReLU": _row((6,), lambda: L.Dense(7), lambda: L.LeakyReLU(0.2)),
    "PReLU": _row((6,), lambda: L.Dense(7), lambda: L.PReLU()),
    "ELU": _row((6,), lambda: L.Dense(7), lambda: L.ELU()),
    "Activation(gelu)": _activation("gelu"),
    "Activation(silu)": _activation("silu"),
    "Activation(sigmoid)": _activation("sigmoid"),
    "Activation(tanh)": _activation("tanh"),
    "Activation(softplus)": _activation("softplus"),
    "Activation(softsign)": _activation("softsign"),
    "Activation(selu)": _activation("selu"),
    "Activation(hard_sigmoid)": _activation("hard_sigmoid"),
    "Activation(hard_silu)": _activation("hard_silu"),
    "Activation(mish)": _activation("mish"),
    "Activation(exponential)": _activation("exponential"),
    "Activation(log_softmax)": _activation("log_softmax"),
    "Activation(gelu tanh approx)": _row(
        (6,),
        lambda: L.Dense(7),
        lambda: L.Lambda(lambda x: keras.activations.gelu(x, approximate=True)),
    ),
    "Softmax": _row((6,), lambda: L.Dense(7), lambda: L.Softmax()),
    "SimpleRNN": _row(SERIES, lambda: L.SimpleRNN(5)),
    "LSTM": _row(SERIES, lambda: L.LSTM(5)),
    "LSTM(unroll)": _row(SERIES, lambda: L.LSTM(5, unroll=True)),
    "LSTM(return_sequences)": _row(SERIES, lambda: L.LSTM(5, return_sequences=True)),
    "GRU": _row(SERIES, lambda: L.GRU(5)),
    "Bidirectional(LSTM)": _row(SERIES, lambda: L.Bidirectional(L.LSTM(4))),
    "TimeDistributed(Dense)": _row(SERIES, lambda: L.TimeDistributed(L.Dense(3))),
    "MultiHeadAttention": _functional(SERIES, lambda x: L.MultiHeadAttention(2, 4)(x, x)),
    "MultiHeadAttention(causal)": _row(SERIES, Causal),
    "GroupQueryAttention": _functional(
        SERIES, lambda x: L.GroupQueryAttention(4, 4, 2)(x, x)
    ),
    "Attention(dot)": _functional(SERIES, lambda x: L.Attention()([x, x])),
    "AdditiveAttention": _functional(SERIES, lambda x: L.AdditiveAttention()([x, x])),
    "Embedding": _row((6,), lambda: L.Embedding(11, 4), indices=11, note="secret index, one-hot"),
    "Embedding(int32 input)": Case(_tokens, indices=11),
    "Embedding(mask_zero)+LSTM": _row(
        (6,), lambda: L.Embedding(11, 4, mask_zero=True), lambda: L.LSTM(5), indices=11
    ),
    "Dropout(infer)": _row((6,), lambda: L.Dense(7), lambda: L.Dropout(0.5)),
    "GaussianNoise(infer)": _row((6,), lambda: L.Dense(7), lambda: L.GaussianNoise(0.5)),
    "Flatten": _row(IMAGE, lambda: L.Flatten()),
    "Reshape": _row(IMAGE, lambda: L.Reshape((16, 12))),
    "Permute": _row(IMAGE, lambda: L.Permute((3, 1, 2))),
    "RepeatVector": _row((6,), lambda: L.RepeatVector(3)),
    "ZeroPadding2D": _row(IMAGE, lambda: L.ZeroPadding2D(2)),
    "Cropping2D": _row(IMAGE, lambda: L.Cropping2D(1)),
    "UpSampling2D(nearest)": _row(IMAGE, lambda: L.UpSampling2D(2)),
    "UpSampling2D(bilinear)": _row(IMAGE, lambda: L.UpSampling2D(2, interpolation="bilinear")),
    "Add": _join(lambda a, b: L.Add()([a, b])),
    "Subtract": _join(lambda a, b: L.Subtract()([a, b])),
    "Multiply": _join(lambda a, b: L.Multiply()([a, b])),
    "Average": _join(lambda a, b: L.Average()([a, b])),
    "Maximum": _join(lambda a, b: L.Maximum()([a, b])),
    "Minimum": _join(lambda a, b: L.Minimum()([a, b])),
    "Concatenate": _join(lambda a, b: L.Concatenate()([a, b])),
    "Dot": _join(lambda a, b: L.Dot(1)([a, b])),
    # Beyond the table.
    "Model: transformer encoder": Case(lambda: _transformer(False), 1e-2, indices=20),
    "Model: decoder, causal": Case(lambda: _transformer(True), 1e-2, indices=20),
    "Rows at public places": _row(SERIES, Rows),
    "ops.argmax": _operation(lambda x: keras.ops.argmax(x, 1)),
    "ops.argmin": _operation(lambda x: keras.ops.argmin(x, -1)),
    "ops.argsort": _operation(lambda x: keras.ops.argsort(x, 1)),
    "ops.sort": _operation(lambda x: keras.ops.sort(x, 1)),
    "ops.top_k": _operation(lambda x: keras.ops.top_k(x, 3)[0]),
    "ops.top_k(places)": _operation(lambda x: keras.ops.top_k(x, 3)[1]),
    "Conv1DTranspose": _row(SERIES, lambda: L.Conv1DTranspose(3, 3, 2)),
    "Conv3DTranspose": _row((3, 4, 3, 2), lambda: L.Conv3DTranspose(2, 2, 2)),
    "DepthwiseConv1D": _row(SERIES, lambda: L.DepthwiseConv1D(3)),
    "SeparableConv1D": _row(SERIES, lambda: L.SeparableConv1D(3, 3)),
    "MaxPooling3D": _row((4, 6, 4, 2), lambda: L.MaxPooling3D(2)),
    "AveragePooling1D": _row(SERIES, lambda: L.AveragePooling1D(2)),
    "AveragePooling3D": _row((4, 6, 4, 2), lambda: L.AveragePooling3D(2)),
    "GlobalAveragePooling1D": _row(SERIES, lambda: L.GlobalAveragePooling1D()),
    "GlobalMaxPooling1D": _row(SERIES, lambda: L.GlobalMaxPooling1D()),
    "Bidirectional(GRU)": _row(SERIES, lambda: L.Bidirectional(L.GRU(4, return_sequences=True))),
    "GRU(reset_after=False)": _row(SERIES, lambda: L.GRU(5, reset_after=False)),
    "ConvLSTM1D": _row((3, 6, 2), lambda: L.ConvLSTM1D(2, 3)),
    "SpatialDropout1D(infer)": _row(SERIES, lambda: L.SpatialDropout1D(0.5)),
    "Softmax(two axes)": _row(SERIES, lambda: L.Softmax(axis=(1, 2))),
    "Activation(glu)": _row((6,), lambda: L.Dense(8), lambda: L.Activation("glu")),
    **{
        f"Activation({name})": _activation(name)
        for name in (
            "celu", "elu", "hard_shrink", "hard_tanh", "leaky_relu", "linear",
            "log_sigmoid", "relu", "relu6", "soft_shrink", "softmax", "sparse_plus",
            "sparsemax", "squareplus", "tanh_shrink",
        )
    },
}  # fmt: skip

_APPROXIMATED = (
    "LayerNorm", "RMSNorm", "GroupNorm", "UnitNorm", "ELU", "gelu", "silu", "sigmoid", "tanh)",
    "softplus", "softsign", "selu", "mish", "exponential", "softmax", "Softmax", "RNN", "LSTM",
    "GRU", "Attention", "Model", "celu", "elu)", "glu", "squareplus", "tanh_shrink",
)  # fmt: skip
_EXACT = ("ReLU", "hard", "relu")
CASES = marked(CASES, _APPROXIMATED, _EXACT)
