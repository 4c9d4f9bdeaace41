"""A session's keys."""

from __future__ import annotations

from tercet.crypto.prg import fresh
from tercet.net.memory import MemoryTransport
from tercet.runtime.session import Session


def test_what_a_worker_draws_alone_is_drawn_anew_each_time() -> None:
    """Also in a session that has the nonces, the program and the pair keys of another."""
    nonces, digest = (fresh(32), fresh(32), fresh(32)), "ab" * 32
    first, second = (Session(MemoryTransport.trio()[0], nonces, digest) for _ in range(2))
    drawn = [s._own.words("flip", "0", 0, 4).tobytes() for s in (first, second)]
    assert drawn[0] != drawn[1]
    assert first.id == second.id
