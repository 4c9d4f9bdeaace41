"""Policies that change what runs: against NumPy, in the clear and among three parties."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import InputError
from tercet.program.builder import Builder
from tercet.program.operations import MAX_CLASSES
from tercet.program.passes import lower
from tercet.program.program import Program, Role
from tercet.program.serving import Mode, Release, kept_bits, serving_program
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.interpreter import run
from tests.trio import parties, reconstruct, share
from tests.trio import run as drive

UNIT = 2.0**-16


def identity(width: int = 6, softmax: bool = False) -> Program:
    """The client's rows as they are, so that what is seen is the policy alone."""
    builder = Builder(16)
    value = builder.input("input", Role.INPUT, (-1, width))
    if softmax:
        value = builder.emit("softmax", value, axis=1, bits=62)
    return lower(builder.finish(value), {})[0]


def evaluate(program: Program, words: np.ndarray, protocol: str) -> np.ndarray:
    """Return the output's ring elements."""
    if protocol == "plaintext":
        return finish(run(program, Plaintext(), {"input": Share((words,))}, len(words))).parts[0]
    held, trio = share(words, np.random.default_rng(0)), parties()
    results, _ = drive(lambda i: run(program, trio[i], {"input": held[i]}, len(words)))
    return reconstruct(results)


both = pytest.mark.parametrize("protocol", ["plaintext", "replicated"])


@both
def test_every_mode(protocol: str) -> None:
    x = np.random.default_rng(1).normal(0, 4, (50, 6)).round(3)
    words, program = encode(x, 16), identity()

    def served(**terms: object) -> np.ndarray:
        return decode(evaluate(serving_program(program, Release(**terms)), words, protocol), 16)

    np.testing.assert_array_equal(served(mode=Mode.ARGMAX), x.argmax(1))
    top = served(mode=Mode.TOP_K, top=2)
    order = np.argsort(-x, 1)[:, :2]
    np.testing.assert_array_equal(top[..., 0], order)
    np.testing.assert_allclose(top[..., 1], np.take_along_axis(x, order, 1), atol=UNIT)
    exact = np.exp(x - x.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    np.testing.assert_allclose(served(mode=Mode.SOFTMAX), exact, atol=4 * UNIT)
    clamped = served(clamp=(-1.5, 2.0))
    np.testing.assert_allclose(clamped, np.clip(x, -1.5, 2.0), atol=2 * UNIT)


@both
@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_bits_below_the_last_decimal_are_not_there(protocol: str, decimals: int) -> None:
    x = np.random.default_rng(2).normal(0, 4, (200, 6))
    words = encode(x, 16)
    got = evaluate(serving_program(identity(), Release(decimals=decimals)), words, protocol)
    cut = 16 - kept_bits(decimals, 16)
    assert not (got & np.uint64((1 << cut) - 1)).any()
    step = 2.0 ** -kept_bits(decimals, 16)
    assert step <= 10.0**-decimals
    assert np.abs(decode(got, 16) - x).max() <= 0.5 * step + UNIT


@both
@pytest.mark.parametrize("decimals", [0, 2, 4])
def test_asking_again_tells_nothing_more(protocol: str, decimals: int) -> None:
    """Rounding is a function of the score alone: its average tells no bit that was cut off."""
    words = np.repeat(encode(np.random.default_rng(4).normal(0, 4, (4, 6)), 16), 64, axis=0)
    got = evaluate(serving_program(identity(), Release(decimals=decimals)), words, protocol)
    cut = np.uint64(16 - kept_bits(decimals, 16))
    nearest = (words.view(np.int64) + (1 << int(cut) >> 1)) >> cut.astype(np.int64)
    np.testing.assert_array_equal(got.view(np.int64), nearest << cut.astype(np.int64))


@both
def test_a_clamp_holds_for_every_ring_element(protocol: str) -> None:
    """Also for those that no honest client sends and no comparison holds."""
    rng = np.random.default_rng(3)
    wild = rng.integers(0, 2**64, (500, 6), dtype=np.uint64)
    edges = [(1 << b) + d for b in range(40, 64) for d in (-1, 0, 1, 12345)]
    wild[: len(edges) // 6] = np.array(edges, np.uint64).reshape(-1, 6)
    got = decode(
        evaluate(serving_program(identity(), Release(clamp=(-0.25, 1.0))), wild, protocol), 16
    )
    assert got.min() >= -0.25
    assert got.max() <= 1.0


def test_the_default_changes_nothing_and_each_setting_something() -> None:
    program = identity()
    assert serving_program(program, Release()) is program
    settings = [
        Release(), Release(Mode.SOFTMAX), Release(Mode.ARGMAX), Release(Mode.TOP_K, 1),
        Release(Mode.TOP_K, 2), Release(decimals=2), Release(decimals=3),
        Release(clamp=(0, 1)), Release(clamp=(0, 2)),
    ]  # fmt: skip
    digests = [serving_program(program, s).digest() for s in settings]
    assert len(set(digests)) == len(digests)
    assert digests == [serving_program(program, s).digest() for s in settings]


def test_a_model_that_ends_in_softmax_gets_no_second_one() -> None:
    program = identity(softmax=True)
    ops = [i.op for i in serving_program(program, Release(Mode.SOFTMAX)).instructions]
    assert ops.count("softmax") == 1


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (Release(Mode.TOP_K), "top 0"),
        (Release(Mode.TOP_K, 7), "output of shape"),
        (Release(Mode.RAW, 3), "mode raw"),
        (Release(Mode.ARGMAX, decimals=2), "decimals with mode argmax"),
        (Release(decimals=-1), "-1 decimals"),
        (Release(clamp=(1.0, 1.0)), "clamp from"),
        (Release(clamp=(0.0, float("nan"))), "clamp from"),
        (Release(clamp=(0.0, 1e9)), "clamp from"),
    ],
)
def test_settings_that_make_no_sense(release: Release, words: str) -> None:
    with pytest.raises(InputError, match=words):
        serving_program(identity(), release)


def test_too_many_classes() -> None:
    with pytest.raises(InputError, match="output of shape"):
        serving_program(identity(MAX_CLASSES + 1), Release(Mode.ARGMAX))
