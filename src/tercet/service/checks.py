"""What a worker checks of any request, whoever asks, and what it compares with its peers."""

from __future__ import annotations

import asyncio
import hashlib
from math import prod

from tercet.crypto.prg import SECRET_BYTES
from tercet.errors import IntegrityError, RefusedError
from tercet.program.program import Program
from tercet.program.types import bind_shape
from tercet.protocol.replicated.sharing import Summand
from tercet.service.config import WORKERS
from tercet.service.messages import MAX_ROWS, REQUEST_ID_BYTES

#: Bytes of one summand of a request's inputs, and of its outputs.
MAX_INPUT = 256 << 20
MAX_OUTPUT = 1 << 30
#: Bytes from which hashing leaves the event loop.
_LARGE = 1 << 20


def check_id(request: bytes) -> None:
    """Refuse an id of another length.

    Raises:
        RefusedError: if it is one.
    """
    if len(request) != REQUEST_ID_BYTES:
        raise RefusedError("a malformed request id", "Use Tercet's own client")


def check_pair(pair: tuple[Summand, Summand]) -> None:
    """Refuse what is not a sharing here, before it could spoil a batch that others share.

    Raises:
        IntegrityError: if it is not.
    """
    for summand in pair:
        if summand.seed and not summand.arrays and len(summand.seed) == SECRET_BYTES:
            continue
        if summand.arrays and not summand.seed:
            continue
        raise IntegrityError(
            "a summand is neither a seed of 32 bytes nor a set of arrays",
            "Use Tercet's own client",
        )


def check_size(program: Program, rows: int) -> None:
    """Refuse a request whose rows are too many, or too large together, for one request.

    A seed stands for a summand of any size, hence the length of a request says nothing.

    Raises:
        RefusedError: if it is one.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise RefusedError(f"{rows} rows", f"Send 1 to {MAX_ROWS} rows a request", "rows")
    for what, shape, most in (
        ("inputs", program.input_shape(), MAX_INPUT),
        ("outputs", program.output_shape(), MAX_OUTPUT),
    ):
        size = 8 * prod(bind_shape(shape, rows))
        if size > most:
            raise RefusedError(
                f"{rows} rows, whose {what} have {size} bytes",
                f"Send fewer rows a request: {most} bytes at most",
                "rows",
            )


async def pair_digests(index: int, pair: tuple[Summand, Summand]) -> dict[int, bytes]:
    """Return for each peer of worker ``index`` the digest of the summand that it holds too."""

    def both() -> dict[int, bytes]:
        first, second = pair
        return {(index - 1) % WORKERS: first.digest(), (index + 1) % WORKERS: second.digest()}

    large = any(len(a) > _LARGE for s in pair for a in s.arrays.values())
    return await asyncio.to_thread(both) if large else both()


def binding(*parts: str) -> bytes:
    """Return the digest of what was asked, which the workers compare."""
    state = hashlib.sha256(b"tercet binding v1\0")
    for part in parts:
        state.update(len(part.encode()).to_bytes(8, "little"))
        state.update(part.encode())
    return state.digest()
