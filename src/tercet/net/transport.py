"""What the protocols ask of the network: tagged messages between three workers.

A frame is addressed by its *tag* (session, step, slice), never by its place in a queue, so that
slices that run side by side cannot take each other's messages. Two transports implement the
interface: ``tercet.net.memory`` within one process, for tests, and ``tercet.net.link`` over TLS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.errors import FrameError, TransportError

WORKERS: Final = 3
SESSION_BYTES: Final = 16

MAX_PAYLOAD: Final = 1 << 30
"""Largest payload of one frame, in bytes."""

MAX_QUEUED: Final = 1 << 31
"""Most bytes that may wait for one peer, and from one peer, at a time."""

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds for which ``recv`` waits unless told otherwise."""

Buffer = bytes | bytearray | memoryview | NDArray[Any]


class Tag(NamedTuple):
    """Address of one frame: used once in each direction between two workers.

    Attributes:
        session: 16 bytes, drawn at random for each run of a program.
        step: the instruction, or message within it; 0 <= step < 2^32.
        slice: which slice of the batch; 0 <= slice < 2^16.
    """

    session: bytes
    step: int
    slice: int = 0

    def __str__(self) -> str:
        return f"step {self.step}, slice {self.slice} of session {self.session.hex()[:8]}"


@dataclass(frozen=True)
class PairLink:
    """One connection between two workers, and the key that only its two ends know.

    Attributes:
        id: 16 random bytes, the same at both ends, different for each connection. Two workers
            that set up a session compare it: if they differ, so do their keys.
        key: the pair key, 32 bytes (``tercet.crypto.schedule.pair_key``).
    """

    id: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"PairLink({self.id.hex()[:8]}, <secret>)"


class Transport(ABC):
    """The messages of one worker. Every method may be called from any thread.

    Attributes:
        index: this worker, 0, 1 or 2.
    """

    index: int

    @abstractmethod
    def open_session(self, session: bytes) -> dict[int, PairLink]:
        """Start a session on the present links and return these, by peer.

        Should one of the links be lost later, then everything that the session still sends or
        waits for there fails, even if a new link stands by then: it has another key.

        Raises:
            PeerLost: a peer is not connected.
            SecurityError: the session id was seen before on one of the links.
        """

    @abstractmethod
    def send(self, peer: int, tag: Tag, buffers: Sequence[Buffer]) -> int:
        """Send one frame whose payload is the buffers, one after the other. Does not block.

        Returns how many bytes they have: header and TLS are not counted.

        The buffers belong to the caller again on return. Writable ones that cannot leave at once
        are copied; bytes and read-only arrays are not.

        Raises:
            FrameError: the tag was used before, or the payload exceeds ``MAX_PAYLOAD``.
            PeerLost: the peer is not connected, or the session's link to it was lost.
            TransportError: too much is waiting to be sent, or session or transport have ended.
        """

    @abstractmethod
    def recv(self, peer: int, tag: Tag, size: int, timeout: float = DEFAULT_TIMEOUT) -> memoryview:
        """Wait for the frame with this tag and return its payload.

        Args:
            peer: the worker that sends it.
            tag: the frame's address.
            size: the payload's length in bytes.
            timeout: seconds to wait.

        Returns:
            Writable bytes that belong to the caller, aligned for 64-bit words.

        Raises:
            FrameError: the payload has another size.
            PeerLost: the peer is not connected, or was lost meanwhile.
            TransportError: time-out, or session or transport have ended.
        """

    @abstractmethod
    def discard(self, session: bytes) -> None:
        """End a session: drop its frames, those that wait and those still to come.

        To be called after every session, also after one that succeeded: until then the transport
        remembers each tag that it used.
        """

    @abstractmethod
    def abort(self, reason: str, session: bytes | None = None) -> None:
        """Give up, and let the peers know at once instead of by time-out.

        Args:
            reason: plain English, at most 500 characters of which are passed on. No secrets.
            session: the session to end, here and at the peers. None ends this transport.
        """

    @abstractmethod
    def close(self) -> None:
        """Send what is queued, then end all connections and threads. May be called again."""

    @abstractmethod
    def connected(self) -> set[int]:
        """The peers to which a link stands."""

    @abstractmethod
    def link(self, peer: int) -> PairLink:
        """The present link to a peer.

        Raises:
            PeerLost: there is none.
        """

    def pair_key(self, peer: int) -> bytes:
        """The 32-byte key of the present link to a peer."""
        return self.link(peer).key

    def epoch(self, peer: int) -> bytes:
        """The id of the present link to a peer, 16 bytes; another one after each reconnection."""
        return self.link(peer).id


def peers_of(index: int) -> tuple[int, int]:
    """Return the two other workers, the next one first."""
    if index not in range(WORKERS):
        raise ValueError(f"a worker's index is 0, 1 or 2, not {index}")
    return (index + 1) % WORKERS, (index + 2) % WORKERS


def check_tag(tag: Tag) -> None:
    """Check that a tag fits the frame header.

    Raises:
        FrameError: it does not.
    """
    session, step, part = tag
    if not (0 <= step < 1 << 32 and 0 <= part < 1 << 16 and len(session) == SESSION_BYTES):
        raise FrameError(
            f"({step}, {part}) with a session id of {len(session)} bytes is not a tag",
            "A session id has 16 bytes, a step 32 bits and a slice 16",
        )


def sent_twice(peer: int, tag: Tag) -> FrameError:
    """The error for a second message under one tag."""
    return FrameError(
        f"a second message to worker {peer} under {tag}",
        "Give each message of a program a step of its own",
    )


def timed_out(peer: int, tag: Tag, timeout: float) -> TransportError:
    """The error for a message that did not come."""
    return TransportError(
        f"worker {peer} did not send {tag} within {timeout:g} s",
        "See that worker's log; it may be overloaded, or have refused the session",
    )


def payload_size(buffers: Sequence[Buffer]) -> int:
    """Return the bytes in all the buffers.

    Raises:
        FrameError: they exceed ``MAX_PAYLOAD``.
    """
    size = 0
    for buffer in buffers:
        size += len(buffer) if isinstance(buffer, (bytes, bytearray)) else buffer.nbytes
    if size > MAX_PAYLOAD:
        raise FrameError(
            f"a message of {size} bytes exceeds the limit of {MAX_PAYLOAD}",
            "Run the batch in smaller slices",
        )
    return size


def as_bytes(buffer: Buffer) -> memoryview:
    """View a buffer as bytes; an array that is not C-contiguous is copied first."""
    if isinstance(buffer, np.ndarray):
        if buffer.nbytes == 0:
            return memoryview(b"")
        if not buffer.flags.c_contiguous:
            buffer = np.ascontiguousarray(buffer)
        return buffer.data.cast("B")
    view = memoryview(buffer)
    return memoryview(b"") if view.nbytes == 0 else view.cast("B")


def allocate(size: int) -> memoryview:
    """Return ``size`` writable bytes, not initialised and aligned for 64-bit words."""
    return np.empty(size, np.uint8).data


def check_size(peer: int, tag: Tag, expected: int, payload: memoryview) -> memoryview:
    """Return the payload if it has the expected size.

    Raises:
        FrameError: it has not.
    """
    if len(payload) != expected:
        raise FrameError(
            f"worker {peer} sent {len(payload)} bytes for {tag} where {expected} were expected",
            "The workers must run the same program on the same shapes: compare their versions",
        )
    return payload
