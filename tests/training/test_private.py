"""Private steps beside float64: clipped sums in the clear and on shares, the noise, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest

from tercet.crypto.prg import fresh
from tercet.errors import InputError, ProgramError, SecurityError, UnsupportedOperation
from tercet.net.memory import MemoryTransport
from tercet.program.private import GRID, PrivateSum
from tercet.program.program import Role
from tercet.program.training import (
    DATA_SCALE,
    Kind,
    StepInput,
    Training,
    decode_training,
    encode_training,
    verify_training,
)
from tercet.ring.fixed import decode, encode
from tercet.runtime import chunk as chunks
from tercet.runtime.chunk import Chunk, run_chunk
from tercet.runtime.noise import NoiseAhead
from tercet.runtime.sampling import Poisson
from tercet.runtime.session import Session
from tercet.runtime.training import noise_words, step_values
from tests import trio
from tests.training.noisy import moved, norm, silence, step
from tests.training.steps import DRAWN, SEED, words

ROWS, BATCH, SIZE, WIDTH, CLASSES = 40, 12, 24, 6, 3


def model(*, rate: float = 0.5, bias: bool = True, optimizer: Any = None) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(8, activation="relu", use_bias=bias),
        keras.layers.Dense(5, activation="tanh"),
        keras.layers.Dense(CLASSES),
    ]
    made = keras.Sequential([keras.Input((WIDTH,)), *layers])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(optimizer or keras.optimizers.SGD(rate), loss)
    return made


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = np.round(rng.normal(size=(ROWS, WIDTH)) * 2**8) / 2**8
    x[:4] *= 0.05  # some gradients are not clipped
    x[:, 5] *= 10.0  # others' norms are many clipping norms
    return x, np.eye(CLASSES)[rng.integers(0, CLASSES, ROWS)]


def traced(made: Any, clip: float, multiplier: float = 1.0, rows: int = ROWS) -> Any:
    from tercet.frontend.training import trace_training

    privacy = PrivateSum(clip, multiplier, rows, min(BATCH, rows))
    return trace_training(made, min(SIZE, rows), 10, privacy=privacy)


def oracle(made: Any, x: np.ndarray, y: np.ndarray, clip: float) -> tuple[list[Any], np.ndarray]:
    """The sum of clipped gradients in float64, and the norms before."""
    weights = [np.asarray(v.value, float) for v in made.trainable_variables]
    with_bias = len(weights) == 6
    pairs = iter(weights)
    layers = [(next(pairs), next(pairs) if with_bias or n else None) for n in range(3)]
    total, norms = [np.zeros_like(w) for w in weights], []
    for a, target in zip(x, y, strict=True):
        kept = []
        for n, (w, b) in enumerate(layers):
            z = a @ w + (0 if b is None else b)
            kept.append((a, z))
            a = np.maximum(z, 0) if n == 0 else np.tanh(z) if n == 1 else z
        p = np.exp(a - a.max())
        change = p / p.sum() - target
        gradients: list[Any] = []
        for n in (2, 1, 0):
            before, z = kept[n]
            if n < 2:
                change = change * ((z > 0) if n == 0 else 1 - np.tanh(z) ** 2)
            w, b = layers[n]
            if b is not None:
                gradients.insert(0, change)
            gradients.insert(0, np.outer(before, change))
            change = w @ change
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        norms.append(norm)
        for t, g in zip(total, gradients, strict=True):
            t += g * min(1.0, clip / norm)
    return total, np.array(norms)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("clip", "bias"), [(1.0, True), (0.3, False), (40.0, True)])
def test_clipped_sums(clip: float, bias: bool, shared: bool) -> None:
    made = model(bias=bias)
    found = traced(made, clip)
    x, y = data()
    privacy = found.training.privacy
    rows = Poisson(SEED, privacy, SIZE).sampled(0)
    assert 0 < len(rows) < SIZE
    target = privacy.target * 2.0 ** (privacy.exponent - 7)
    assert 0.97 * clip < target < clip
    wanted, norms = oracle(made, x[rows], y[rows], target)
    assert norms.max() > 3 * clip or clip > 1
    total = moved(found, step(found, x, y, silence(found), shared))
    # Within 1e-3 of the clipping norm for each row, and what rounding to 24 bits makes of it.
    error = norm([a - b for a, b in zip(total, wanted, strict=True)])
    assert error < 1e-3 * clip * len(rows) + 1e-4


@pytest.mark.parametrize("shared", [False, True])
def test_no_row_moves_the_sum_by_more_than_the_norm(shared: bool) -> None:
    import keras

    clip = 0.7
    made = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(CLASSES)])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.5), loss)
    found = traced(made, clip, rows=1)
    wrong = np.argmin(np.asarray(made.trainable_variables[0].value).sum(0))
    x, y = np.ones((1, WIDTH)) / 2, np.eye(CLASSES)[[wrong]]
    told = []
    for size in (0.0, 0.1, 30.0, 60.0, 2000.0):
        total = moved(found, step(found, x * size, y, silence(found), shared))
        told.append(norm(total))
    assert max(told) < clip
    assert min(told[1:4]) > 0.95 * clip
    assert told[4] < 1e-6  # beyond the limit


def test_noise_has_the_agreed_variance_and_reaches_the_weights() -> None:
    found = traced(model(), 1.5, 2.0)
    training = found.training
    count, variance = noise_words(training), training.privacy.share_variance
    # In units of 2^p = 1: two shares together have the deviation z C = 3.
    assert math.sqrt(2 * variance) / 2**GRID == pytest.approx(3.0, rel=1e-12)
    sources = [NoiseAhead() for _ in range(3)]
    x, y = data()
    quiet = moved(found, step(found, x, y, silence(found), True))
    drawn = []
    for _ in range(4):
        noise = [source.take(count, variance) for source in sources]
        noisy = moved(found, step(found, x, y, noise, True))
        seen = np.concatenate([(a - b).ravel() for a, b in zip(noisy, quiet, strict=True)])
        ends = np.cumsum([0, *(math.prod(i.type.shape) for i in training.inputs(Role.NOISE))])
        parts = {
            i.name: np.sum(noise, axis=0)[s:e] / 2**GRID
            for i, s, e in zip(training.inputs(Role.NOISE), ends, ends[1:], strict=False)
        }
        wanted = np.concatenate([parts[f"{n}/noise"] for n in found.variables.values()])
        np.testing.assert_allclose(seen, wanted, atol=2e-3)
        drawn.append(wanted)
    # All three: 1.5 times the variance. The mean square of k Gaussians has the relative
    # deviation root of 2 / k: five of them.
    samples = np.concatenate(drawn)
    k = len(samples)
    assert np.mean(samples**2) / (1.5 * 9.0) == pytest.approx(1.0, abs=5 * math.sqrt(2 / k))


def test_a_repeated_chunk_has_other_noise_other_masks_and_other_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after the loss of a worker: all three go on from the same state."""
    found = traced(model(), 1.0)
    training, transports, rng = found.training, MemoryTransport.trio(), np.random.default_rng(0)
    sampled = Poisson(SEED, training.privacy, training.batch_size).rows(0)
    given = {n: encode(a[sampled], DATA_SCALE) for n, a in zip("xy", data(), strict=True)}
    states, rows = (
        {n: trio.share(w, rng) for n, w in words_.items()}
        for words_ in (words(found, Role.STATE), given)
    )
    kind = noise_words(training), training.privacy.share_variance
    sources, drawn = [NoiseAhead() for _ in range(3)], []

    def noise(i: int) -> Callable[[], Any]:
        return lambda: drawn.append(sources[i].take(*kind)) or drawn[-1]

    seeds: list[bytes | None] = []

    def values(training: Training, step: int, seed: bytes, signs: bytes | None) -> Any:
        seeds.append(signs)
        return step_values(training, step, seed, signs)

    monkeypatch.setattr(chunks, "step_values", values)

    def run(nonces: tuple[bytes, bytes, bytes]) -> list[Any]:
        def one(i: int) -> Any:
            session = Session(transports[i], nonces, training.digest())
            mine, held = ({n: s[i] for n, s in g.items()} for g in (states, rows))
            chunk, public = Chunk(0, 1, SEED, (), True), words(found, Role.PUBLIC)
            try:
                return run_chunk(
                    session, training, chunk, mine, lambda _: held, public, 10.0, noise(i)
                )[0]
            finally:
                session.close()

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(one, range(3)))

    used, fresh_ones = ((fresh(32), fresh(32), fresh(32)) for _ in range(2))
    once, again = run(used), run(fresh_ones)
    assert len({d.tobytes() for d in drawn}) == 6  # of three workers, twice
    assert len(set(seeds[:3])) == len(set(seeds[3:])) == 1  # the same at all three workers
    assert len(seeds) == 6
    assert len({*seeds, None, SEED}) == 4  # other ones, and not the terms' seed
    for name in found.variables.values():
        for a, b in zip(once, again, strict=True):
            assert not np.equal(a[name].parts[0], b[name].parts[0]).any()
        values = [trio.reconstruct([s[name] for s in run]) for run in (once, again)]
        assert not np.equal(*values).any()
    with pytest.raises(SecurityError):
        run(used)


def test_poisson_sampling() -> None:
    privacy = PrivateSum(1.0, 1.0, 1000, 50)
    sampler = Poisson(SEED, privacy, 90)
    counts = np.zeros(1000)
    sizes = []
    for number in range(400):
        picked = sampler.sampled(number)
        assert len(set(picked)) == len(picked) <= 90
        rows = sampler.rows(number)
        assert len(rows) == 90
        np.testing.assert_array_equal(rows[: len(picked)], picked)
        assert not rows[len(picked) :].any()
        counts[picked] += 1
        sizes.append(len(picked))
    assert np.mean(sizes) == pytest.approx(50, abs=5 * math.sqrt(47.5 / 400))
    assert np.var(sizes) == pytest.approx(47.5, rel=0.4)
    assert counts.max() < 50
    assert len(Poisson(SEED, privacy, 20).sampled(0)) == 20
    assert len(Poisson(SEED, PrivateSum(1.0, 1.0, 30, 30), 30).sampled(0)) == 30


def test_epsilon_of_the_terms() -> None:
    from tercet.errors import RefusedError
    from tercet.privacy import GaussianSum, epsilon
    from tercet.training.private import DPSGD, check_terms, private_terms, room

    # 60,000 rows, batches of 256, 60 epochs: the setting of the DP-SGD tutorials.
    found = private_terms(DPSGD(1.0, 1.1, 1e-5), 60_000, 256, 14_040)
    assert found.sampled_epsilon == pytest.approx(2.380, abs=0.005)
    by_renyi = epsilon([GaussianSum(1.1, 14_040, 256 / 60_000)], 1e-5).cross_check
    assert by_renyi is not None
    assert found.sampled_epsilon < by_renyi < 1.3 * found.sampled_epsilon
    # Without amplification: a Gaussian of deviation z / root of the steps.
    assert found.epsilon > 1000
    # One sum of everybody: Balle and Wang's exact curve gives delta 1e-5 at epsilon 4.377.
    whole = private_terms(DPSGD(1.0, 1.0, 1e-5), 100, 100, 1)
    assert whole.epsilon == whole.sampled_epsilon == pytest.approx(4.377, abs=0.01)
    size = room(found, 14_040)
    assert 256 < size < 420
    assert room(whole, 1) == 100
    check_terms(found, 14_040, size)
    with pytest.raises(RefusedError, match="but their noise gives"):
        check_terms(msgspec.structs.replace(found, sampled_epsilon=1.0), 14_040, size)
    for little in (size - 1, 256, 1):
        with pytest.raises(RefusedError, match=f"room for {little} rows, but.* takes {size}"):
            check_terms(found, 14_040, little)


def test_the_room_of_a_step_overflows_as_rarely_as_promised() -> None:
    from scipy.stats import binom

    from tercet.training.private import DPSGD, private_terms, room

    found = private_terms(DPSGD(1.0, 1.0, 1e-4), 500, 20, 100)
    size = room(found, 100)
    grown = (1 + math.exp(found.sampled_epsilon)) * 100 * binom.sf(size, 501, found.sum.rate)
    assert grown < 1e-3 * found.delta
    assert size < 80


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.0, 1.0), "clip_norm 0.0"),
        ((-1.0, 1.0), "clip_norm -1.0"),
        ((1.0, 0.0), "noise_multiplier 0.0"),
        ((1.0, float("nan")), "noise_multiplier nan"),
        ((1.0, 1.0, 1.5), "delta 1.5"),
    ],
)
def test_numbers_that_make_no_sense(values: tuple[float, ...], text: str) -> None:
    from tercet.training.private import DPSGD

    with pytest.raises(InputError, match=text):
        DPSGD(*values)


def test_numbers_without_room() -> None:
    from tercet.training.private import DPSGD, private_terms

    for clip, multiplier in ((1e4, 1.0), (1.0, 100.0)):
        with pytest.raises(InputError, match="Use"):
            private_terms(DPSGD(clip, multiplier), 100, 10, 5)
    with pytest.raises(InputError, match=r"delta 1e-18.* 100 steps") as refused:
        private_terms(DPSGD(1.0, 1.0, 1e-18), 100, 10, 100)
    private_terms(DPSGD(1.0, 1.0, float(refused.value.remedy.split()[-1])), 100, 10, 100)


def _layers() -> dict[str, tuple[str, Callable[[Any], list[Any]]]]:
    return {
        "transposed convolution": ("wider", lambda k: [
            k.Reshape((WIDTH, 1)), k.Conv1DTranspose(2, 3, name="wider"), k.Flatten()
        ]),
        "batch norm": ("not trainable", lambda k: [k.Dense(4), k.BatchNormalization()]),
        "layer norm": ("norm", lambda k: [k.Dense(4), k.LayerNormalization(name="norm")]),
        "regularizer": ("regularizer", lambda k: [k.Dense(4, kernel_regularizer="l2")]),
        "rows": ("mixed", lambda k: [k.Lambda(lambda x: x - x[:1], name="mixed")]),
        "mean of rows": (
            "mixed", lambda k: [k.Lambda(lambda x: x - x.mean(0, keepdims=True), name="mixed")]
        ),
        "dense over an axis": ("deep", lambda k: [
            k.Reshape((3, 2)), k.Dense(4, name="deep"), k.Flatten()
        ]),
    }  # fmt: skip


@pytest.mark.parametrize("case", list(_layers()))
def test_layers_without_a_rule_are_refused_by_name(case: str) -> None:
    import keras

    text, layers = _layers()[case]
    made = keras.Sequential([keras.Input((WIDTH,)), *layers(keras.layers), keras.layers.Dense(3)])
    made.compile("sgd", "mse")
    with pytest.raises(UnsupportedOperation, match=text):
        traced(made, 1.0)


@pytest.mark.parametrize(("outputs", "numbers"), [(3, 1), (1, 5)])
def test_a_bias_of_another_width_is_refused(outputs: int, numbers: int) -> None:
    import keras

    class Shifted(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: tuple[int, ...]) -> None:
            self.w = self.add_weight(shape=(shape[-1], outputs), name="w")
            self.b = self.add_weight(shape=(numbers,), name="b")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, self.w) + self.b

    layers = [keras.Input((WIDTH,)), Shifted(name="shifted"), keras.layers.Dense(3)]
    made = keras.Sequential(layers)
    made.compile("sgd", "mse")
    with pytest.raises(UnsupportedOperation, match="'shifted' uses add"):
        traced(made, 1.0)


def test_a_layer_used_twice_is_refused() -> None:
    import keras

    twice = keras.layers.Dense(WIDTH, name="twice")
    x = keras.Input((WIDTH,))
    made = keras.Model(x, keras.layers.Dense(3)(twice(twice(x))))
    made.compile("sgd", "mse")
    with pytest.raises(UnsupportedOperation, match="twice"):
        traced(made, 1.0)


def test_refused_arguments() -> None:
    import keras

    from tercet.frontend.training import trace_training

    privacy = PrivateSum(1.0, 1.0, ROWS, BATCH)
    with pytest.raises(InputError, match="without noise"):
        trace_training(model(), SIZE, 3, metrics=("loss",), privacy=privacy)
    with pytest.raises(InputError, match="clipping norm of 8 with this optimizer"):
        traced(model(optimizer=keras.optimizers.Adam()), 8.0)


@pytest.fixture(scope="module")
def private() -> Training:
    found: Training = traced(model(), 1.0).training
    return found


def test_signs_are_those_of_one_step_and_nobodys_choice(private: Training) -> None:
    (name,) = (i.name for i in private.step_inputs if i.kind is Kind.SIGNS)
    first, second = (step_values(private, n, SEED, DRAWN)[name] for n in range(2))
    assert np.array_equal(np.unique(first), [0, 2])
    # Otherwise the state of the second step would follow from the signs that check it.
    assert 0.4 < np.mean(first == second) < 0.6
    with pytest.raises(SecurityError, match="nobody drew"):
        step_values(private, 0, SEED)


def test_a_private_training_survives_its_wire_form(private: Training) -> None:
    again = decode_training(encode_training(private))
    assert again == private
    other = msgspec.structs.replace(private.privacy, noise_multiplier=2.0)  # type: ignore[type-var]
    assert msgspec.structs.replace(private, privacy=other).digest() != private.digest()


def test_rows_that_the_public_seed_would_check_are_refused(private: Training) -> None:
    old = tuple(
        StepInput(i.name, Kind.MASK, keep=0.5) if i.kind is Kind.SIGNS else i
        for i in private.step_inputs
    )
    with pytest.raises(ProgramError, match="not checked by signs that the workers draw"):
        verify_training(msgspec.structs.replace(private, step_inputs=old))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"privacy": None}, "derivation of|noise without"),
        ({"privacy": PrivateSum(1.0, 0.0, ROWS, BATCH)}, "noise multiplier of 0"),
        ({"privacy": PrivateSum(1.0, 1.0, SIZE - 1, BATCH)}, "rows of"),
        ({"privacy": PrivateSum(1.0, 1.0, ROWS, ROWS + 1)}, "rows a step on average"),
    ],
)
def test_malformed_private_steps(private: Training, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        verify_training(msgspec.structs.replace(private, **change))


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_optimizers_take_noisy_gradients(kind: str) -> None:
    """With next to no noise and no clipping, a private step is a step."""
    import keras

    settings = {"SGD": {"momentum": 0.9}, "Adam": {}}[kind]
    made = model(optimizer=getattr(keras.optimizers, kind)(0.01, **settings))
    found = traced(made, 4.0, 2.0**-10)
    x, y = data()
    x[:, 5] /= 10.0
    rows = Poisson(SEED, found.training.privacy, SIZE).sampled(0)
    after = step(found, x, y, silence(found), False)
    scales = {i.name: i.type.scale for i in found.training.inputs(Role.STATE)}
    sums, norms = oracle(made, x[rows], y[rows], 4.0)
    assert norms.max() < 3.9
    gradients = [(t / BATCH).astype(np.float32) for t in sums]
    made.optimizer.apply(gradients, made.trainable_variables)
    for variable, path in zip(made.trainable_variables, found.variables, strict=True):
        name = found.variables[path]
        before = found.arrays[name]
        wanted = np.asarray(variable.value) - before
        change = decode(np.ascontiguousarray(after[name]), scales[name]) - before
        solid = np.abs(gradients[list(found.variables).index(path)]) > 1e-4
        np.testing.assert_allclose(change[solid], wanted[solid], atol=0.02 * np.abs(wanted).max())
