"""Memory between a worker's processes: blocks do not overlap, and come back."""

from __future__ import annotations

import asyncio

import pytest

from tercet.errors import StorageError
from tercet.service.arena import Arena, map_arena


def test_blocks_are_apart_and_used_again() -> None:
    async def use() -> None:
        arena = Arena(1024)
        first, second = await arena.take(100), await arena.take(500)
        assert first.offset + 100 <= second.offset
        first.data[:] = b"a" * 100
        second.data[:] = b"b" * 500
        seen = map_arena(arena.fd)
        assert bytes(seen[first.offset : first.offset + 100]) == b"a" * 100
        assert bytes(seen[second.offset : second.offset + 500]) == b"b" * 500
        assert seen.readonly
        waiting = asyncio.create_task(arena.take(400))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        arena.give_back(second)
        third = await waiting
        arena.give_back(first)
        arena.give_back(third)
        whole = await arena.take(1024)
        assert whole.offset == 0
        with pytest.raises(StorageError, match="where 1024 is the most"):
            await arena.take(1025)

    asyncio.run(use())
