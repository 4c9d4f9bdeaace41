"""A resend of low bits: exact, counted, and refused if a summand was changed on its way."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import IntegrityError
from tercet.protocol.base import Partial
from tercet.protocol.replicated.packed import packed_reshare
from tercet.protocol.replicated.sharing import OutputPart, combine, output_digest
from tests.trio import drive, parties, share

BITS = 40


@pytest.mark.parametrize("size", [1, 7, 8, 1000])
def test_a_sum_goes_through_40_bits(size: int) -> None:
    rng = np.random.default_rng(size)
    value = rng.integers(-(2**39), 2**39, size)
    value[0] = -(2**39)
    dealt = share(value.view(np.uint64), rng)
    steps = [
        packed_reshare(side, Partial((mine.parts[0],)), BITS, "sum")
        for side, mine in zip(parties(), dealt, strict=True)
    ]
    packed, traffic = drive(steps)
    assert (traffic.bytes, traffic.rounds) == (3 * 5 * size, 1)
    for i in range(3):
        np.testing.assert_array_equal(packed[i].second, packed[(i + 1) % 3].first)
    told = [OutputPart(p.first.tobytes(), output_digest(p.second.data)) for p in packed]
    np.testing.assert_array_equal(combine(told, (size,), BITS).view(np.int64), value)
    spoilt = bytearray(told[1].summand)
    spoilt[0] ^= 1
    told[1] = OutputPart(bytes(spoilt), told[1].other_digest)
    with pytest.raises(IntegrityError, match="workers 0 and 1 released different output shares"):
        combine(told, (size,), BITS)
