"""Small models whose gradients are compared with those of JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Layers = Callable[[Any], list[Any]]

#: Name, layers before the last dense one (of ``keras.layers``) and the shape of a row.
LAYERS: tuple[tuple[str, Layers, tuple[int, ...]], ...] = (
    ("dense-relu", lambda k: [k.Dense(8, activation="relu")], (20,)),
    ("dense-tanh", lambda k: [k.Dense(8, activation="tanh")], (20,)),
    ("dense-gelu", lambda k: [k.Dense(8, activation="gelu")], (20,)),
    ("dense-softsign", lambda k: [k.Dense(8, activation="softsign")], (20,)),
    ("prelu", lambda k: [k.Dense(8), k.PReLU()], (20,)),
    ("batch-norm", lambda k: [k.Dense(8), k.BatchNormalization(), k.ReLU()], (20,)),
    ("layer-norm", lambda k: [k.Dense(8), k.LayerNormalization()], (20,)),
    (
        "conv-average-pool",
        lambda k: [k.Conv2D(4, 3), k.AveragePooling2D(2), k.ReLU(), k.Flatten()],
        (10, 10, 2),
    ),
    (
        "conv-max-pool",
        lambda k: [k.Conv2D(4, 3), k.BatchNormalization(), k.MaxPooling2D(2), k.Flatten()],
        (8, 8, 1),
    ),
    (
        "conv-same-strides",
        lambda k: [k.Conv2D(4, 3, strides=2, padding="same", activation="relu"), k.Flatten()],
        (9, 9, 2),
    ),
    (
        "conv-dilated",
        lambda k: [k.Conv2D(4, 3, dilation_rate=2, activation="relu"), k.Flatten()],
        (9, 9, 2),
    ),
    ("conv-groups", lambda k: [k.Conv2D(6, 3, groups=3), k.GlobalAveragePooling2D()], (7, 7, 3)),
    ("conv-1d", lambda k: [k.Conv1D(4, 3), k.MaxPooling1D(2), k.Flatten()], (11, 2)),
    ("depthwise", lambda k: [k.DepthwiseConv2D(3), k.Flatten()], (6, 6, 3)),
    (
        "transposed",
        lambda k: [k.Conv2DTranspose(3, 3, strides=2), k.ReLU(), k.Flatten()],
        (4, 4, 2),
    ),
    ("lstm", lambda k: [k.LSTM(3)], (4, 3)),
)
