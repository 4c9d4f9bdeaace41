"""From agreed requests to a running batch: order, count, common membership.

1. Worker 0 orders the requests that it has agreed on and announces each batch (*run*).
2. Every worker takes batches in that order. It waits until it has agreed on each request itself,
   admits it by the model's policy or refuses it, and tells the others which it *accepted*.
3. What all three accepted is counted durably, then runs, in the same order at all three; the rest
   is refused and counted nowhere.

A prediction alone in its batch is not compared again: the three have agreed on it, and which of a
batch to accept is no question. A worker that cannot take it nevertheless (its policy was changed
meanwhile, its disk is full, a link was lost) *cancels* the session, which ends at the others.

So a worker never stays in a session that another does not start, whatever their clocks, policies
or clients do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from tercet.crypto.prg import fresh
from tercet.errors import RefusedError, TercetError, TransportError, WorkerError
from tercet.service.agreement import Nonces, UnderWay, join_nonces
from tercet.service.config import WORKERS
from tercet.service.messages import Accepted, Done, PeerMessage, Predict, Run
from tercet.service.scheduler import Queued, Scheduler
from tercet.service.training_messages import TrainSteps

_log = logging.getLogger("tercet.worker")

#: Seconds that a request may lag behind worker 0's announcement of it, and a peer's acceptance.
LAG_TIMEOUT = 5.0
#: Batches that worker 0 may announce ahead.
_MAX_BATCHES = 64
#: Turns of the loop in which what was queued for a peer is sent.
_TURNS = 2
#: Requests that are over and remembered as such.
_MAX_CLOSED = 10_000


#: The digest of a prediction's program and its nonces, which name the session if it runs alone.
Agreed = tuple[str, Nonces]


class Waiting:
    """A request that this worker has agreed on, until it is answered.

    ``change`` is the change of policy under which it was admitted, once it was.
    """

    def __init__(self, request: Predict | TrainSteps, client: str, nonces: Nonces) -> None:
        self.request = request
        self.client = client
        self.nonces = nonces
        self.change = b""
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def agreed(self) -> Agreed | None:
        """What names the session of a prediction; None for steps of a training."""
        if isinstance(self.request, Predict):
            return self.request.program_digest, self.nonces
        return None

    def refuse(self, error: TercetError) -> None:
        """Answer with an error, if there is no answer yet."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Batches:
    """This worker's queue of predictions, and of steps of trainings between them.

    Args:
        index: this worker.
        send: passes a message to a peer; raises TransportError if it is not connected.
        admit: raises TercetError to refuse a request; told the rows of those admitted before it
            in the same batch.
        count: counts admitted requests durably.
        cancel: tells the peers that a session of a program's digest and these nonces does not run
            here, and why.
        submit: hands a batch with its nonces to the data plane as a job.
        release: returns the answer to each request of a batch; raises TercetError if nothing must
            be released any more.
    """

    def __init__(
        self,
        index: int,
        send: Callable[[int, PeerMessage], None],
        admit: Callable[[Waiting, Sequence[int]], None],
        count: Callable[[Sequence[Waiting]], None],
        cancel: Callable[[str, Nonces, str], None],
        submit: Callable[[Sequence[Waiting], Nonces], asyncio.Future[Done]],
        release: Callable[[Sequence[Waiting], Done], Sequence[object]],
    ) -> None:
        self._index = index
        self._peers = [p for p in range(WORKERS) if p != index]
        self._send = send
        self._admit = admit
        self._count = count
        self._cancel = cancel
        self._submit = submit
        self._release = release
        self._waiting: dict[bytes, Waiting] = {}
        self._closed: OrderedDict[bytes, Agreed | None] = OrderedDict()
        self._arrived = asyncio.Event()
        self._scheduler = Scheduler(self._announce)
        self._announced: asyncio.Queue[tuple[int, Run]] = asyncio.Queue(_MAX_BATCHES)
        # At random, so that a worker 0 that restarts does not use the numbers of its old batches.
        self._number = int.from_bytes(fresh(6), "little")
        self._settled = -1
        self._generation = 0
        self._accepted: dict[tuple[int, int], asyncio.Future[frozenset[bytes]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take batches."""
        self._runner = asyncio.create_task(self._take())

    async def stop(self, error: TercetError) -> None:
        """Refuse what waits."""
        self.fail(error)
        tasks = [t for t in (self._runner, *self._tasks) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, waiting: Waiting) -> Any:
        """Queue an agreed request and wait for this worker's part of its result."""
        request = waiting.request
        self._waiting[request.id] = waiting
        self._arrived.set()
        if self._index == 0:
            self._scheduler.add(Queued(request.id, request.model, request.rows))
        try:
            return await waiting.answer
        finally:
            del self._waiting[request.id]
            self.close(request.id, waiting.agreed)

    def check_new(self, request: bytes) -> None:
        """Refuse an id that is waiting here.

        Raises:
            UnderWay: the first request under this id goes on.
        """
        if request in self._waiting:
            raise UnderWay("a request with this id is under way", "Send a new request")

    def close(self, request: bytes, agreed: Agreed | None = None) -> None:
        """Note that a request is over here, so that no batch waits for it.

        ``agreed`` names the session of a prediction that the peers may begin all the same.
        """
        self._closed[request] = agreed
        if len(self._closed) > _MAX_CLOSED:
            self._closed.popitem(last=False)
        self._arrived.set()

    def received(self, peer: int, message: Run | Accepted) -> None:
        """Take a message of a peer; only worker 0 may announce batches."""
        if isinstance(message, Run):
            if peer == 0:
                try:
                    self._announced.put_nowait((self._generation, message))
                except asyncio.QueueFull:
                    _log.error("worker 0 announces more batches than it may")
            return
        if message.batch > self._settled:  # else it comes too late to matter
            future = self._acceptance(peer, message.batch)
            if not future.done():
                future.set_result(frozenset(message.ids))

    def withdraw(self, request: bytes, refusal: TercetError) -> bool:
        """Refuse a request that a peer refuses; return whether it is known here."""
        waiting = self._waiting.get(request)
        if waiting is None:
            return request in self._closed
        waiting.refuse(refusal)
        return True

    def fail(self, error: TercetError) -> None:
        """Refuse everything: a worker was lost, or this one stops."""
        self._generation += 1
        self._settled = -1
        for waiting in self._waiting.values():
            waiting.refuse(error)
        for future in self._accepted.values():
            if not future.done():
                future.set_result(frozenset())
        self._accepted.clear()
        self._arrived.set()  # a batch that waits for requests is void, too

    def _announce(self, ids: list[bytes]) -> None:
        self._number += 1
        run = Run(self._number, ids)
        try:
            for peer in self._peers:
                self._send(peer, run)
        except TransportError as error:
            self._refuse(ids, error)
        self._announced.put_nowait((self._generation, run))

    async def _take(self) -> None:
        """Take batches one after the other; only their sessions overlap with the next one."""
        while True:
            generation, run = await self._announced.get()
            try:
                job = await self._settle(run, generation)
            except Exception:  # a fault in one batch must not stop the next
                _log.exception("batch %d failed", run.batch)
                self._refuse(run.ids, WorkerError("internal error", "See the worker's log"))
                job = None
            if job is None:
                self._ended()
                continue
            task = asyncio.create_task(self._finish(*job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _settle(
        self, run: Run, generation: int
    ) -> tuple[list[Waiting], asyncio.Future[Done]] | None:
        """Admit, compare, count, and hand what is common to all three to the data plane.

        ``generation`` is that of the announcement: a batch from before a worker was lost is void.
        """
        batch: list[Waiting] = []
        reason = "the request is over"
        try:
            accepted = await self._admitted(run, generation)
            alone = len(run.ids) == 1 and bool(accepted) and accepted[0].agreed is not None
            try:
                batch = accepted if alone else await self._common(run, accepted, generation)
            finally:
                self._close_acceptances(run.batch, generation)
            if batch:
                for _ in range(_TURNS if alone and self._index == 0 else 0):
                    await asyncio.sleep(0)  # the disk would hold up the announcement to the peers
                self._check(generation)
                self._count(batch)
                return batch, self._submit(batch, join_nonces([w.nonces for w in batch]))
        except TercetError as error:
            self._refuse(run.ids, error)
            reason = error.message
        self._decline(run, batch, reason)
        return None

    async def _admitted(self, run: Run, generation: int) -> list[Waiting]:
        """Return what of a batch this worker accepts; the rest is refused."""
        self._check(generation)
        accepted: list[Waiting] = []
        deadline = asyncio.get_running_loop().time() + LAG_TIMEOUT
        for request in run.ids:
            waiting = await self._agreed(request, deadline, generation)
            if waiting is None or waiting.answer.done():
                continue
            if accepted and waiting.request.model != accepted[0].request.model:
                waiting.refuse(WorkerError("a batch of different models", "Restart worker 0"))
                continue
            try:
                self._admit(waiting, [w.request.rows for w in accepted])
            except TercetError as error:
                waiting.refuse(error)
            else:
                accepted.append(waiting)
        return accepted

    async def _common(self, run: Run, accepted: list[Waiting], generation: int) -> list[Waiting]:
        """Return what all three accept of a batch; the rest is refused."""
        mine = Accepted(run.batch, [w.request.id for w in accepted])
        for peer in self._peers:
            self._send(peer, mine)
        if not accepted:
            return []
        common = frozenset(mine.ids)
        try:
            async with asyncio.timeout(LAG_TIMEOUT):
                for peer in self._peers:
                    self._check(generation)
                    common &= await self._acceptance(peer, run.batch)
        except TimeoutError:
            raise WorkerError("a worker did not accept the batch in time", "Try again") from None
        for waiting in accepted:
            if waiting.request.id not in common:
                waiting.refuse(RefusedError("another worker refused the request", "Try again"))
        return [w for w in accepted if w.request.id in common]

    def _close_acceptances(self, batch: int, generation: int) -> None:
        """Take no more acceptances of a batch."""
        for peer in self._peers:
            self._accepted.pop((peer, batch), None)
        if self._generation == generation:
            self._settled = batch

    def _decline(self, run: Run, batch: Sequence[Waiting], reason: str) -> None:
        """End a session at the peers that they may have begun and this worker will not."""
        if len(run.ids) == 1:
            (request,) = run.ids
            waiting = self._waiting.get(request)
            agreed = waiting.agreed if waiting is not None else self._closed.get(request)
            if agreed is not None:
                digest, nonces = agreed
                self._cancel(digest, join_nonces([nonces]), reason)
        elif batch and batch[0].agreed is not None:  # it could not be counted here
            digest, _ = batch[0].agreed
            self._cancel(digest, join_nonces([w.nonces for w in batch]), reason)

    async def _finish(self, batch: Sequence[Waiting], running: asyncio.Future[Done]) -> None:
        try:
            done = await running
            for waiting, answer in zip(batch, self._release(batch, done), strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
        except TercetError as error:
            for waiting in batch:
                waiting.refuse(error)
        finally:
            self._ended()

    async def _agreed(self, request: bytes, deadline: float, generation: int) -> Waiting | None:
        """Return a request once this worker has agreed on it: a peer's offer may lag behind."""
        if (waiting := self._waiting.get(request)) is not None:
            return waiting
        try:
            async with asyncio.timeout_at(deadline):
                while request not in self._waiting:
                    self._check(generation)
                    if request in self._closed:
                        return None
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        return self._waiting[request]

    def _check(self, generation: int) -> None:
        if self._generation != generation:
            raise TransportError("a worker was lost", "Try again when it is back")

    def _acceptance(self, peer: int, batch: int) -> asyncio.Future[frozenset[bytes]]:
        if (peer, batch) not in self._accepted:
            if len(self._accepted) > 2 * _MAX_BATCHES:
                raise WorkerError("too many batches under way", "Restart the workers")
            future: asyncio.Future[frozenset[bytes]] = asyncio.get_running_loop().create_future()
            self._accepted[peer, batch] = future
        return self._accepted[peer, batch]

    def _refuse(self, ids: Sequence[bytes], error: TercetError) -> None:
        for request in ids:
            if request in self._waiting:
                self._waiting[request].refuse(error)

    def _ended(self) -> None:
        if self._index == 0:
            self._scheduler.finished()
