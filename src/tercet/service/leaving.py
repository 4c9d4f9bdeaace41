"""How a worker that is told to stop waits for its peers to finish what it has a part in.

A worker whose own answers are out may still be needed: the other two end what they share with a
peer whose link goes. So it tells them that it leaves, takes nothing new, and goes when each has
answered what was counted, or is gone itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from tercet.errors import TransportError
from tercet.service.messages import Farewell, Leave, PeerMessage

_POLL = 0.02


class Leaving:
    """This worker's part, for itself and for its peers.

    Args:
        send: passes a message to a peer; raises TransportError if it is not connected.
        connected: returns the peers that have a link.
        idle: tells whether no counted request waits for its answer here.
    """

    def __init__(
        self,
        send: Callable[[int, PeerMessage], None],
        connected: Callable[[], set[int]],
        idle: Callable[[], bool],
    ) -> None:
        self._send = send
        self._connected = connected
        self._idle = idle
        self._waiting: set[int] = set()
        self._parted: set[int] = set()

    async def part(self, deadline: float) -> None:
        """Tell the peers, and wait until they need this worker no more; ``deadline`` at most."""
        for peer in self._connected():
            with contextlib.suppress(TransportError):
                self._send(peer, Leave())
        while self._connected() - self._parted and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)

    def received(self, peer: int, message: Leave | Farewell) -> None:
        """Take what a peer says."""
        if isinstance(message, Farewell):
            self._parted.add(peer)
        else:
            self._waiting.add(peer)
            self.check()

    def check(self) -> None:
        """Let go of the peers that wait, if nothing is left to answer; called after each answer."""
        if self._waiting and self._idle():
            for peer in self._waiting:
                with contextlib.suppress(TransportError):
                    self._send(peer, Farewell())
            self._waiting.clear()
