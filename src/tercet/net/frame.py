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
from typing import Final, NamedTuple, Protocol

from tercet.errors import FrameError
from tercet.net.text import MAX_TEXT
from tercet.net.transport import MAX_PAYLOAD, Tag, allocate

MAGIC: Final = 0x5401  # "T" and the version of this format
DATA: Final = 1
ABORT: Final = 2

_HEADER: Final = struct.Struct("<HBB16sIHHQ")
HEADER_BYTES: Final = _HEADER.size
_LIMITS: Final = {DATA: MAX_PAYLOAD, ABORT: 4 * MAX_TEXT}
_NOT_TERCET: Final = "Both workers must run the same version of Tercet"


class Frame(NamedTuple):
    """One frame that has arrived in full."""

    kind: int
    tag: Tag
    payload: memoryview


class Readable(Protocol):
    """What a reader needs of a connection; an ``SSLSocket`` has it."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read at most ``len(buffer)`` bytes and return how many; 0 at the end."""


def header(kind: int, tag: Tag, length: int) -> bytes:
    """Encode a frame header; tag and length must have been checked."""
    return _HEADER.pack(MAGIC, kind, 0, tag.session, tag.step, tag.slice, 0, length)


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

    The payload is received straight into the array that the caller gets in the end.
    """

    __slots__ = ("_connection", "_filled", "_head", "_parsed", "_target")

    def __init__(self, connection: Readable) -> None:
        self._connection = connection
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._target = self._head
        self._filled = 0
        self._parsed: tuple[int, Tag] | None = None

    @property
    def between_frames(self) -> bool:
        """Whether nothing of the next frame has been read yet."""
        return self._parsed is None and not self._filled

    def advance(self) -> Frame | None:
        """Read once; return the frame if that completed it.

        Raises:
            EOFError: the connection has ended.
            FrameError: what came is not a frame.
            OSError: the connection failed; TimeoutError: nothing came in time.
        """
        filled = self._filled
        got = self._connection.recv_into(self._target[filled:] if filled else self._target)
        if not got:
            raise EOFError
        filled += got
        if filled < len(self._target):
            self._filled = filled
            return None
        self._filled = 0
        if self._parsed is None:
            kind, tag, length = parse(self._head)
            if length:
                self._parsed = kind, tag
                self._target = allocate(length)
                return None
            return Frame(kind, tag, allocate(0))
        (kind, tag), payload = self._parsed, self._target
        self._parsed, self._target = None, self._head
        return Frame(kind, tag, payload)
