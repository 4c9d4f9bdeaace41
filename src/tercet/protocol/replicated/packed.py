"""A resend of low bits alone: of what is only opened from here on, and fits into them.

Reduction modulo 2^bits is a homomorphism of rings: the summands modulo 2^bits are a sharing of the
value modulo 2^bits, and tell no more than the whole ones do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.protocol.base import Partial
from tercet.protocol.replicated.protocol import Replicated
from tercet.protocol.rounds import Round, Steps
from tercet.ring import kernels


class Packed(NamedTuple):
    """This worker's two summands modulo 2^bits, each packed by ``kernels.pack_bits``."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]


def packed_reshare(protocol: Replicated, x: Partial, bits: int, at: str) -> Steps[Packed]:
    """One round, 3 bits/8 bytes an element: mask by a share of zero and pass to the left."""
    masked = x.parts[0] + protocol.party.zero_words("reshare", at, x.size).reshape(x.shape)
    mine = kernels.pack_bits(masked, bits)
    received = yield Round(to_prev=[mine], from_next=mine.size)
    return Packed(mine, np.frombuffer(received.from_next, np.uint8))
