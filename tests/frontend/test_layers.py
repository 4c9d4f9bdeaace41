"""Every supported layer: the traced program computes what Keras computes, at any batch size."""

from __future__ import annotations

from collections.abc import Callable

import jax
import keras
import numpy as np
import pytest
from keras import layers as L

from tercet.frontend.keras import supported_layers, trace_keras
from tercet.program.program import Role, encode
from tercet.program.verify import decode, verify
from tests.frontend.evaluate import evaluate
from tests.frontend.models import (
    Attention,
    Clipped,
    Token,
    joined,
    multi_head_attention,
    nested,
    one_layer,
    post_cnn,
    resnet,
)

# Keras asks JAX for float64 variables, which JAX makes float32 unless told otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")

IMAGE = (9, 8, 4)
SERIES = (11, 4)
VOLUME = (5, 6, 4, 2)

LAYERS: dict[str, Callable[[], keras.Model]] = {
    "dense": lambda: one_layer((6,), L.Dense(3)),
    "dense relu": lambda: one_layer((6,), L.Dense(3, activation="relu")),
    "dense without bias": lambda: one_layer((6,), L.Dense(3, use_bias=False)),
    "dense on rows": lambda: one_layer((5, 6), L.Dense(3)),
    "dense softmax": lambda: one_layer((6,), L.Dense(3, activation="softmax")),
    "einsum dense": lambda: one_layer(
        (5, 6), L.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="de")
    ),
    "conv1d": lambda: one_layer(SERIES, L.Conv1D(3, 3)),
    "conv1d causal dilated": lambda: one_layer(
        SERIES, L.Conv1D(3, 3, padding="causal", dilation_rate=2)
    ),
    "conv2d": lambda: one_layer(IMAGE, L.Conv2D(3, 3)),
    "conv2d same strided": lambda: one_layer(IMAGE, L.Conv2D(3, (3, 2), 2, padding="same")),
    "conv2d dilated": lambda: one_layer(IMAGE, L.Conv2D(3, 2, dilation_rate=(2, 3))),
    "conv2d groups": lambda: one_layer(IMAGE, L.Conv2D(6, 3, groups=2)),
    "conv2d channels first": lambda: one_layer(
        (4, 9, 8), L.Conv2D(3, 3, data_format="channels_first")
    ),
    "conv3d": lambda: one_layer(VOLUME, L.Conv3D(3, 2)),
    "conv1d transpose": lambda: one_layer(SERIES, L.Conv1DTranspose(3, 3, 2)),
    "conv2d transpose": lambda: one_layer(IMAGE, L.Conv2DTranspose(3, 3, 2)),
    "conv2d transpose same": lambda: one_layer(IMAGE, L.Conv2DTranspose(3, 3, 2, padding="same")),
    "conv2d transpose cropped": lambda: one_layer(
        IMAGE, L.Conv2DTranspose(3, 1, 3, padding="same")
    ),
    "depthwise": lambda: one_layer(IMAGE, L.DepthwiseConv2D(3, depth_multiplier=2)),
    "depthwise same strided": lambda: one_layer(IMAGE, L.DepthwiseConv2D(3, 2, padding="same")),
    "depthwise 1d": lambda: one_layer(SERIES, L.DepthwiseConv1D(3)),
    "separable": lambda: one_layer(IMAGE, L.SeparableConv2D(3, 3)),
    "separable 1d": lambda: one_layer(SERIES, L.SeparableConv1D(3, 3)),
    "average pool": lambda: one_layer(IMAGE, L.AveragePooling2D(2)),
    "average pool 3": lambda: one_layer(IMAGE, L.AveragePooling2D(3, 2)),
    "average pool same": lambda: one_layer(IMAGE, L.AveragePooling2D(3, 2, padding="same")),
    "average pool 1d": lambda: one_layer(SERIES, L.AveragePooling1D(3)),
    "average pool 3d": lambda: one_layer(VOLUME, L.AveragePooling3D(2)),
    "max pool": lambda: one_layer(IMAGE, L.MaxPooling2D(2)),
    "max pool same": lambda: one_layer(IMAGE, L.MaxPooling2D(3, 2, padding="same")),
    "max pool 1d": lambda: one_layer(SERIES, L.MaxPooling1D(2)),
    "max pool 3d": lambda: one_layer(VOLUME, L.MaxPooling3D(2)),
    "global average": lambda: one_layer(IMAGE, L.GlobalAveragePooling2D()),
    "global average 1d": lambda: one_layer(SERIES, L.GlobalAveragePooling1D()),
    "global max": lambda: one_layer(IMAGE, L.GlobalMaxPooling2D(keepdims=True)),
    "batch norm": lambda: one_layer(IMAGE, L.BatchNormalization()),
    "batch norm plain": lambda: one_layer((6,), L.BatchNormalization(scale=False, center=False)),
    "normalization": lambda: one_layer(
        (3,), L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])
    ),
    "rescaling": lambda: one_layer((6,), L.Rescaling(1 / 255, offset=-0.5)),
    "rescaling up": lambda: one_layer((6,), L.Rescaling(3.0)),
    "relu": lambda: one_layer((6,), L.ReLU()),
    "relu6": lambda: one_layer((6,), L.ReLU(6.0), L.Rescaling(9.0), L.ReLU(6.0)),
    "relu general": lambda: one_layer(
        (6,), L.ReLU(max_value=0.8, negative_slope=0.1, threshold=0.2)
    ),
    "leaky relu": lambda: one_layer((6,), L.LeakyReLU(0.2)),
    "prelu": lambda: one_layer(IMAGE, L.PReLU(shared_axes=[1, 2])),
    "prelu own": lambda: one_layer((6,), L.PReLU()),
    "hard sigmoid": lambda: one_layer((6,), L.Activation("hard_sigmoid")),
    "hard silu": lambda: one_layer((6,), L.Activation("hard_silu")),
    "hard tanh": lambda: one_layer((6,), L.Activation("hard_tanh")),
    "linear": lambda: one_layer((6,), L.Dense(3), L.Activation("linear")),
    "softmax": lambda: one_layer((6,), L.Softmax()),
    "softmax of another axis": lambda: one_layer((4, 4), L.Softmax(axis=1)),
    "add": lambda: joined(lambda a, b: L.Add()([a, b])),
    "subtract": lambda: joined(lambda a, b: L.Subtract()([a, b])),
    "multiply": lambda: joined(lambda a, b: L.Multiply()([a, b])),
    "average": lambda: joined(lambda a, b: L.Average()([a, b, a])),
    "maximum": lambda: joined(lambda a, b: L.Maximum()([a, b])),
    "minimum": lambda: joined(lambda a, b: L.Minimum()([a, b])),
    "concatenate": lambda: joined(lambda a, b: L.Concatenate()([a, b])),
    "dot": lambda: joined(lambda a, b: L.Dot(1)([a, b])),
    "operators": lambda: joined(lambda a, b: 2 - (a - b * 3) / 4 + (-b) ** 2),
    "stack": lambda: joined(lambda a, b: keras.ops.stack([a, b], axis=1)),
    "split": lambda: joined(lambda a, b: keras.ops.split(a, 2, axis=1)[1] + b[:, 1:3]),
    "flatten": lambda: one_layer(IMAGE, L.Flatten(), L.Dense(2)),
    "reshape": lambda: one_layer(IMAGE, L.Reshape((12, -1))),
    "permute": lambda: one_layer(IMAGE, L.Permute((3, 1, 2))),
    "repeat vector": lambda: one_layer((6,), L.RepeatVector(3)),
    "zero padding": lambda: one_layer(IMAGE, L.ZeroPadding2D(((1, 2), (0, 3)))),
    "zero padding 1d": lambda: one_layer(SERIES, L.ZeroPadding1D(2)),
    "cropping": lambda: one_layer(IMAGE, L.Cropping2D(((1, 2), (0, 3)))),
    "upsampling": lambda: one_layer(IMAGE, L.UpSampling2D(2)),
    "upsampling bilinear": lambda: one_layer(IMAGE, L.UpSampling2D(2, interpolation="bilinear")),
    "upsampling 1d": lambda: one_layer(SERIES, L.UpSampling1D(3)),
    "time distributed": lambda: one_layer(SERIES, L.TimeDistributed(L.Dense(3))),
    "training only": lambda: one_layer(
        (6,), L.Dropout(0.5), L.GaussianNoise(1.0), L.Dense(2), L.ActivityRegularization(0.1)
    ),
    "spatial dropout": lambda: one_layer(IMAGE, L.SpatialDropout2D(0.5), L.Conv2D(2, 3)),
    "clipped": lambda: one_layer((6,), Clipped()),
    "token": lambda: one_layer((5, 6), Token()),
    "attention": lambda: one_layer((5, 6), Attention()),
    "multi-head attention": multi_head_attention,
    "post's cnn": post_cnn,
    "resnet": resnet,
    "nested": nested,
}


@pytest.mark.parametrize("case", LAYERS)
def test_program_computes_the_layer(case: str) -> None:
    model = LAYERS[case]()
    traced = trace_keras(model)
    verify(traced.program)
    assert decode(encode(traced.program)) == traced.program
    weights = [i.name for _, i in traced.program.named(Role.WEIGHT)]
    constants = [i.name for _, i in traced.program.named(Role.PUBLIC)]
    assert sorted(traced.arrays) == sorted([*weights, *constants])
    assert all(a.dtype == np.float64 for a in traced.arrays.values())
    tolerance = 1e-4
    x = np.random.default_rng(1).normal(0, 1, (5, *model.input_shape[1:])).astype(np.float32)
    plain = jax.jit(lambda rows: model(rows, training=False))
    expected = np.asarray(plain(x)).astype(np.float64)
    for batch in (1, 5):
        got = evaluate(traced, x[:batch])
        assert got.shape == (batch, *expected.shape[1:])
        np.testing.assert_allclose(got, expected[:batch], atol=tolerance, rtol=tolerance)
    assert all(r.supported for r in supported_layers(model))
