"""Private steps of convolutions beside JAX's gradients of single rows, and what one row may do."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tercet.frontend.row_limits import gain
from tercet.program.private import GRID, PrivateSum
from tercet.program.training import DATA_SCALE
from tercet.ring import kernels
from tercet.ring.fixed import encode
from tercet.runtime.sampling import Poisson
from tests.training.noisy import exact_sums, moved, norm, silence, squared_norm, step
from tests.training.steps import SEED

ROWS, BATCH, SIZE, CLASSES = 16, 6, 12, 3
Layers = Callable[[Any], list[Any]]

#: Shape of a row, layers, and by which way each layer with weights takes its norms.
MODELS: dict[str, tuple[tuple[int, ...], str, Layers]] = {
    "small": (
        (12, 12, 1),
        "weights places places",
        lambda k: [
            k.Conv2D(4, 3), k.AveragePooling2D(2), k.ReLU(),
            k.Conv2D(6, 3), k.AveragePooling2D(2), k.ReLU(), k.Flatten(),
        ],
    ),
    "places": (
        (7, 7, 5),
        "places places",
        lambda k: [k.Conv2D(16, 3), k.AveragePooling2D(2), k.ReLU(), k.Flatten()],
    ),
    "pools": (
        (9, 9, 2),
        "weights places places",
        lambda k: [
            k.Conv2D(3, 3, padding="same"), k.AveragePooling2D(3), k.ReLU(),
            k.Conv2D(4, 2, use_bias=False), k.GlobalAveragePooling2D(),
        ],
    ),
    "walks": (
        (9, 9, 1),
        "weights places places",
        lambda k: [
            k.Conv2D(3, 3, strides=2, padding="same", activation="relu"), k.MaxPooling2D(2),
            k.Conv2D(3, 2, dilation_rate=1, padding="same"), k.AveragePooling2D(2, padding="same"),
            k.Flatten(),
        ],
    ),
    "groups": (
        (8, 8, 4),
        "weights weights weights places",
        lambda k: [
            k.Conv2D(6, 3, groups=2, dilation_rate=2), k.ReLU(),
            k.SeparableConv2D(5, 2, depth_multiplier=2), k.ReLU(), k.Flatten(),
        ],
    ),
    "grouped places": (
        (3, 3, 16),
        "places places",
        lambda k: [k.Conv2D(16, 2, groups=2), k.AveragePooling2D(2), k.ReLU(), k.Flatten()],
    ),
    "series": (
        (14, 3),
        "weights weights places",
        lambda k: [
            k.Conv1D(4, 5, padding="causal", activation="tanh"), k.AveragePooling1D(2),
            k.DepthwiseConv1D(3, strides=2), k.ReLU(), k.Flatten(),
        ],
    ),
    "dense": (
        (9,),
        "places places places",
        lambda k: [k.Dense(20, activation="relu"), k.Dense(5, activation="tanh", use_bias=False)],
    ),
}  # fmt: skip


def model(name: str) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    shape, _, layers = MODELS[name]
    made = keras.Sequential(
        [keras.Input(shape), *layers(keras.layers), keras.layers.Dense(CLASSES)], name="small"
    )
    rng = np.random.default_rng(1)
    for variable in made.trainable_variables:  # biases too
        change = 0.1 * rng.normal(size=variable.shape)
        variable.assign(np.round((np.asarray(variable.value) + change) * 2**14) / 2**14)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.5), loss)
    return made


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = np.round(rng.normal(size=(ROWS, *MODELS[name][0])) * 2**8) / 2**8
    x[::3] *= 2**-4
    return x, np.eye(CLASSES)[rng.integers(0, CLASSES, ROWS)]


def traced(made: Any, clip: float, rows: int = ROWS) -> Any:
    from tercet.frontend.training import trace_training

    privacy = PrivateSum(clip, 1.0, rows, min(BATCH, rows))
    return trace_training(made, min(SIZE, rows), 10, privacy=privacy)


def oracle(made: Any, x: np.ndarray, y: np.ndarray, clip: float) -> tuple[list[Any], np.ndarray]:
    """The sum of clipped gradients, and the norms before, from JAX's gradient of each row."""
    import jax

    def loss(weights: Any, x: Any, y: Any) -> Any:
        others = [v.value for v in made.non_trainable_variables]
        z, _ = made.stateless_call(weights, others, x[None])
        return -(jax.nn.log_softmax(z[0]) * y).sum()

    weights = [v.value for v in made.trainable_variables]
    rows = jax.vmap(jax.grad(loss), (None, 0, 0))(
        weights, x.astype(np.float32), y.astype(np.float32)
    )
    rows = [np.asarray(g, float) for g in rows]
    norms = np.sqrt(sum((g.reshape(len(x), -1) ** 2).sum(1) for g in rows))
    factors = np.minimum(1.0, clip / norms)
    return [np.tensordot(factors, g, 1) for g in rows], norms


@pytest.mark.parametrize("name", list(MODELS))
def test_which_way_a_layer_goes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tercet.frontend import private

    taken = []
    original = private.row_gradients
    monkeypatch.setattr(
        private, "row_gradients", lambda *a: taken.append(original(*a)) or taken[-1]
    )
    traced(model(name), 1.0)
    ways = {"ByWeights": "weights", "ByPlaces": "places"}
    assert " ".join(ways[type(t).__name__] for t in taken) == MODELS[name][1]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", list(MODELS))
def test_clipped_sums(name: str, shared: bool) -> None:
    made = model(name)
    x, y = data(name)
    privacy = PrivateSum(1.0, 1.0, ROWS, BATCH)
    rows = Poisson(SEED, privacy, SIZE).sampled(0)
    _, norms = oracle(made, x, y, 1.0)
    clip = float(np.median(norms[rows]))
    found = traced(made, clip)
    privacy = found.training.privacy
    target = privacy.target * 2.0 ** (privacy.exponent - 7)
    wanted, norms = oracle(made, x[rows], y[rows], target)
    assert norms.min() < target < norms.max()
    total = moved(found, step(found, x, y, silence(found), shared))
    error = norm([a - b for a, b in zip(total, wanted, strict=True)])
    assert error < 1e-3 * clip * len(rows) + 1e-4
    if not shared:
        given = {"x": encode(x[:SIZE], DATA_SCALE), "y": encode(y[:SIZE], DATA_SCALE)}
        whole, _ = oracle(made, x[:SIZE], y[:SIZE], target)
        exact = [s / 2.0 ** (GRID - privacy.exponent) for s in exact_sums(found, given, False)]
        error = norm([a - b for a, b in zip(exact, whole, strict=True)])
        assert error < 1e-3 * clip * SIZE


@pytest.mark.parametrize("name", [n for n in MODELS if n != "dense"])
def test_what_a_layer_sees_is_no_larger_than_is_reckoned(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm of q is below 2 gain times that of a; checked rows then have room in the ring."""
    from tercet.frontend import private

    seen: list[Any] = []
    original = private.private_layers
    monkeypatch.setattr(private, "private_layers", lambda *a: seen.extend(original(*a)) or seen)
    traced(model(name), 1.0)
    for layer in seen:
        if layer.places is None:
            continue
        x, whole = layer.product.inputs[0], layer.places.whole
        pixels = math.prod(x.shape[1:])
        kernel = layer.places.kernel().astype(np.uint64)
        q = kernels.conv(
            np.eye(pixels, dtype=np.uint64).reshape(pixels, *x.shape[1:]),
            kernel,
            strides=whole.strides,
            padding=whole.padding,
            input_dilation=(1,) * len(whole.strides),
            kernel_dilation=whole.spread,
            groups=whole.groups,
        )
        assert np.linalg.norm(q.reshape(pixels, -1).astype(float), 2) < 2 * gain(layer)


@cache
def _one(name: str) -> Any:
    return traced(model(name), 0.7, rows=1)


def _ring(x: np.ndarray, scale: int = DATA_SCALE) -> np.ndarray:
    """Return ring elements of numbers of any size."""
    words = [round(v * 2.0**scale) % 2**64 for v in np.asarray(x, float).ravel()]
    return np.array(words, np.uint64).reshape(x.shape)


def _bound(found: Any) -> int:
    """C squared, in squared units of the grid, rounded down."""
    privacy = found.training.privacy
    clip = Fraction(privacy.clip_norm) / Fraction(2) ** privacy.exponent * 2**GRID
    return math.floor(clip * clip)


@pytest.mark.parametrize("name", ["small", "places", "pools", "groups", "grouped places", "dense"])
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    seed=st.integers(0, 2**20),
    size=st.one_of(st.floats(-6, 8), st.floats(-6, 46)),
    gain=st.one_of(st.just(0.0), st.floats(-3, 14)),
    label=st.one_of(st.floats(-2, 8), st.floats(-2, 46)),
    kind=st.sampled_from(["noise", "alike", "one", "ring"]),
    shared=st.sampled_from([False, False, False, True]),
)
def test_no_row_moves_the_sum_by_more_than_the_norm(
    name: str, seed: int, size: float, gain: float, label: float, kind: str, shared: bool
) -> None:
    """Whatever its numbers, its labels and the weights: an exact bound on integers."""
    found = _one(name)
    rng = np.random.default_rng(seed)
    shape = (1, *MODELS[name][0])
    x = {"noise": rng.normal(size=shape), "one": np.eye(1, math.prod(shape)).reshape(shape)}
    rows = {
        "x": _ring(x.get(kind, np.ones(shape)) * 2.0**size),
        "y": _ring(rng.normal(size=(1, CLASSES)) * 2.0**label),
    }
    if kind == "ring":  # shares of whatever a cheating owner likes
        rows["x"] = rng.integers(0, 2**64, shape, dtype=np.uint64)
    for path in found.variables.values():
        rows[path] = _ring(found.arrays[path] * 2.0**gain, 24)
    moved = squared_norm(exact_sums(found, rows, shared))
    assert moved <= _bound(found), math.sqrt(moved / _bound(found))


@pytest.mark.parametrize("name", ["small", "places", "pools"])
def test_rows_at_and_beyond_the_limits(name: str) -> None:
    """Clipped to nearly C as long as the norm is below 2^8 C; nothing at all far beyond."""
    found = _one(name)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, *MODELS[name][0])), np.eye(CLASSES)[[0]]
    told = []
    for size in (2.0**-9, 1.0, 4.0, 2.0**9, 2.0**20):
        rows = {"x": _ring(x * size), "y": _ring(-2 * y)}
        told.append(math.sqrt(squared_norm(exact_sums(found, rows, False)) / _bound(found)))
    assert told[1] > 0.95
    assert told[2] > 0.95
    assert told[4] == 0


def test_a_row_that_fails_moves_nothing_on_shares() -> None:
    """Roundings of c d = 0 would: they are gated."""
    found = _one("places")
    shape = (1, *MODELS["places"][0])
    rows = {"x": _ring(np.full(shape, 2.0**20)), "y": _ring(np.eye(CLASSES)[[0]])}
    for _ in range(3):
        assert squared_norm(exact_sums(found, rows, True)) == 0
