"""An event loop in a thread of its own, so that a synchronous caller can talk to three workers.

Made anew after a fork: a child process has none of its parent's threads or connections.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_POLL = 0.2


class Portal:
    """Runs coroutines in a background loop and waits for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end and return its result; Ctrl-C gets through."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            while True:
                try:
                    return future.result(_POLL)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def forked(self) -> bool:
        """Whether this process is not the one that made the loop."""
        return self._pid not in (0, os.getpid())

    def close(self) -> None:
        """Stop the loop and its thread."""
        with self._lock:
            if self._loop is None or self.forked:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        if thread is not None:
            thread.join()
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self.forked:
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="tercet-client", daemon=True
                )
                self._thread.start()
            return self._loop
