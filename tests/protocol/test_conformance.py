"""What every protocol must do, whatever is underneath: one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.protocol.base import Partial, Protocol, Share, subtract
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import Steps, finish, together
from tests.trio import parties, reconstruct, run, share

Program = Callable[..., Steps[Share]]


def plaintext(program: Program, *values: np.ndarray) -> np.ndarray:
    return finish(program(Plaintext(), *(Share((v,)) for v in values))).parts[0]


def replicated(program: Program, *values: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    held, sides = [share(v, rng) for v in values], parties()
    results, _ = run(lambda i: program(sides[i], *(h[i] for h in held)))
    return reconstruct(results)


PROTOCOLS = {"plaintext": plaintext, "replicated": replicated}
every = pytest.mark.parametrize("protocol", PROTOCOLS)
signed = st.integers(-(2**61) + 1, 2**61 - 1)


def ring(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int64).view(np.uint64)


@every
@given(values=st.lists(signed, min_size=1, max_size=80), shift=st.integers(1, 48))
@settings(max_examples=25, deadline=None)
def test_truncate(protocol: str, values: list[int], shift: int) -> None:
    x = ring(values)
    y = PROTOCOLS[protocol](lambda p, a: p.truncate(a, shift, "t"), x).view(np.int64)
    assert set((y - (x.view(np.int64) >> shift)).tolist()) <= {0, -1}


@every
@given(values=st.lists(signed, min_size=1, max_size=80))
@settings(max_examples=25, deadline=None)
def test_relu_negative_select(protocol: str, values: list[int]) -> None:
    x = ring(values)

    def program(p: Protocol, a: Share) -> Steps[Share]:
        bit = yield from p.negative(a, 0, 62, "n")
        both = yield from p.bit_and(bit, p.bit_not(p.bit_not(bit)), "b")
        kept, rectified = yield from together(
            p.select(p.bit_not(both), a, "s"), p.relu(a, 0, 62, "r")
        )
        difference = subtract(p, kept, rectified)
        return (yield from p.reshare(p.add(difference, rectified), "o"))

    got = PROTOCOLS[protocol](program, x).view(np.int64)
    np.testing.assert_array_equal(got, np.maximum(x.view(np.int64), 0))


@every
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_products_and_local_operations(protocol: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    a, b, c = (rng.integers(0, 2**64, s, dtype=np.uint64) for s in ((3, 4), (4, 5), (3, 5)))

    def program(p: Protocol, x: Share, y: Share, z: Share) -> Steps[Share]:
        product = p.product(np.matmul, x, y)
        assert isinstance(product, Partial)
        total = p.add_public(p.add(p.map(np.negative, product), z), c)
        return (yield from p.reshare(p.add(total, p.constant(c)), "o"))

    got = PROTOCOLS[protocol](program, a, b, c)
    np.testing.assert_array_equal(got, -(a @ b) + 3 * c)


@every
@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=70), at=st.integers(7, 61))
@settings(max_examples=25, deadline=None)
def test_bit(protocol: str, values: list[int], at: int) -> None:
    x = np.array(values, dtype=np.uint64)
    one = np.ones_like(x)

    def program(p: Protocol, a: Share) -> Steps[Share]:
        bit = yield from p.bit(a, at, "b")
        return (yield from p.select(bit, p.constant(one), "s"))

    got = PROTOCOLS[protocol](program, x)
    np.testing.assert_array_equal(got, x >> np.uint64(at) & one)
