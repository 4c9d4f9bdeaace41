"""Chunks of steps in sessions of three workers of one process, beside float64; public shuffles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tercet.crypto.prg import fresh
from tercet.errors import SecurityError
from tercet.net.memory import MemoryTransport
from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import combine
from tercet.ring import fixed
from tercet.runtime.chunk import Chunk, State, open_state, run_chunk
from tercet.runtime.sampling import Shuffle
from tercet.runtime.session import Session
from tercet.service.trainer import Rows
from tests import trio
from tests.training.linear import BATCH, RATE, WIDTH, data, step_program

SEED = bytes(32)
TRAINING = step_program()
X, Y = data(40, 1)


class Three:
    """Three workers that hold the data and a state."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.transports = MemoryTransport.trio()
        shares = [trio.share(fixed.encode(a, 16), rng) for a in (X, Y)]
        self.rows = [
            Rows([dict(zip("xy", mine, strict=True))], False) for mine in zip(*shares, strict=True)
        ]
        start = trio.share(fixed.encode(np.zeros((WIDTH, 1)), 16), rng)
        self.start: list[State] = [{"w": s} for s in start]

    def run(self, chunk: Chunk, states: list[State], nonces: tuple[bytes, bytes, bytes]):  # type: ignore[no-untyped-def]
        order = Shuffle(SEED, len(X), BATCH)

        def one(i: int):  # type: ignore[no-untyped-def]
            session = Session(self.transports[i], nonces, TRAINING.digest())
            try:
                return run_chunk(
                    session, TRAINING, chunk, states[i],
                    lambda step: self.rows[i].take("xy", order.rows(step)), {}, 10.0,
                )  # fmt: skip
            finally:
                session.close()

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(one, range(3)))


def nonces() -> tuple[bytes, bytes, bytes]:
    return fresh(32), fresh(32), fresh(32)


def value(states: list[State]) -> np.ndarray:
    return fixed.decode(trio.reconstruct([s["w"] for s in states]), 16)


def expected(steps: int) -> tuple[np.ndarray, float]:
    order, w, loss = Shuffle(SEED, len(X), BATCH), np.zeros((WIDTH, 1)), 0.0
    for step in range(steps):
        x, y = X[order.rows(step)], Y[order.rows(step)]
        loss += float(((x @ w - y) ** 2).sum())
        w = w - RATE / BATCH * x.T @ (x @ w - y)
    return w, loss


def test_chunks_follow_each_other_and_open_what_is_agreed() -> None:
    three = Three()
    first = three.run(Chunk(0, 3, SEED, ("loss",), False), three.start, nonces())
    second = three.run(Chunk(3, 2, SEED, (), True), [s for s, _, _ in first], nonces())
    states = [s for s, _, _ in second]
    wanted, _ = expected(5)
    np.testing.assert_allclose(value(states), wanted, atol=5 * 2**-14)
    assert all(parts == [] for _, parts, _ in second)
    opened = combine([parts[0] for _, parts, _ in first], (1,))
    assert fixed.decode(opened, 16)[0] == pytest.approx(expected(3)[1], abs=1e-2)
    weights = combine([open_state(s, ["w"])[0] for s in states], (WIDTH, 1))
    np.testing.assert_array_equal(fixed.decode(weights, 16), value(states))


def test_repeated_steps_have_other_masks_and_the_same_value() -> None:
    three = Three()
    chunk, used = Chunk(0, 2, SEED, (), True), nonces()
    once = [s for s, _, _ in three.run(chunk, three.start, used)]
    again = [s for s, _, _ in three.run(chunk, three.start, nonces())]
    np.testing.assert_allclose(value(once), value(again), atol=2**-13)
    for a, b in zip(once, again, strict=True):
        assert not np.equal(a["w"].parts[0], b["w"].parts[0]).any()
    with pytest.raises(SecurityError):
        three.run(chunk, three.start, used)


def test_a_shuffle_takes_each_row_once_an_epoch() -> None:
    order = Shuffle(SEED, 23, 5)
    assert order.steps == 4
    epochs = [np.concatenate([order.rows(4 * e + s) for s in range(4)]) for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 20
        assert set(epoch) <= set(range(23))
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(Shuffle(SEED, 23, 5).rows(7), order.rows(7))
    assert not np.array_equal(Shuffle(b"\1" * 32, 23, 5).rows(0), order.rows(0))


def test_rows_of_several_owners() -> None:
    def held(*arrays: np.ndarray) -> State:
        return {
            name: Share((a.astype(np.uint64), 2 * a.astype(np.uint64)))
            for name, a in zip("xy", arrays, strict=False)
        }

    x, y = np.arange(20).reshape(10, 2), np.arange(10)[:, None]
    below = Rows([held(x[:4], y[:4]), held(x[4:], y[4:])], False)
    beside = Rows([held(x[:, :1]), held(x[:, 1:], y)], True)
    wanted = np.array([7, 0, 3, 4])
    for rows in (below, beside):
        assert len(rows) == 10
        taken = rows.take("xy", wanted)
        np.testing.assert_array_equal(taken["x"].parts[0], x[wanted])
        np.testing.assert_array_equal(taken["y"].parts[1], 2 * y[wanted])
