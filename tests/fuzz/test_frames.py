"""Frames that no worker of this version sends: refused one by one, and the link comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

import pytest

from tercet.errors import FrameError, PeerLost, TransportError
from tercet.net.frame import ABORT, DATA, HEADER_BYTES, Frame, FrameReader, header
from tercet.net.link import TlsTransport
from tercet.net.transport import Tag
from tests.fuzz.mutations import mutate
from tests.net.test_frame import Pipe
from tests.net.workers import TlsCluster

SESSION = bytes(range(16))
#: Payload that a frame may announce here: a reader allocates it before it comes.
MOST = 1 << 20


def stream(rng: Random) -> bytes:
    """One to four frames as a worker sends them."""
    frames = []
    for step in range(rng.randint(1, 4)):
        kind = rng.choice((DATA, DATA, ABORT))
        payload = rng.randbytes(rng.choice((0, 1, 8, 100, 1000)))
        tag = Tag(SESSION, rng.choice((step, 1 << 31, (1 << 32) - 1)), rng.choice((0, 65535)))
        frames.append(header(kind, tag, len(payload)) + payload)
    return b"".join(frames)


def streams(seed: int, count: int) -> Iterator[bytes]:
    rng = Random(seed)
    for _ in range(count):
        yield mutate(rng, stream(rng))


def read(data: bytes, pieces: list[int]) -> tuple[list[Frame], str]:
    """Read until the end; return the frames and how it ended."""
    reader, frames = FrameReader(Pipe(data, pieces)), []
    for _ in range(2 * len(data) + 2):
        try:
            frame = reader.advance()
        except FrameError:
            return frames, "refused"
        except EOFError:
            return frames, "complete" if reader.between_frames else "cut off"
        if frame is not None:
            frames.append(frame)
    raise AssertionError("a reader that reads for ever")


def check_frames(seed: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read, was sent: header and payload of each frame stand in the stream."""
    monkeypatch.setattr("tercet.net.frame._LIMITS", {DATA: MOST, ABORT: 2000})
    rng, ends = Random(seed), dict.fromkeys(("refused", "complete", "cut off"), 0)
    for data in streams(seed, count):
        pieces = [rng.choice((1, 7, HEADER_BYTES, 500)) for _ in range(rng.choice((0, 5, 40)))]
        frames, end = read(data, pieces)
        ends[end] += 1
        again = b"".join(header(f.kind, f.tag, len(f.payload)) + f.payload for f in frames)
        assert data.startswith(again)
        assert (end == "complete") <= (again == data)
        assert end != "refused" or len(data) - len(again) >= HEADER_BYTES
    assert min(ends.values()) > count // 50, ends


def test_mutated_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    check_frames(1, 20_000, monkeypatch)


@pytest.mark.slow
def test_many_mutated_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    check_frames(2, 80_000, monkeypatch)


def linked(one: TlsTransport, other: TlsTransport) -> bool:
    try:
        return one.link(other.index) == other.link(one.index)
    except TransportError:
        return False


def await_link(one: TlsTransport, other: TlsTransport) -> None:
    until = time.monotonic() + 30
    while not linked(one, other):
        assert time.monotonic() < until, "the link did not come back"
        time.sleep(0.005)


def check_links(cluster: TlsCluster, seed: int, count: int) -> None:
    """Worker 0 sends worker 1 garbage over its real link: refused, and a new link works.

    What a reader alone refuses, the link must refuse. The ends of one link are looked at, not
    whichever link stands: once the keeper has refused, a new one comes at any moment.
    """
    rng = Random(seed)
    bad, good = cluster.workers[0], cluster.workers[1]
    refused = 0
    for number in range(count):
        await_link(bad, good)
        sender, receiver = bad._peers[1].channel, good._peers[0].channel
        # Enough that a length that was made up is complete, or ends with the link.
        garbage = rng.randbytes(HEADER_BYTES) if number % 2 else mutate(rng, stream(rng))
        garbage += bytes(HEADER_BYTES)
        nothing = Tag(number.to_bytes(16, "big"), 7)
        with sender._out_lock:
            sender._outgoing.send(garbage)
        if read(garbage, [])[1] == "refused":
            with pytest.raises(FrameError):
                receiver.recv(nothing, 0, timeout=30)
            refused += 1
        else:  # frames, or one that announces more than has come: nothing need be wrong yet
            with pytest.raises(TransportError):
                receiver.recv(nothing, 0, timeout=0.1)
            sender.fail(PeerLost, "the end of a case")
    assert refused > count // 2
    await_link(bad, good)  # both ends know by then that the last one was refused
    cluster.ready()
    for one, other in ((0, 1), (1, 2), (2, 0)):
        tag = Tag(b"the last session", one)
        cluster.workers[one].send(other, tag, [b"still here"])
        assert bytes(cluster.workers[other].recv(one, tag, 10, 10)) == b"still here"


def test_a_listed_peer_that_sends_garbage(links: TlsCluster) -> None:
    check_links(links, 3, 40)


@pytest.mark.slow
def test_a_listed_peer_that_sends_much_garbage(links: TlsCluster) -> None:
    check_links(links, 4, 400)
