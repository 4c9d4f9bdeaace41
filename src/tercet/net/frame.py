"""Frames on the wire: a header of 36 bytes, little-endian, then the payload.

    magic and version   u16
    kind                u8    1 data, 2 abort
    flags               u8    0
    session             16 bytes
    step                u32
    slice               u16
    reserved            u16   0
    length              u64   bytes of payload

An abort ends the session that it names; its payload is the reason, UTF-8.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, Protocol

from tercet.errors import FrameError
from tercet.net.text import MAX_TEXT
from tercet.net.transport import MAX_PAYLOAD, SESSION_BYTES, Tag, allocate, check_tag

MAGIC: Final = 0x5401  # "T" and the version of this format
DATA: Final = 1
ABORT: Final = 2

_HEADER: Final = struct.Struct("<HBB16sIHHQ")
HEADER_BYTES: Final = _HEADER.size
_LIMITS: Final = {DATA: MAX_PAYLOAD, ABORT: 4 * MAX_TEXT}
_RECORD: Final = 16 << 10  # the most that one TLS record holds
_NOT_TERCET: Final = "Both workers must run the same version of Tercet"


class Frame(NamedTuple):
    """One frame that has arrived in full."""

    kind: int
    tag: Tag
    payload: memoryview


class Readable(Protocol):
    """What a reader needs of a connection; a ``TlsStream`` has it."""

    # Any: the published types of SSLSocket.read overlook that it returns a count.
    def read(self, length: int, buffer: memoryview, /) -> Any:
        """Read at most ``length`` bytes into ``buffer`` and return how many; 0 at the end."""


def header(kind: int, tag: Tag, length: int) -> bytes:
    """Encode a frame header.

    Raises:
        FrameError: the tag does not fit.
    """
    session, step, part = tag
    try:
        if len(session) == SESSION_BYTES:
            return _HEADER.pack(MAGIC, kind, 0, session, step, part, 0, length)
    except struct.error:
        pass
    check_tag(tag)
    raise AssertionError("a tag that passes its check fits the header")


def parse(data: bytes | bytearray | memoryview) -> tuple[int, Tag, int]:
    """Decode a header to kind, tag and payload length.

    Raises:
        FrameError: it is not a header, of an unknown kind, or announces too much.
    """
    magic, kind, flags, session, step, part, reserved, length = _HEADER.unpack(data)
    if magic != MAGIC:
        raise FrameError(f"a frame starts with {magic:#06x} instead of {MAGIC:#06x}", _NOT_TERCET)
    if kind not in _LIMITS or flags or reserved:
        raise FrameError(f"a frame is of unknown kind {kind} (flags {flags:#04x})", _NOT_TERCET)
    if length > _LIMITS[kind]:
        raise FrameError(
            f"a frame announces {length} bytes, above the limit of {_LIMITS[kind]}", _NOT_TERCET
        )
    return kind, Tag(session, step, part), length


class FrameReader:
    """Puts frames together from a connection; keeps its place when a read times out.

    A header is read together with what follows it, up to one TLS record, so that a small frame
    takes one read. The rest of a large payload is received straight into the array that the
    caller gets in the end.
    """

    __slots__ = ("_filled", "_head", "_parsed", "_payload", "_read")

    def __init__(self, connection: Readable) -> None:
        self._read = connection.read
        self._head = memoryview(bytearray(HEADER_BYTES + _RECORD))
        self._filled = 0  # bytes in _payload if a header was parsed, else in _head
        self._parsed: tuple[int, Tag] | None = None
        self._payload = self._head

    @property
    def between_frames(self) -> bool:
        """Whether nothing of the next frame has been read yet."""
        return self._parsed is None and not self._filled

    @property
    def has_header(self) -> bool:
        """Whether ``advance`` can go on without reading."""
        return self._parsed is None and self._filled >= HEADER_BYTES

    def advance(self) -> Frame | None:
        """Read at most once; return the frame if that completed it.

        Raises:
            EOFError: the connection has ended.
            FrameError: what came is not a frame.
            OSError: the connection failed; TimeoutError: nothing came in time.
        """
        filled = self._filled
        if self._parsed is not None:
            payload = self._payload
            got = self._read(len(payload) - filled, payload[filled:])
            if not got:
                raise EOFError
            if filled + got < len(payload):
                self._filled = filled + got
                return None
            (kind, tag), self._parsed, self._payload = self._parsed, None, self._head
            self._filled = 0
            return Frame(kind, tag, payload)

        head = self._head
        if filled < HEADER_BYTES:
            got = self._read(len(head) - filled, head[filled:] if filled else head)
            if not got:
                raise EOFError
            filled += got
            if filled < HEADER_BYTES:
                self._filled = filled
                return None
        kind, tag, length = parse(head[:HEADER_BYTES])
        payload = allocate(length)
        end = HEADER_BYTES + length
        if filled < end:
            here = filled - HEADER_BYTES
            payload[:here] = head[HEADER_BYTES:filled]
            self._parsed, self._payload, self._filled = (kind, tag), payload, here
            return None
        payload[:] = head[HEADER_BYTES:end]
        if filled > end:  # the next frame has begun
            head[: filled - end] = head[end:filled]
        self._filled = filled - end
        return Frame(kind, tag, payload)
