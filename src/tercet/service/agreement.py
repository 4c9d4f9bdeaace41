"""How the three workers compare a request before anything of it runs.

Each worker, on arrival, *offers* the request to the two others: what was asked, the digest of the
one summand that it shares with the other, and a nonce. A digest goes to the summand's other holder
only: whoever lacks the summand could test guesses of the data against it. The third worker gets a
*tag* of the digest, under a key that the two holders alone have, and compares the tags of both. So
a mismatch anywhere is seen by all three. A worker goes on once it has both offers and finds them
equal. A request that reached one worker alone is never ordered and stalls nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from tercet.crypto.prg import fresh
from tercet.errors import IntegrityError, TercetError, TransportError, WorkerError
from tercet.service.config import WORKERS
from tercet.service.failures import to_failure
from tercet.service.messages import REQUEST_ID_BYTES, Offer, PeerMessage, TagKey, Withdraw

NONCE_BYTES = 32
TAG_KEY_BYTES = 32
#: Seconds within which a request must reach all three workers. Worker 0 gets seeds alone, the
#: others the arrays: the upload of these must fit.
OFFER_TIMEOUT = 20.0
#: Seconds within which stored shares must reach all three workers: at least, at most, and the bytes
#: a second that an owner's line must carry in between. What reached two workers only, because the
#: third was restarting, is thus given up soon.
_SHARE_SECONDS = (20.0, 600.0)
_SHARE_RATE = 500e3
#: Seconds that an offer of a peer is kept for a request that has not arrived here.
_ORPHAN_SECONDS = 60.0
#: Requests known at a time: peers' offers beyond it are dropped, clients are told to wait.
_MAX_PENDING = 10_000
#: Withdrawals kept for requests that have not arrived here yet.
_MAX_WITHDRAWN = 1_000

Nonces = tuple[bytes, bytes, bytes]


class UnderWay(WorkerError):
    """A second request came under an id that is being compared: the first one goes on."""


class _Pending:
    """A request of which this worker knows, from its client or from a peer."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.changed = asyncio.Event()
        self.arrived = False
        self.offers: dict[int, Offer] = {}
        self.refusal: TercetError | None = None


class Agreement:
    """This worker's part in comparing requests.

    Args:
        index: this worker.
        names: names of the three workers, for messages to people.
        send: passes a message to a peer; raises TransportError if it is not connected.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        send: Callable[[int, PeerMessage], None],
    ) -> None:
        self._index = index
        self._names = names
        self._send = send
        self._pending: dict[bytes, _Pending] = {}
        self._withdrawn: OrderedDict[bytes, TercetError] = OrderedDict()
        self._keys: dict[int, bytes] = {}
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
            WorkerError: if the request did not reach all three in time, or is under way already.
            TransportError: if a peer is not connected.
        """
        if (refusal := self._withdrawn.pop(request, None)) is not None:
            raise refusal
        pending = self._entry(request)
        if pending.arrived:
            raise UnderWay("a request with this id is under way", "Send a new request")
        pending.arrived = True
        nonce = fresh(NONCE_BYTES)
        try:
            for peer, digest in digests.items():
                (other,) = (p for p in digests if p != peer)
                tag = self._tag(other, request, digests[other])
                self._send(peer, Offer(request, binding, digest, nonce, tag))
            await self._wait(pending, len(digests), timeout)
            for peer, offer in pending.offers.items():
                if offer.binding != binding or offer.digest != digests[peer]:
                    raise self._mismatch(self._index, peer)
            one, two = pending.offers
            if pending.offers[one].tag != pending.offers[two].tag:
                raise self._mismatch(one, two)
        except TercetError as error:
            self._tell(request, error)
            raise
        finally:
            del self._pending[request]
        nonces = [pending.offers[p].nonce if p != self._index else nonce for p in range(WORKERS)]
        return (nonces[0], nonces[1], nonces[2])

    def linked(self, peer: int) -> None:
        """A link to a peer stands: the lower index draws the key of their tags."""
        if self._index < peer:
            self._keys[peer] = fresh(TAG_KEY_BYTES)
            self._send(peer, TagKey(self._keys[peer]))

    def keyed(self, peer: int, key: bytes) -> None:
        """Take the key of the tags that are made with a peer of lower index."""
        if peer < self._index and len(key) == TAG_KEY_BYTES:
            self._keys[peer] = key

    def _tag(self, peer: int, request: bytes, digest: bytes) -> bytes:
        if peer not in self._keys:
            raise TransportError(
                f"the link to worker {self._names[peer]} is only being made", "Try again"
            )
        return hmac.digest(self._keys[peer], request + digest, "sha256")

    def _mismatch(self, one: int, two: int) -> IntegrityError:
        return IntegrityError(
            f"{self._names[one]} and {self._names[two]} were sent shares that do not belong "
            "together",
            "Use Tercet's own client, the same version as the workers",
        )

    def refuse(self, request: bytes, error: TercetError) -> None:
        """Tell the peers that a request was refused on arrival, so that none waits for it."""
        pending = self._pending.get(request)
        if pending is None or not pending.arrived:
            self._pending.pop(request, None)
            self._tell(request, error)

    def offered(self, peer: int, offer: Offer) -> None:
        """Take a peer's offer."""
        if len(offer.id) == REQUEST_ID_BYTES:
            pending = self._entry(offer.id)
            pending.offers.setdefault(peer, offer)
            pending.changed.set()

    def withdrawn(self, request: bytes, refusal: TercetError) -> None:
        """Note that a peer refuses a request, which may not have arrived here yet."""
        known = self._pending.get(request)
        if known is not None and known.arrived:
            known.refusal = known.refusal or refusal
            known.changed.set()
        elif len(request) == REQUEST_ID_BYTES:
            self._pending.pop(request, None)
            self._withdrawn[request] = refusal
            if len(self._withdrawn) > _MAX_WITHDRAWN:
                self._withdrawn.popitem(last=False)

    def peer_lost(self, peer: int) -> None:
        """Fail everything that waits: it needs all three workers."""
        self._keys.pop(peer, None)
        for pending in self._pending.values():
            pending.refusal = pending.refusal or TransportError(
                f"worker {self._names[peer]} is not connected",
                "Try again when it is back (`tercet status`)",
            )
            pending.changed.set()

    def _tell(self, request: bytes, error: TercetError) -> None:
        for peer in range(WORKERS):
            if peer != self._index:
                try:
                    self._send(peer, Withdraw(request, to_failure(error)))
                except TransportError:
                    continue

    async def _wait(self, pending: _Pending, offers: int, timeout: float) -> None:
        def waits() -> bool:
            return len(pending.offers) < offers and pending.refusal is None

        try:
            if waits():
                async with asyncio.timeout(timeout):
                    while waits():
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
            self._sweep()
            self._pending[request] = _Pending()
        return self._pending[request]

    def _sweep(self) -> None:
        """Drop offers whose request never came; refuse to grow without bound."""
        now = time.monotonic()
        if now > self._next_sweep:
            self._next_sweep = now + 1
            horizon = now - _ORPHAN_SECONDS
            for request in [
                r for r, p in self._pending.items() if not p.arrived and p.born < horizon
            ]:
                del self._pending[request]
        if len(self._pending) >= _MAX_PENDING:
            raise WorkerError("too many requests are waiting", "Try again in some seconds")


def patience(size: int) -> float:
    """Return how many seconds to wait until ``size`` bytes of shares reach the other workers."""
    least, most = _SHARE_SECONDS
    return min(most, least + size / _SHARE_RATE)


def join_nonces(nonces: Sequence[Nonces]) -> Nonces:
    """Return one nonce a worker for a batch, from those of its requests in order."""
    first, second, third = (
        hashlib.sha256(b"tercet batch v1\0" + b"".join(n[i] for n in nonces)).digest()
        for i in range(WORKERS)
    )
    return first, second, third
