"""A worker's part in secure aggregation: who may contribute, what is summed, what is opened.

The way of a contribution: its head reaches all three workers, which compare it -> worker 0 gives
it its turn -> its shares are taken in and their digests compared -> worker 0 announces that it is
folded in -> the check under sharing -> the sum, or the list of the dropped. The way of a sum: the
server asks all three -> worker 0 closes the round -> the three sign its record for each other and
write it down -> noise, resend, and the sum is stored -> all three have stored it -> it is opened.

Whatever goes wrong before the last step makes the round start anew, with nothing opened; whatever
goes wrong after it leaves the stored sum, which is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from tercet.crypto.identity import PublicIdentity
from tercet.crypto.prg import SECRET_BYTES
from tercet.errors import (
    BusyError,
    IntegrityError,
    RefusedError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.protocol.replicated.sharing import Summand
from tercet.runtime.aggregation import TENSOR
from tercet.service.aggregation_terms import WEIGHT_SCALE, AggregationTerms
from tercet.service.agreement import Agreement, UnderWay, join_nonces, patience
from tercet.service.agreements import Agreements
from tercet.service.arena import Arena
from tercet.service.checks import binding, check_id, pair_digests
from tercet.service.dataprocess import DataProcess
from tercet.service.messages import PeerMessage
from tercet.service.round_order import NEXT_ROUND, TOO_LATE, Order
from tercet.service.round_records import Records
from tercet.service.round_state import Asked, Entry, Key, Round, fail
from tercet.service.round_store import Record, RoundStore, Stored
from tercet.service.sum_messages import (
    AskSum,
    Close,
    Contribute,
    DrawNoise,
    DropSum,
    FinishJob,
    Fold,
    Folded,
    FoldJob,
    Holding,
    Ready,
    ReleaseJob,
    Restart,
    Signed,
    SumMessage,
    Told,
    Turn,
)
from tercet.service.training_messages import ShareDigests

_log = logging.getLogger("tercet.worker")

#: Rounds of one agreement that may be under way at a time.
MAX_OPEN = 4
OVER_THE_BOUND = "the contribution does not keep the agreed bound"

Body = Callable[[memoryview], Awaitable[None]]


class Rounds:
    """The rounds of worker ``index``.

    Args:
        index: this worker.
        names: names of the three workers.
        agreements: what was signed.
        agreement: compares requests with the peers.
        records: exchanges signed records with the peers.
        store: the sums that are stored.
        send: passes a message to a peer; raises TransportError if it is not connected.
        plane: returns the data plane.
        missing: returns the names of peers that are not linked.
        arena: where contributions wait for the data plane.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        agreements: Agreements,
        agreement: Agreement,
        records: Records,
        store: RoundStore,
        send: Callable[[int, PeerMessage], None],
        plane: Callable[[], DataProcess],
        missing: Callable[[], list[str]],
        arena: Arena,
    ) -> None:
        self._index = index
        self._name = names[index]
        self._peers = [p for p in range(len(names)) if p != index]
        self._agreements = agreements
        self._agreement = agreement
        self._records = records
        self._store = store
        self._send = send
        self._plane = plane
        self._missing = missing
        self._arena = arena
        self._order = Order(self._announce)
        self._rounds: dict[Key, Round] = {}
        self._entries: dict[bytes, Entry] = {}
        self._asked: dict[Key, Asked | None] = {}
        self._terms: dict[bytes, AggregationTerms] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # What participants and servers ask.

    async def contribute(self, who: PublicIdentity, head: Contribute, body: Body) -> None:
        """Take a contribution in and return once it is in the sum.

        Args:
            who: the caller.
            head: what came first.
            body: reads what follows, which must be exactly as much as it is given room for.

        Raises:
            RefusedError: if it may not contribute, or its update does not keep the bound.
            IntegrityError: if the workers got shares that do not belong together.
            TransportError, WorkerError: if a worker is lost meanwhile.
        """
        check_id(head.id)
        if head.id in self._entries:
            raise UnderWay("a contribution with this id is under way", "Send a new one")
        try:
            entry = self._admit(who, head)
        except TercetError as error:
            self._agreement.refuse(head.id, error)
            raise
        round = entry.round
        self._entries[entry.id] = entry
        round.entries[entry.participant] = entry
        try:
            passed = await self._take_in(entry, body)
        except TercetError as error:
            if not entry.verdict.done():
                self._agreement.refuse(entry.id, error)
                self._agreement.refuse(entry.body_id, error)
            entry.fail(error)
            raise
        finally:
            entry.fail(WorkerError("the contribution was given up", "Contribute again"))
            if entry.block is not None and not entry.folding:
                self._arena.give_back(entry.block)
            del self._entries[entry.id]
            if round.entries.get(entry.participant) is entry:
                del round.entries[entry.participant]
            if self._index == 0:
                self._order.ended(entry)
                self._look(round)
        if not passed:
            raise RefusedError(OVER_THE_BOUND, "Clip updates as the agreement says", "norm")

    async def _take_in(self, entry: Entry, body: Body) -> bool:
        terms = entry.round.terms
        bound = binding(
            "contribute", entry.round.key[0].hex(), str(entry.round.key[1]), entry.participant
        )
        await self._agreement.agree(entry.id, bound, dict.fromkeys(self._peers, b""))
        if self._index == 0:
            self._order.add(entry)
        await entry.turn
        size = 0 if all(entry.seeds) else 8 * terms.words
        seconds = patience(8 * terms.words)
        try:
            async with asyncio.timeout(seconds):
                entry.block = await self._arena.take(size)
                await body(entry.block.data)
        except TimeoutError:
            raise TransportError(
                f"the contribution did not come within {seconds:.0f} s", "Use a faster line"
            ) from None
        pair = tuple(
            Summand(seed=s) if s else Summand(arrays={TENSOR: entry.block.data})  # type: ignore[dict-item]
            for s in entry.seeds
        )
        entry.digests = await pair_digests(self._index, (pair[0], pair[1]))
        entry.nonces = await self._agreement.agree(entry.body_id, bound, entry.digests, seconds)
        entry.ready = True
        if self._index == 0:
            self._order.ready(entry, 0)
        else:
            self._send(0, Ready(entry.id))
        return await entry.verdict

    async def ask(self, who: PublicIdentity, request: AskSum) -> Told:
        """Close a round, or find it closed, and return this worker's part of its sum.

        Raises:
            RefusedError: if the caller is not the server, the round was opened for another list of
                participants, or too few have contributed.
            IntegrityError: if the workers do not agree on what was contributed.
            TransportError, WorkerError: if a worker is lost meanwhile.
        """
        check_id(request.id)
        key = request.agreement, request.round
        try:
            terms = self._check_question(who, request)
            if key in self._asked:
                raise BusyError("this round is being asked for", "AskSum again in a second")
        except TercetError as error:
            self._agreement.refuse(request.id, error)
            raise
        self._asked[key] = None
        asked: Asked | None = None
        try:
            bound = binding(
                "aggregate", request.agreement.hex(), str(request.round), *request.participants
            )
            nonces = await self._agreement.agree(request.id, bound, dict.fromkeys(self._peers, b""))
            asked = self._asked[key] = Asked(request, nonces)
            stored = await self._stand(request, 0)
            if stored is None:
                round = self._open(key, terms)
                round.asked = asked
                asked.settled.set()
                self._look(round)
                await asked.closed
                stored = await self._stand(request, 1)
            if stored is None:
                raise WorkerError("a worker could not store the sum", "AskSum again")
            if not stored.opened:
                self._store.open(stored, (who.name, who.fingerprint), terms.name)
            return await self._release(stored, terms)
        finally:
            del self._asked[key]
            if (open_round := self._rounds.get(key)) is not None and open_round.asked is asked:
                open_round.asked = None

    # What peers say, and what time asks for.

    def received(self, peer: int, message: SumMessage) -> None:
        """Take a message of a peer; only worker 0 announces."""
        if isinstance(message, Signed | Holding):
            self._records.received(peer, message)
        elif isinstance(message, Restart):
            for round in [r for r in self._rounds.values() if r.epoch == message.epoch]:
                self._restart(round, _lost("a worker lost its part of the round"), tell=False)
        elif isinstance(message, Ready):
            if self._index == 0 and (entry := self._entries.get(message.id)) is not None:
                self._order.ready(entry, peer)
        elif peer == 0:
            self._obey(message)

    def withdraw(self, request: bytes, refusal: TercetError) -> None:
        """Refuse a contribution that a peer refuses, unless it is being folded in."""
        for entry in list(self._entries.values()):
            if (
                request in (entry.id, entry.body_id)
                and entry.round.entries.get(entry.participant) is entry
            ):
                entry.fail(refusal)

    def peer_lost(self, error: TercetError) -> None:
        """Start all rounds anew: a sum needs all three workers."""
        for round in list(self._rounds.values()):
            self._restart(round, error, tell=False)
        for entry in list(self._entries.values()):
            entry.fail(error)
        for asked in self._asked.values():
            if asked is not None:
                fail(asked.closed, error)
        self._records.fail(error)

    def tick(self) -> None:
        """Close what is past its deadline, and give up what nobody asks for."""
        for round in list(self._rounds.values()):
            if round.abandoned:
                self._restart(round, _lost("the server never asked for this round"), tell=True)
            else:
                self._look(round)

    # Checks.

    def _admit(self, who: PublicIdentity, head: Contribute) -> Entry:
        if missing := self._missing():
            raise TransportError(
                f"worker {self._name} waits for {', '.join(missing)}",
                "Try again when they are back (`tercet status`)",
            )
        key = head.agreement, head.round
        terms = self._known(head.agreement) if key in self._rounds else self._require(
            head.agreement
        )  # fmt: skip
        if who.fingerprint not in terms.participants:
            raise RefusedError(f"{who.name} is not a participant", "The agreement names them")
        self._check_number(terms, head.round)
        lengths = tuple(len(s) for s in head.seeds)
        if (
            lengths
            != ((SECRET_BYTES, SECRET_BYTES), (SECRET_BYTES, 0), (0, SECRET_BYTES))[self._index]
        ):
            raise IntegrityError("a contribution with other seeds", "Use Tercet's own client")
        if self._store.get(*key) is not None:
            raise RefusedError(TOO_LATE, NEXT_ROUND, "late")
        round = self._open(key, terms)
        if round.late or (round.over and self._index == 0):
            raise RefusedError(TOO_LATE, NEXT_ROUND, "late")
        if who.fingerprint in round.entries or who.fingerprint in round.verdicts:
            raise RefusedError(
                f"{who.name} has contributed to round {head.round}", NEXT_ROUND, "twice"
            )
        return Entry(head.id, who.fingerprint, round, head.seeds)

    def _check_question(self, who: PublicIdentity, request: AskSum) -> AggregationTerms:
        terms = self._require(request.agreement)
        if who.fingerprint != terms.server:
            raise RefusedError(f"{who.name} is not the server", "The agreement names it")
        self._check_number(terms, request.round)
        asked = request.participants
        if list(asked) != sorted(set(asked)) or not set(asked) <= set(terms.participants):
            raise RefusedError("a list of other participants", "The agreement names them")
        if len(asked) < terms.minimum:
            raise RefusedError(
                f"a round with {len(asked)} participants where {terms.minimum} must contribute",
                "AskSum for more of them",
                "minimum",
            )
        stored = self._store.get(request.agreement, request.round)
        if stored is not None and stored.record.asked != asked:
            raise RefusedError(
                f"round {request.round} was closed for another list of participants",
                "AskSum with the same list: the difference of two sums is somebody's update",
                "difference",
            )
        return terms

    @staticmethod
    def _check_number(terms: AggregationTerms, number: int) -> None:
        if not 0 <= number < terms.rounds:
            raise RefusedError(
                f"round {number} of {terms.rounds}", f"Rounds are 0 to {terms.rounds - 1}"
            )

    def _require(self, agreement: bytes) -> AggregationTerms:
        """Return the terms of an agreement that all have signed and that holds."""
        terms = self._agreements.require(agreement)
        if not isinstance(terms, AggregationTerms):
            raise RefusedError("an agreement on something else", "Name one on an aggregation")
        self._terms[agreement] = terms
        return terms

    def _known(self, agreement: bytes) -> AggregationTerms:
        """Return terms whose signatures were verified when the round was opened."""
        return self._terms[agreement]

    def _open(self, key: Key, terms: AggregationTerms) -> Round:
        if key not in self._rounds:
            if sum(k[0] == key[0] for k in self._rounds) >= MAX_OPEN:
                raise BusyError(
                    f"{MAX_OPEN} rounds of {terms.name!r} are under way", "Close one first"
                )
            self._rounds[key] = Round(key, terms, self._peers)
            with contextlib.suppress(WorkerError):  # then drawn when it is needed
                self._plane().send(DrawNoise(terms.words, terms.variance))
        return self._rounds[key]

    # Doing what worker 0 announces.

    def _announce(self, message: Turn | Fold | Close) -> bool:
        try:
            for peer in self._peers:
                self._send(peer, message)
        except TransportError:
            return False  # the lost link makes everything start anew
        return self._obey(message)

    def _obey(self, message: Turn | Fold | Close) -> bool:
        """Do what worker 0 announced; return whether it could be done."""
        if isinstance(message, Turn):
            entry = self._entries.get(message.id)
            if entry is not None and not entry.turn.done():
                entry.turn.set_result(None)
            return entry is not None
        round = self._rounds.get((message.agreement, message.round))
        if (
            round is None
            or message.number != round.position
            or (message.number and round.epoch != message.epoch)
        ):
            self._out_of_step(round, message.epoch)
            return False
        round.epoch = message.epoch
        round.position += 1
        if isinstance(message, Close):
            round.closing = True
            self._start(self._close(round, message))
            return True
        entries = [e for e in map(self._entries.get, message.ids) if e is not None and e.ready]
        if len(entries) != len(message.ids) or any(e.round is not round for e in entries):
            self._out_of_step(round, message.epoch)
            return False
        self._fold(round, entries, message.number)
        return True

    def _out_of_step(self, round: Round | None, epoch: bytes) -> None:
        """Make a round start anew at all three, after an announcement that does not fit."""
        _log.warning("%s is out of step with worker 0: the round starts anew", self._name)
        if round is not None:
            round.epoch = epoch
            self._restart(round, _lost("the workers were out of step"), tell=True)
        else:
            self._tell(Restart(epoch))

    def _fold(self, round: Round, entries: list[Entry], position: int) -> None:
        terms = round.terms
        for entry in entries:
            del round.entries[entry.participant]
            round.verdicts[entry.participant] = False
            entry.folding = True  # the block belongs to the job from now on
            for peer, chain in round.chains.items():
                chain.update(entry.id + entry.digests[peer])
        job = FoldJob(
            0, round.epoch, position, _session_digest(round.key[0]),
            join_nonces([e.nonces for e in entries]), terms.words, terms.bound,
            (1 << WEIGHT_SCALE) if terms.weighted else 0, [e.seeds for e in entries],
            [e.block.offset for e in entries if e.block is not None and not all(e.seeds)],
        )  # fmt: skip
        running = self._plane().submit_fold(job)
        task = self._start(self._folded(round, entries, running))
        round.folds.add(task)

    async def _folded(self, round: Round, entries: list[Entry], running: Awaitable[Folded]) -> None:
        try:
            folded = await running
            for entry, passed in zip(entries, folded.passed, strict=True):
                round.verdicts[entry.participant] = passed
                if not entry.verdict.done():
                    entry.verdict.set_result(passed)
        except TercetError as error:
            for entry in entries:
                entry.fail(error)
            self._restart(round, error, tell=True)
        finally:
            for entry in entries:
                if entry.block is not None:
                    self._arena.give_back(entry.block)
            task = asyncio.current_task()
            assert task is not None
            round.folds.discard(task)
            if self._index == 0:
                self._order.folded()
                self._look(round)

    async def _close(self, round: Round, message: Close) -> None:
        """Sign, write down, finish and store; or start anew."""
        round.late = True
        for entry in list(round.entries.values()):
            entry.fail(RefusedError(TOO_LATE, NEXT_ROUND, "late"))
        await asyncio.gather(*round.folds, return_exceptions=True)
        asked = self._asked.get(round.key)
        if self._rounds.get(round.key) is not round:
            return
        try:
            if asked is None or asked.request.id != message.id:
                raise WorkerError("worker 0 closed a round that nobody asked for", "AskSum again")
            await asked.settled.wait()
            record = self._record(round, asked)
            summands = {peer: chain.digest() for peer, chain in round.chains.items()}
            self._store.write(record, await self._records.sign(record, summands))
            await self._finish(round, record, asked)
        except TercetError as error:
            self._restart(round, error, tell=True)
        else:
            self._rounds.pop(round.key, None)
            if not asked.closed.done():
                asked.closed.set_result(None)

    def _record(self, round: Round, asked: Asked) -> Record:
        """Return what all three sign.

        Raises:
            RefusedError: if the agreement holds no more, too few are in the sum, or others than
                the server asked for.
        """
        agreement, number = round.key
        terms = self._require(agreement)
        contributors = tuple(sorted(p for p, passed in round.verdicts.items() if passed))
        dropped = tuple(
            (p, OVER_THE_BOUND) for p, passed in sorted(round.verdicts.items()) if not passed
        )
        if len(contributors) < terms.minimum:
            raise RefusedError(
                f"round {number} has {len(contributors)} contributors and needs {terms.minimum}",
                "Nothing was opened: let them contribute again",
                "minimum",
            )
        if others := set(contributors) - set(asked.request.participants):
            raise RefusedError(
                f"{len(others)} participants contributed to round {number} who were not asked",
                "Nothing was opened: ask for all who contribute",
            )
        return Record(
            agreement, number, round.epoch, asked.request.participants, contributors, dropped
        )

    async def _finish(self, round: Round, record: Record, asked: Asked) -> None:
        terms, path = round.terms, self._store.path(record)
        path.unlink(missing_ok=True)
        finished = await self._plane().submit_finish(
            FinishJob(
                0, round.epoch, round.position - 1, _session_digest(round.key[0]), asked.nonces,
                terms.words, terms.variance, record.id, str(path),
            )
        )  # fmt: skip
        self._store.keep(record, ShareDigests(finished.first, finished.second, finished.public))

    async def _stand(self, request: AskSum, stage: int) -> Stored | None:
        """Compare what the three have stored of a round: all of it, or none.

        Raises:
            IntegrityError: if a sum that was opened is not what all three hold.
        """
        stored = self._store.get(request.agreement, request.round)
        if await self._records.stand(request.id, stage, stored):
            return stored
        if stored is not None:
            self._store.discard(stored)
        return None

    async def _release(self, stored: Stored, terms: AggregationTerms) -> Told:
        record, digests = stored.record, stored.digests
        path = self._store.path(record)
        if not path.exists():
            raise RefusedError(
                f"the sum of round {record.round} is not kept any more", "AskSum for later rounds"
            )
        self._require(record.agreement)
        released = await self._plane().submit_release(
            ReleaseJob(
                0, terms.words, record.id, str(path), digests.first, digests.second, digests.public
            )
        )
        return Told(released.part, record.contributors, record.dropped)

    # Small things.

    def _look(self, round: Round) -> None:
        """At worker 0, see whether a round can be closed."""
        if self._index == 0 and self._rounds.get(round.key) is round and not round.closing:
            self._order.close_if_due(round)

    def _restart(self, round: Round, error: TercetError, tell: bool) -> None:
        """Let go of an attempt at a round: nothing of it is opened."""
        if self._rounds.get(round.key) is round:
            del self._rounds[round.key]
        self._order.drop(round)
        for entry in [e for e in self._entries.values() if e.round is round]:
            entry.fail(error)
        asked = round.asked or self._asked.get(round.key)
        if asked is not None:
            fail(asked.closed, error)
        if round.epoch:
            with contextlib.suppress(WorkerError):  # the process has gone, and the sum with it
                self._plane().send(DropSum(round.epoch))
            if tell:
                self._tell(Restart(round.epoch))

    def _tell(self, message: Restart) -> None:
        for peer in self._peers:
            try:
                self._send(peer, message)
            except TransportError:
                continue

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _lost(message: str) -> WorkerError:
    return WorkerError(message, "Nothing was opened: contribute again, the round starts anew")


def _session_digest(agreement: bytes) -> str:
    return hashlib.sha256(b"tercet aggregation v1\0" + agreement).hexdigest()
