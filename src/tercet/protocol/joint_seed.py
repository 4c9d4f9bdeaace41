"""A public seed that no worker alone can choose: commitments to nonces, then the nonces."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np

from tercet.crypto.prg import SECRET_BYTES, fresh
from tercet.errors import IntegrityError
from tercet.protocol.rounds import Round, Steps

_DIGEST_BYTES = 32
_WORKERS = 3


def joint_seed(index: int, context: bytes) -> Steps[bytes]:
    """Return 32 bytes that are uniform if one worker is honest: two rounds, 384 bytes in all.

    The seed is fixed once all commitments are sent: whoever sees the others' nonces first can
    only stop. Call it when all that the seed is to test is fixed.

    Args:
        index: this worker.
        context: what the seed is for; equal at all three, or the seeds differ.

    Raises:
        IntegrityError: if a worker's nonce is not what it committed to.
    """
    nonce = fresh(SECRET_BYTES)
    mine = _buffer(_commitment(index, context, nonce))
    got = yield Round([mine], [mine], _DIGEST_BYTES, _DIGEST_BYTES)
    commitments = [bytes(got.from_next), bytes(got.from_prev)]
    opened = _buffer(nonce)
    got = yield Round([opened], [opened], SECRET_BYTES, SECRET_BYTES)
    nonces = {index: nonce}
    for step, message, commitment in zip((1, 2), got, commitments, strict=True):
        other = (index + step) % _WORKERS
        nonces[other] = bytes(message)
        if not hmac.compare_digest(_commitment(other, context, nonces[other]), commitment):
            raise IntegrityError(
                f"worker {other} did not open the nonce that it had committed to",
                "It is faulty or cheats: tell its operator",
            )
    state = hashlib.sha256(b"tercet joint seed v1\0" + hashlib.sha256(context).digest())
    for other in range(_WORKERS):
        state.update(nonces[other])
    return state.digest()


def _commitment(index: int, context: bytes, nonce: bytes) -> bytes:
    return hashlib.sha256(
        b"tercet commitment v1\0" + bytes([index]) + hashlib.sha256(context).digest() + nonce
    ).digest()


def _buffer(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)
