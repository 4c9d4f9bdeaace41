"""Messages over the pipes that join a worker's two processes: a length, then msgpack.

The pipes are inherited file descriptors without a name; nothing else can open them.
"""

from __future__ import annotations

import os
import select
import struct
from typing import Any, BinaryIO, Protocol

from tercet.errors import FrameError

HEADER = struct.Struct("<Q")
MAX_MESSAGE = 8 << 30
#: Bytes up to which header and message are joined: each write wakes the reader.
_JOINED = 1 << 16


class Writable(Protocol):
    """What takes bytes: a binary file, or asyncio's writer."""

    def write(self, data: bytes, /) -> Any:
        """Take ``data``, in full."""


def write_framed(file: Writable, message: bytes) -> None:
    """Write a message with its header."""
    header = HEADER.pack(len(message))
    if len(message) <= _JOINED:
        file.write(header + message)
    else:
        file.write(header)
        file.write(message)


def message_size(header: bytes) -> int:
    """Return the length that a header announces.

    Raises:
        FrameError: if it is out of bounds.
    """
    (size,) = HEADER.unpack(header)
    if size > MAX_MESSAGE:
        raise FrameError(f"a message of {size} bytes on a worker's own pipe", "Restart the worker")
    return int(size)


class Incoming:
    """The messages that come through one file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._readable = select.poll()
        self._readable.register(fd, select.POLLIN)

    def ready(self) -> bool:
        """Whether a message, or the end of the pipe, has come."""
        return bool(self._readable.poll(0))

    def read(self) -> bytearray | None:
        """Wait for the next message and return it, or ``None`` at the end of the pipe.

        Raises:
            FrameError: if it announces too much.
        """
        header = self._exactly(HEADER.size)
        return None if header is None else self._exactly(message_size(bytes(header)))

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            got = os.readv(self._fd, [view[filled:]])
            if not got:
                return None
            filled += got
        return data


def write_message(file: BinaryIO, message: bytes) -> None:
    """Write and flush one message."""
    write_framed(file, message)
    file.flush()
