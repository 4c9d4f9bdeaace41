"""The L2 bound under sharing: it holds modulo 2^64, whatever the vector, and tells one bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import IntegrityError
from tercet.protocol.base import Partial
from tercet.protocol.joint_seed import joint_seed
from tercet.protocol.norm import (
    MAX_BOUND,
    PROJECTIONS,
    coefficients,
    passes,
    projection_bound,
)
from tercet.protocol.replicated.verdict import verdicts
from tercet.protocol.rounds import Received
from tercet.ring import kernels
from tests import trio

SEED = bytes(range(32))


def judge(
    updates: list[np.ndarray], bound: int, seed: bytes = SEED, weights: list[int] | None = None
) -> tuple[list[bool], trio.Traffic]:
    """Run the check among three parties, each with a random sharing of every update."""
    rng = np.random.default_rng(7)
    shares = [trio.share(u, rng) for u in updates]
    heavy = trio.share(np.array(weights or [0] * len(updates), np.uint64), rng)
    drawn = coefficients(seed, len(updates[0]))
    sides = trio.parties()

    def steps(i: int):
        z = np.stack([drawn.project(s[i].parts[0]) for s in shares])
        squares = np.array(
            [int(sides[i].product(kernels.matmul, _row(s[i]), _column(s[i])).parts[0][0, 0])
             for s in shares], np.uint64
        )  # fmt: skip
        weight = Partial((heavy[i].parts[0],)) if weights is not None else None
        return verdicts(sides[i], Partial((z,)), Partial((squares,)), weight, bound, 1 << 20, "c")

    results, traffic = trio.run(steps)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    return [bool(r) for r in results[0]], traffic


def _row(share):
    return type(share)(tuple(p[None] for p in share.parts))


def _column(share):
    return type(share)(tuple(p[:, None] for p in share.parts))


def words(values: list[int], n: int = 100) -> np.ndarray:
    out = np.zeros(n, np.uint64)
    out[: len(values)] = np.array([v % 2**64 for v in values], np.uint64)
    return out


ATTACKS = {
    "one coordinate of 2^32, whose square is 0": [2**32],
    "many of them": [2**32] * 100,
    "2^63, which is its own negative": [2**63],
    "two of them, which cancel under any signs": [2**63, 2**63],
    "all of them": [2**63] * 100,
    "2^62 four times": [2**62] * 4,
    "2^63 and a little": [2**63 + 5, 2**63 - 5],
    "squares that add up to 0": [2**31] * 4,
    "squares that add up to 2^64 less a little": [2**32 - 1, 2**17, 2**16],
    "one unit over": [1000, 1],
    "an even spread over the bound": [101] * 100,
    "alternating": [2**40, -(2**40)] * 50,
    "large only together": [2**29] * 100,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_exceeds_the_bound_is_found(attack: list[int]) -> None:
    update = words(attack)
    assert judge([update], 1000)[0] == [False]
    assert not passes(update, 1000, SEED)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_verdict_is_that_of_the_definition(data: st.DataObject) -> None:
    bound = data.draw(st.integers(1, MAX_BOUND))
    size = st.integers(0, 70).map(lambda b: 2**b)
    value = st.one_of(
        st.integers(-bound, bound), st.builds(lambda s, d: s + d, size, st.integers(-9, 9))
    )
    updates = [
        words(data.draw(st.lists(value, max_size=8)), 16)
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    seed = data.draw(st.binary(min_size=32, max_size=32))
    judged, _ = judge(updates, bound, seed)
    assert judged == [passes(u, bound, seed) for u in updates]
    for update, good in zip(updates, judged, strict=True):
        exact = sum(int(v) ** 2 for v in update.view(np.int64))
        # Either way round: a false verdict has probability 2^-63.
        assert good == (exact <= bound**2)


def test_the_largest_honest_vectors_pass() -> None:
    """The worst case for the projections: all the norm in one place, or spread evenly."""
    one = words([MAX_BOUND])
    even = words([MAX_BOUND // 10] * 100)
    negative = words([-MAX_BOUND])
    over = words([MAX_BOUND, 1])
    assert judge([one, even, negative, over], MAX_BOUND)[0] == [True, True, True, False]


@pytest.mark.parametrize(
    ("weight", "good"), [(0, True), (1 << 20, True), ((1 << 20) + 1, False), (2**64 - 1, False),
                         (2**63, False), (2**63 + 5, False)]
)  # fmt: skip
def test_a_weight_is_from_0_to_1(weight: int, good: bool) -> None:
    assert judge([words([3])], 10, weights=[weight])[0] == [good]


def test_projections_fail_one_half_of_the_time_at_least() -> None:
    """What the proof says of a single projection, for vectors just over 8 T, is true with room."""
    bound = 10
    limit = projection_bound(bound)
    n = 400
    for update in (
        words([2 * limit + 1], n),
        words([8 * limit // 20] * 400, n),
        words([2**63] * 2, n),
    ):
        inside = []
        for i in range(40):
            z = coefficients(i.to_bytes(32, "little"), n).project(update).view(np.int64)
            inside.append(np.mean((z >= -limit) & (z <= limit)))
        assert np.mean(inside) < 0.5 + 5 * 0.5 / np.sqrt(40 * PROJECTIONS)


def test_rounds_and_bytes_do_not_depend_on_the_values() -> None:
    _, good = judge([words([1]), words([2])], 1000)
    _, bad = judge([words([2**63]), words([2**32])], 1000)
    assert (good.bytes, good.rounds) == (bad.bytes, bad.rounds)
    # 6 rounds for the comparisons on 64 bits, 8 for the ANDs, one for the opening.
    assert (good.bytes, good.rounds) == (2 * 12_240, 15)


def test_the_joint_seed_is_common_and_fresh() -> None:
    seeds = [trio.run(lambda i: joint_seed(i, b"a check"))[0] for _ in range(2)]
    assert len(set(seeds[0])) == 1
    assert seeds[0] != seeds[1]


def test_a_nonce_that_was_not_committed_to_is_found() -> None:
    steps = joint_seed(0, b"a check")
    next(steps)
    steps.send(Received(memoryview(bytes(32)), memoryview(bytes(32))))
    with pytest.raises(IntegrityError, match="worker 1 did not open"):
        steps.send(Received(memoryview(bytes(32)), memoryview(bytes(32))))
