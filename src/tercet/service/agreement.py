"""How the three workers agree on a request before anything of it runs.

1. Each worker, on arrival, *offers* the request to the two others: what was asked, the digest of
   the one summand that it shares with the other, and a nonce. A digest goes to the summand's
   other holder only: whoever lacks the summand could test guesses of the data against it.
2. A worker that has both offers and finds them equal to its own reports *ready* to worker 0.
3. Worker 0 orders what is ready everywhere and announces each batch (*run*); all workers take
   batches in that order.

A request that reached one worker alone is never ordered and stalls nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence

from tercet.crypto.prg import fresh
from tercet.errors import IntegrityError, TercetError, TransportError, WorkerError
from tercet.service.config import WORKERS
from tercet.service.failures import to_error, to_failure
from tercet.service.messages import Offer, PeerMessage, Ready, Run, Withdraw

NONCE_BYTES = 32
#: Seconds within which a request must reach all three workers. Worker 0 gets seeds alone, the
#: others the arrays: the upload of these must fit.
OFFER_TIMEOUT = 20.0
#: Seconds that an ordered request may wait for its turn.
QUEUE_TIMEOUT = 600.0
#: Seconds that an offer of a peer is kept for a request that has not arrived here.
_ORPHAN_SECONDS = 60.0
#: Requests known at a time: peers' messages beyond it are dropped, clients are told to wait.
_MAX_PENDING = 10_000

Nonces = tuple[bytes, bytes, bytes]


class _Pending:
    """A request of which this worker knows, from its client or from a peer."""

    def __init__(self, changed: asyncio.Event) -> None:
        self.born = time.monotonic()
        self.changed = changed
        self.mine: Offer | None = None
        self.offers: dict[int, Offer] = {}
        self.ready: set[int] = set()
        self.refusal: TercetError | None = None


class Agreement:
    """This worker's part in agreeing.

    Args:
        index: this worker.
        names: names of the three workers, for messages to people.
        send: passes a message to a peer; raises TransportError if it is not connected.
        ordered: called at worker 0 with each request that is ready at all three.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        send: Callable[[int, PeerMessage], None],
        ordered: Callable[[bytes], None],
    ) -> None:
        self._index = index
        self._names = names
        self._send = send
        self._ordered = ordered
        self._pending: dict[bytes, _Pending] = {}
        self._next_sweep = 0.0

    async def agree(
        self,
        request: bytes,
        binding: bytes,
        digests: Mapping[int, bytes],
        timeout: float = OFFER_TIMEOUT,
    ) -> Nonces:
        """Compare a request with the peers and return the nonce of each worker.

        Args:
            request: its id.
            binding: digest of what was asked and by whom; equal at all three.
            digests: for each peer the digest of the summand held in common with it.
            timeout: seconds within which it must reach all three.

        Raises:
            IntegrityError: if the workers were sent different things.
            WorkerError: if the request did not reach all three in time.
            TransportError: if a peer is not connected.
        """
        pending = self._entry(request)
        if pending.mine is not None:
            raise WorkerError("a request with this id is under way", "Send a new request")
        nonce = fresh(NONCE_BYTES)
        pending.mine = Offer(request, binding, b"", nonce)
        try:
            for peer, digest in digests.items():
                self._send(peer, Offer(request, binding, digest, nonce))
            await self._wait(pending, lambda: len(pending.offers) == len(digests), timeout)
            for peer, offer in pending.offers.items():
                if offer.binding != binding or offer.digest != digests[peer]:
                    raise IntegrityError(
                        f"{self._names[self._index]} and {self._names[peer]} were sent shares "
                        "that do not belong together",
                        "Use Tercet's own client, the same version as the workers",
                    )
        except TercetError as error:
            self.withdraw(request, error)
            raise
        nonces = [pending.offers[p].nonce if p != self._index else nonce for p in range(WORKERS)]
        return (nonces[0], nonces[1], nonces[2])

    def report_ready(self, request: bytes) -> None:
        """Tell worker 0 that ``request`` may run."""
        if self._index == 0:
            self._mark_ready(0, request)
        else:
            self._send(0, Ready(request))

    def withdraw(self, request: bytes, error: TercetError) -> None:
        """Refuse a request here and tell the peers, so that nobody waits for it."""
        pending = self._pending.pop(request, None)
        if pending is not None and pending.refusal is not None:
            return  # it was a peer that refused: it has told everybody
        for peer in range(WORKERS):
            if peer != self._index:
                try:
                    self._send(peer, Withdraw(request, to_failure(error)))
                except TransportError:
                    continue

    def finish(self, request: bytes) -> None:
        """Forget a request that was run."""
        self._pending.pop(request, None)

    def refusal(self, request: bytes) -> TercetError | None:
        """Return why a peer withdrew the request, if one did."""
        pending = self._pending.get(request)
        return pending.refusal if pending else None

    def received(self, peer: int, message: PeerMessage) -> None:
        """Take a message of a peer (``Run`` goes elsewhere)."""
        if isinstance(message, Run):
            return
        pending = self._entry(message.id)
        if isinstance(message, Offer):
            pending.offers.setdefault(peer, message)
        elif isinstance(message, Ready):
            self._mark_ready(peer, message.id)
        elif pending.refusal is None:
            pending.refusal = to_error(message.reason, self._names[peer])
        pending.changed.set()

    def peer_lost(self, peer: int) -> None:
        """Fail everything that waits: it needs all three workers."""
        for pending in self._pending.values():
            if pending.refusal is None:
                pending.refusal = TransportError(
                    f"worker {self._names[peer]} is not connected",
                    "Try again when it is back (`tercet status`)",
                )
            pending.changed.set()

    def _mark_ready(self, worker: int, request: bytes) -> None:
        pending = self._entry(request)
        pending.ready.add(worker)
        if len(pending.ready) == WORKERS:
            self._ordered(request)

    async def _wait(self, pending: _Pending, done: Callable[[], bool], timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not done() and pending.refusal is None:
                    pending.changed.clear()
                    await pending.changed.wait()
        except TimeoutError:
            raise WorkerError(
                f"the request reached {self._names[self._index]} but not all three workers "
                f"within {timeout:g} s",
                "Send it to all three",
            ) from None
        if pending.refusal is not None:
            raise pending.refusal

    def _entry(self, request: bytes) -> _Pending:
        if request not in self._pending:
            self._expire()
            self._pending[request] = _Pending(asyncio.Event())
        return self._pending[request]

    def _expire(self) -> None:
        """Drop offers whose request never came; refuse to grow without bound."""
        now = time.monotonic()
        if now > self._next_sweep:
            self._next_sweep = now + 1
            horizon = now - _ORPHAN_SECONDS
            orphans = [r for r, p in self._pending.items() if p.mine is None and p.born < horizon]
            for request in orphans:
                del self._pending[request]
        if len(self._pending) >= _MAX_PENDING:
            raise WorkerError("too many requests are waiting", "Try again in some seconds")


def join_nonces(nonces: Sequence[Nonces]) -> Nonces:
    """Return one nonce a worker for a batch, from those of its requests in order."""
    first, second, third = (
        hashlib.sha256(b"tercet batch v1\0" + b"".join(n[i] for n in nonces)).digest()
        for i in range(WORKERS)
    )
    return first, second, third
