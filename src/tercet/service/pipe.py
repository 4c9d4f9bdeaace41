"""Messages over the pipes that join a worker's two processes: a length, then msgpack.

The pipes are inherited file descriptors without a name; nothing else can open them.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from tercet.errors import FrameError

HEADER = struct.Struct("<Q")
MAX_MESSAGE = 8 << 30


def frame(message: bytes) -> bytes:
    """Return the header of ``message``."""
    return HEADER.pack(len(message))


def message_size(header: bytes) -> int:
    """Return the length that a header announces.

    Raises:
        FrameError: if it is out of bounds.
    """
    (size,) = HEADER.unpack(header)
    if size > MAX_MESSAGE:
        raise FrameError(f"a message of {size} bytes on a worker's own pipe", "Restart the worker")
    return int(size)


def read_message(file: BinaryIO) -> bytes | None:
    """Return the next message, or ``None`` at the end of the pipe."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    size = message_size(header)
    message = file.read(size)
    return message if len(message) == size else None


def write_message(file: BinaryIO, message: bytes) -> None:
    """Write and flush one message."""
    file.write(frame(message))
    file.write(message)
    file.flush()
