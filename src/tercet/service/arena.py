"""Memory that a worker's two processes share, for arrays on their way from one to the other.

A pipe would copy each array four times, and fresh memory for each costs more than all that is done
to it. The memory has no name: only a child that inherits the descriptor can map it.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
from dataclasses import dataclass

from tercet.errors import StorageError

_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the arena: ``data`` from byte ``offset`` on."""

    offset: int
    data: memoryview


class Arena:
    """The writing side, in the control process. It belongs to one event loop.

    Args:
        size: bytes at most; what was never used takes no memory.
    """

    def __init__(self, size: int) -> None:
        self.fd = _open(size)
        self._view = memoryview(mmap.mmap(self.fd, size))
        self._free = {0: size}  # lengths by offset
        self._taken: dict[int, int] = {}
        self._freed = asyncio.Event()

    async def take(self, size: int) -> Block:
        """Return a block of ``size`` bytes, once there is room.

        Raises:
            StorageError: if there can be none.
        """
        if size > len(self._view):
            raise StorageError(
                f"an array of {size} bytes where {len(self._view)} is the most", "Send less at once"
            )
        length = max(1, -(-size // _ALIGN)) * _ALIGN
        while True:
            offset = next((o for o, n in sorted(self._free.items()) if n >= length), None)
            if offset is not None:
                break
            self._freed.clear()
            await self._freed.wait()
        rest = self._free.pop(offset) - length
        if rest:
            self._free[offset + length] = rest
        self._taken[offset] = length
        return Block(offset, self._view[offset : offset + size])

    def give_back(self, block: Block) -> None:
        """Let a block be used for something else."""
        offset = block.offset
        length = self._taken.pop(offset)
        if offset + length in self._free:
            length += self._free.pop(offset + length)
        for start, size in self._free.items():
            if start + size == offset:
                self._free[start] = size + length
                break
        else:
            self._free[offset] = length
        self._freed.set()


def map_arena(fd: int) -> memoryview:
    """Return the arena as the data plane sees it: it cannot write there."""
    return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))


def _open(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tercet")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
