"""Which requests run together, and in what order: worker 0 decides, all three follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

#: Rows that requests joined into one batch may have together.
BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Queued:
    """A request that is ready at all three workers."""

    id: bytes
    model: bytes
    rows: int


class Scheduler:
    """Worker 0's queue. ``announce`` is called with the ids of each batch.

    One batch is under way at a time: what comes meanwhile makes the next one larger, which saves
    more than is lost while the data planes wait for it.
    """

    def __init__(self, announce: Callable[[list[bytes]], None]) -> None:
        self._announce = announce
        self._running = False
        self._queue: deque[Queued] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, request: Queued) -> None:
        """Queue a request."""
        self._queue.append(request)
        self._pump()

    def finished(self) -> None:
        """A batch has ended here."""
        self._running = False
        self._pump()

    def _pump(self) -> None:
        if self._queue and not self._running:
            first = self._queue.popleft()
            batch, rows, rest = [first], first.rows, deque[Queued]()
            for other in self._queue:
                if other.model == first.model and rows + other.rows <= BATCH_ROWS:
                    batch.append(other)
                    rows += other.rows
                else:
                    rest.append(other)
            self._queue = rest
            self._running = True
            self._announce([q.id for q in batch])
