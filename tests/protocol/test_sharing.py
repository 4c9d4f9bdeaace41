"""Dealing from outside and putting outputs together."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import IntegrityError
from tercet.protocol.replicated.sharing import (
    OutputPart,
    Summand,
    combine,
    deal,
    expand,
    output_part,
)
from tests.trio import reconstruct


def test_dealt_tensors_come_back_and_holders_agree() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.integers(0, 2**64, (3, 4), dtype=np.uint64),
        "b": rng.integers(0, 2**64, (), dtype=np.uint64),
    }
    pairs = deal(tensors)
    for name, value in tensors.items():
        shares = [expand(p, name, value.shape) for p in pairs]
        np.testing.assert_array_equal(reconstruct(shares), value)
    for i in range(3):
        assert pairs[i][1].digest() == pairs[(i + 1) % 3][0].digest()
    assert len({p[0].digest() for p in pairs}) == 3
    again = deal(tensors)
    assert again[0][0].seed != pairs[0][0].seed


def test_text_forms_show_nothing() -> None:
    pairs = deal({"a": np.arange(4, dtype=np.uint64)})
    assert "secret" in repr(pairs)
    assert pairs[0][0].seed.hex() not in repr(pairs)
    assert str(pairs[0][0].seed) not in repr(pairs)


def test_malformed_summands_are_refused() -> None:
    with pytest.raises(IntegrityError, match="'x' have 8 bytes, not 16"):
        Summand(arrays={"x": bytes(8)}).expand("x", (2,))
    with pytest.raises(IntegrityError, match="'y' have 0 bytes"):
        Summand(arrays={"x": bytes(8)}).expand("y", (2,))
    with pytest.raises(IntegrityError, match="malformed"):
        Summand(seed=b"short").expand("x", (2,))


@pytest.mark.parametrize("worker", range(3))
@pytest.mark.parametrize("what", ["summand", "digest", "length"])
def test_a_worker_that_lies_about_the_output_is_noticed(worker: int, what: str) -> None:
    value = np.arange(5, dtype=np.uint64)
    parts = [output_part(expand(p, "y", (5,))) for p in deal({"y": value})]
    np.testing.assert_array_equal(combine(parts, (5,)), value)
    honest = parts[worker]
    if what == "summand":
        changed = bytes([honest.summand[0] ^ 1]) + honest.summand[1:]
        parts[worker] = OutputPart(changed, honest.other_digest)
        liar = f"workers {(worker - 1) % 3} and {worker} "
    elif what == "length":
        parts[worker] = OutputPart(honest.summand[:-8], honest.other_digest)
        liar = f"workers {(worker - 1) % 3} and {worker} "
    else:
        parts[worker] = OutputPart(honest.summand, bytes(32))
        liar = f"workers {worker} and {(worker + 1) % 3} "
    with pytest.raises(IntegrityError, match=liar):
        combine(parts, (5,))
