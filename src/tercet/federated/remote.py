"""Participants in processes of their own: where they learn of a round, and tell that it is done.

The coordinator listens; participants dial it (``participate.py``), ask for the next round and wait
for the answer. What passes here is the model, the number of a round and whether it is done, in
mutual TLS with pinned keys. Updates never do: they go as shares straight to the three workers.

Round 0 is the agreement: everybody signs it before the first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec
import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from safetensors.numpy import load, save

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import RefusedError
from tercet.federated.group import Group, Heard
from tercet.federated.update import Arrays
from tercet.net.listener import Listener, bind
from tercet.net.tls import peer_identity, server_context
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.http import read_body, refusals, reply
from tercet.service.messages import Failure, decode
from tercet.service.portal import Portal

T = TypeVar("T")

ASK, TELL = "/v1/federated/ask", "/v1/federated/tell"

POLL: Final = 20.0
"""Seconds that a question may wait for its answer."""

_MAX_SMALL: Final = 64 << 10
_FAREWELL: Final = 5.0
_TURNS: Final = 3


class Task(msgspec.Struct, frozen=True):
    """A round: its number, the digest of its agreement, and the model (safetensors)."""

    number: int
    agreement: bytes
    weights: bytes = b""


class Ask(msgspec.Struct, frozen=True):
    """A participant asks for the round after number ``after``."""

    after: int


class Answer(msgspec.Struct, frozen=True):
    """The next round; or none yet: ask again; or the run is over."""

    task: Task | None = None
    over: bool = False


class Tell(msgspec.Struct, frozen=True):
    """A participant has contributed to a round, or could not."""

    number: int
    failure: Failure | None = None


def pack(weights: Arrays) -> bytes:
    """Return weights as bytes."""
    return save({f"{i:06d}": np.ascontiguousarray(w) for i, w in enumerate(weights)})


def unpack(data: bytes) -> list[NDArray[Any]]:
    """Return weights from their bytes."""
    arrays = load(data)
    return [arrays[name] for name in sorted(arrays)]


class Coordinator(Group):
    """Reaches participants in processes of their own, each of which runs ``participate``.

    Use it in a ``with`` statement; on leaving it, the participants learn that the run is over.

    A round waits for everybody who has fetched it, ``timeout`` seconds at most, and ``patience``
    seconds for those who have not; who was absent is not waited for again until it asks.

    Args:
        identity: of this process.
        participants: whom it accepts; all of them must sign before the first round.
        host: where to listen.
        port: there; 0 takes a free one, and ``address`` tells which.
        timeout: seconds that a participant has for a round.
        patience: seconds that a participant has to ask for one.
    """

    def __init__(
        self,
        identity: Identity,
        participants: Sequence[PublicIdentity],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = 600.0,
        patience: float = 60.0,
    ) -> None:
        self.address = ""
        self._bind = (host, port)
        self._identity = identity
        self._participants = {p.fingerprint: p for p in participants}
        self._timeout, self._patience = timeout, patience
        self._portal = Portal()
        self._agreement = b""
        self._task: Task | None = None
        self._over = False
        self._present: set[str] = set()
        self._expected = set(self._participants)
        self._fetched: set[str] = set()
        self._silent: set[str] = set()
        self._told: dict[str, str | None] = {}
        self._heard: Heard = _nobody

    def __enter__(self) -> Self:
        self._portal.call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Tell the participants that the run is over, and close; harmless if it is done."""
        if not self._over:
            self._portal.call(self._stop())
            self._portal.close()

    @property
    def members(self) -> list[PublicIdentity]:
        """Who may contribute."""
        return list(self._participants.values())

    def begin(self, terms: AggregationTerms, digest: bytes) -> None:
        """Wait until all have signed.

        Raises:
            RefusedError: some have not, or will not; names them.
        """
        self._agreement = digest
        self._portal.call(self._run(Task(0, digest), _nobody))
        missing = [
            f"{self._participants[who].name} ({why})" for who, why in self._told.items() if why
        ]
        if missing:
            raise RefusedError(
                f"{terms.name!r} is not signed by {', '.join(missing)}",
                "Start their processes, or leave them out",
            )

    @property
    def deadline(self) -> int:
        """Seconds from a round's first contribution to its close: as long as one has for it."""
        return math.ceil(self._timeout)

    def run(self, number: int, weights: Arrays, heard: Heard) -> set[str]:
        """Announce a round and wait until it is done: see the class."""
        self._portal.call(self._run(Task(number, self._agreement, pack(weights)), heard))
        return self._silent

    async def _start(self) -> None:
        self._changed = asyncio.Condition()
        context = server_context(self._identity, self.members)
        app = web.Application(middlewares=[refusals])
        app.router.add_post(ASK, reply(self._answering(Ask, self._ask)))
        app.router.add_post(TELL, reply(self._answering(Tell, self._tell)))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(bind(*self._bind), lambda: context, self._runner.server)
        await self._listener.start()
        self.address = "{}:{}".format(*self._listener.address)

    async def _stop(self) -> None:
        async with self._changed:
            self._over = True
            self._changed.notify_all()
            # Whoever took part to the last asks again, and hears of it before the door closes.
            await self._wait(lambda: not self._present, _FAREWELL)
        await self._listener.close()
        assert self._runner.server is not None
        transports = [handler.transport for handler in self._runner.server.connections]
        await self._runner.cleanup()
        for transport in transports:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # TLS would wait for the peer's consent
        for _ in range(_TURNS):
            await asyncio.sleep(0)  # aborted transports let go of their sockets in the next turns

    def _answering(
        self, kind: type[T], answer: Callable[[PublicIdentity, T], Awaitable[object]]
    ) -> Callable[[web.Request], Awaitable[object]]:
        async def handle(request: web.Request) -> object:
            caller = peer_identity(request.get_extra_info("ssl_object"), self.members)
            return await answer(caller, decode(await read_body(request, _MAX_SMALL), kind))

        return handle

    async def _ask(self, caller: PublicIdentity, asked: Ask) -> Answer:
        def ready() -> bool:
            return self._over or (self._task is not None and self._task.number > asked.after)

        async with self._changed:
            self._expected.add(caller.fingerprint)
            self._present.add(caller.fingerprint)
            if not await self._wait(ready, POLL):
                return Answer()
            if self._over:
                self._present.discard(caller.fingerprint)
                self._changed.notify_all()
                return Answer(over=True)
            self._fetched.add(caller.fingerprint)
            return Answer(self._task)

    async def _tell(self, caller: PublicIdentity, told: Tell) -> None:
        async with self._changed:
            if self._task is None or told.number != self._task.number:
                raise RefusedError(f"round {told.number} is over", "Ask for the next one")
            if caller.fingerprint not in self._told:
                failure = None if told.failure is None else told.failure.message
                self._told[caller.fingerprint] = failure
                self._heard(caller.fingerprint, failure)
            self._changed.notify_all()

    async def _run(self, task: Task, heard: Heard) -> None:
        async with self._changed:
            self._task, self._heard = task, heard
            self._fetched, self._told = set(), {}
            self._changed.notify_all()
            await self._wait(
                lambda: self._expected <= self._fetched | set(self._told), self._patience
            )
            self._expected &= self._fetched | set(self._told)
            await self._wait(lambda: self._expected <= set(self._told), self._timeout)
            self._expected &= set(self._told)
            # Who does not sign goes.
            self._present &= {who for who, why in self._told.items() if task.number or why is None}
            self._task, self._heard = None, _nobody
            self._silent = self._fetched - set(self._told)
            for who in self._participants:
                if who not in self._told:
                    late = who in self._silent
                    self._told[who] = "it was not done in time" if late else "it did not ask"
                    heard(who, self._told[who])

    async def _wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait, with the lock released meanwhile; return whether it came to be in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait_for(until)
        except TimeoutError:
            return False
        return True


def _nobody(who: str, failure: str | None) -> None:
    """Hear of a participant, and do nothing about it."""
