"""Requests a minute of one client on one model: a sliding window, in memory.

A request counts when it arrives and nothing else speaks against it, whatever becomes of it. Each
worker counts for itself; all three see the same requests. A restart forgets the last minute.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from tercet.errors import BusyError

WINDOW = 60.0
#: Clients and models remembered before those that are quiet are dropped.
_SWEEP = 1000


class Rates:
    """The latest arrivals by model and client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrivals: dict[tuple[bytes, str], deque[float]] = {}

    def take(self, model: bytes, client: str, limit: int) -> None:
        """Note an arrival.

        Raises:
            BusyError: if there were ``limit`` within the last minute; it is not noted then.
        """
        now = self._clock()
        if len(self._arrivals) > _SWEEP:
            self._arrivals = {k: v for k, v in self._arrivals.items() if v[-1] > now - WINDOW}
        times = self._arrivals.setdefault((model, client), deque())
        while times and times[0] <= now - WINDOW:
            times.popleft()
        if len(times) >= limit:
            wait = int(times[0] + WINDOW - now) + 1
            raise BusyError(
                f"more than {limit} requests a minute of this client",
                f"Try again in {wait} s",
                wait,
            )
        times.append(now)
