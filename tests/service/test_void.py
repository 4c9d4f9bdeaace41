"""Jobs that wait when a peer is lost do not run: it knows nothing of them when it is back."""

from __future__ import annotations

import os
from collections import deque

from tercet.service.dataplane import DataPlane
from tercet.service.messages import Event, Failed, Job, Unload, Void, encode
from tercet.service.pipe import Incoming, write_message

NONCES = (bytes(32), bytes(32), bytes(32))


def job(number: int) -> Job:
    return Job(number, b"model", "00" * 32, NONCES, [])


def test_jobs_before_a_void_are_passed_by() -> None:
    told: list[Event] = []
    there, here = os.pipe()
    output = os.fdopen(here, "wb")
    plane = DataPlane.__new__(DataPlane)  # without the process around it
    plane._incoming, plane._ahead, plane._tell = Incoming(there), deque(), told.append  # type: ignore[method-assign]

    def send(*commands: object) -> None:
        for command in commands:
            write_message(output, encode(command))

    send(job(1))
    assert plane._next() == job(1)
    send(job(2), Unload(b"model"), job(3), Void(), job(4))
    assert plane._next() == Unload(b"model")
    assert [t.number for t in told if isinstance(t, Failed)] == [2]
    assert plane._next() == Void()
    assert [t.number for t in told if isinstance(t, Failed)] == [2, 3]
    assert plane._next() == job(4)
    output.close()
    assert plane._next() is None
    os.close(there)
