"""Models at their real size, in the workers' arithmetic: the same class, scores within 1e-2.

On 64 x 64 inputs. The arithmetic is run in the clear: what three parties add to it is one unit of
the last place a truncation, which the small models are held to (``test_layers``, ``test_torch``).
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers as L

from tercet.frontend.keras import trace_keras
from tests.coverage.run import in_the_clear

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning"),
]
IMAGE = (64, 64, 3)


def _application(name: str) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=IMAGE, classes=100, classifier_activation=None
        )
        _settle(model)
        return model

    return make


def _settle(model: keras.Model) -> None:
    """Give every normalisation the statistics of what it gets, as training does.

    Fresh weights under fresh statistics let the values of a deep network shrink or grow from layer
    to layer, until no class is told from another.
    """
    x = np.random.default_rng(5).uniform(0, 1, (8, *IMAGE)).astype(np.float32)
    if any(isinstance(layer, L.Normalization) for layer in model.layers):
        x *= 255
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
    for _ in range(3):
        model(x, training=True)


def _encoder() -> keras.Model:
    x = keras.Input((32,), dtype="int32")
    h = L.Embedding(200, 64)(x)
    for _ in range(4):
        a = L.LayerNormalization()(h)
        h = L.Add()([h, L.MultiHeadAttention(4, 16)(a, a)])
        a = L.LayerNormalization()(h)
        h = L.Add()([h, L.Dense(64)(L.Dense(256, activation="gelu")(a))])
    return keras.Model(x, L.Dense(20)(L.GlobalAveragePooling1D()(L.LayerNormalization()(h))))


def _decoder() -> keras.Model:
    x = keras.Input((32,), dtype="int32")
    places = keras.ops.arange(32)
    h = L.Embedding(200, 64)(x) + L.Embedding(32, 64)(places)
    for _ in range(4):
        a = L.LayerNormalization()(h)
        h = L.Add()([h, L.MultiHeadAttention(4, 16)(a, a, use_causal_mask=True)])
        a = L.LayerNormalization()(h)
        h = L.Add()([h, L.Dense(64)(L.Dense(256, activation="gelu")(a))])
    return keras.Model(x, L.Dense(200)(L.LayerNormalization()(h)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    **{n: _application(n) for n in ("ResNet50", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny")},
    "transformer encoder": _encoder,
    "GPT-style decoder": _decoder,
}


@pytest.mark.parametrize("name", MODELS)
def test_same_class_and_scores(name: str) -> None:
    keras.utils.set_random_seed(2)
    model = MODELS[name]()
    rng = np.random.default_rng(3)
    if len(model.input_shape) == 2:
        x = rng.integers(0, 200, (2, *model.input_shape[1:])).astype(np.float32)
    else:
        x = rng.uniform(0, 1, (2, *IMAGE)).astype(np.float32)
        if name in ("EfficientNetB0", "ConvNeXtTiny"):
            x *= 255
    exact = np.asarray(model(x, training=False)).astype(np.float64)
    got = in_the_clear(trace_keras(model), x)
    error = np.abs(got - exact).max() / np.ptp(exact)
    best = np.sort(exact, axis=-1)
    clear = best[..., -1] - best[..., -2] > 2e-2 * np.ptp(exact)
    same = got.argmax(-1) == exact.argmax(-1)
    print(f"{name}: error {error:.1e} of the spread, same class in {same.mean():.3f}")
    assert error <= 1e-2
    assert same[clear].all()
