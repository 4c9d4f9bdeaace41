"""Contributions at a worker: taken in, compared with the peers, and folded into the sum."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tercet.crypto.identity import PublicIdentity
from tercet.crypto.prg import SECRET_BYTES
from tercet.errors import IntegrityError, RefusedError, TercetError, TransportError, WorkerError
from tercet.protocol.replicated.sharing import Summand
from tercet.runtime.aggregation import TENSOR
from tercet.service.aggregation_terms import WEIGHT_SCALE
from tercet.service.agreement import Agreement, UnderWay, join_nonces, patience
from tercet.service.arena import Arena
from tercet.service.checks import binding, check_id, pair_digests
from tercet.service.round_order import NEXT_ROUND, TOO_LATE, Order
from tercet.service.round_state import Entry, Round
from tercet.service.round_store import RoundStore
from tercet.service.round_table import Table, check_number, session_digest
from tercet.service.sum_messages import Contribute, Fold, Folded, FoldJob, Ready, Turn

OVER_THE_BOUND = "the contribution does not keep the agreed bound"

#: Bytes of the two seeds at each worker: where there is none, an array follows.
_SEEDS = ((SECRET_BYTES, SECRET_BYTES), (SECRET_BYTES, 0), (0, SECRET_BYTES))

#: Reads what follows the head of a contribution: exactly as much as it is given room for.
Body = Callable[[memoryview], Awaitable[None]]


class Contributions:
    """This worker's part in contributions.

    Args:
        table: the rounds under way.
        agreement: compares requests with the peers.
        store: the sums that are stored.
        order: what worker 0 announces.
        missing: returns the names of peers that are not linked.
        arena: where contributions wait for the data plane.
        look: sees, at worker 0, whether a round can be closed.
    """

    def __init__(
        self,
        table: Table,
        agreement: Agreement,
        store: RoundStore,
        order: Order,
        missing: Callable[[], list[str]],
        arena: Arena,
        look: Callable[[Round], None],
    ) -> None:
        self._table = table
        self._agreement = agreement
        self._store = store
        self._order = order
        self._missing = missing
        self._arena = arena
        self._look = look

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
        if head.id in self._table.entries:
            raise UnderWay("a contribution with this id is under way", "Send a new one")
        try:
            entry = self._admit(who, head)
        except TercetError as error:
            self._agreement.refuse(head.id, error)
            raise
        round = entry.round
        self._table.entries[entry.id] = entry
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
            del self._table.entries[entry.id]
            if round.entries.get(entry.participant) is entry:
                del round.entries[entry.participant]
            if self._table.index == 0:
                self._order.ended(entry)
                self._look(round)
        if not passed:
            raise RefusedError(OVER_THE_BOUND, "Clip updates as the agreement says", "norm")

    async def _take_in(self, entry: Entry, body: Body) -> bool:
        terms = entry.round.terms
        bound = binding(
            "contribute", entry.round.key[0].hex(), str(entry.round.key[1]), entry.participant
        )
        await self._agreement.agree(entry.id, bound, dict.fromkeys(self._table.peers, b""))
        if self._table.index == 0:
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
        entry.digests = await pair_digests(self._table.index, (pair[0], pair[1]))
        entry.nonces = await self._agreement.agree(entry.body_id, bound, entry.digests, seconds)
        entry.ready = True
        if self._table.index == 0:
            self._order.ready(entry, 0)
        else:
            self._table.send(0, Ready(entry.id))
        return await entry.verdict

    def withdraw(self, request: bytes, refusal: TercetError) -> None:
        """Refuse a contribution that a peer refuses, unless it is being folded in."""
        for entry in list(self._table.entries.values()):
            if (
                request in (entry.id, entry.body_id)
                and entry.round.entries.get(entry.participant) is entry
            ):
                entry.fail(refusal)

    def turn(self, message: Turn) -> bool:
        """Let a contribution's body be read."""
        entry = self._table.entries.get(message.id)
        if entry is not None and not entry.turn.done():
            entry.turn.set_result(None)
        return entry is not None

    def fold(self, round: Round, message: Fold) -> bool:
        """Hand contributions to the data plane; return whether all are here."""
        found = map(self._table.entries.get, message.ids)
        entries = [e for e in found if e is not None and e.ready and e.round is round]
        if len(entries) != len(message.ids):
            self._table.out_of_step(round, message.epoch)
            return False
        self._fold(round, entries, message.number)
        return True

    def _admit(self, who: PublicIdentity, head: Contribute) -> Entry:
        if missing := self._missing():
            raise TransportError(
                f"worker {self._table.name} waits for {', '.join(missing)}",
                "Try again when they are back (`tercet status`)",
            )
        key = head.agreement, head.round
        # Signatures are verified when a round begins, and again before anything is opened.
        ask = self._table.known if key in self._table.rounds else self._table.require
        terms = ask(head.agreement)
        if who.fingerprint not in terms.participants:
            raise RefusedError(f"{who.name} is not a participant", "The agreement names them")
        check_number(terms, head.round)
        wanted = _SEEDS[self._table.index]
        if tuple(len(s) for s in head.seeds) != wanted:
            raise IntegrityError("a contribution with other seeds", "Use Tercet's own client")
        if self._store.get(*key) is not None:
            raise RefusedError(TOO_LATE, NEXT_ROUND, "late")
        round = self._table.open(key, terms)
        if round.late or (round.over and self._table.index == 0):
            raise RefusedError(TOO_LATE, NEXT_ROUND, "late")
        if who.fingerprint in round.entries or who.fingerprint in round.verdicts:
            raise RefusedError(
                f"{who.name} has contributed to round {head.round}", NEXT_ROUND, "twice"
            )
        return Entry(head.id, who.fingerprint, round, head.seeds)

    def _fold(self, round: Round, entries: list[Entry], position: int) -> None:
        terms = round.terms
        for entry in entries:
            del round.entries[entry.participant]
            round.verdicts[entry.participant] = False
            entry.folding = True  # the block belongs to the job from now on
            for peer, chain in round.chains.items():
                chain.update(entry.id + entry.digests[peer])
        job = FoldJob(
            0, round.epoch, position, session_digest(round.key[0]),
            join_nonces([e.nonces for e in entries]), terms.words, terms.bound,
            (1 << WEIGHT_SCALE) if terms.weighted else 0, [e.seeds for e in entries],
            [e.block.offset for e in entries if e.block is not None and not all(e.seeds)],
        )  # fmt: skip
        running = self._table.plane().submit_fold(job)
        task = self._table.start(self._folded(round, entries, running))
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
            self._table.restart(round, error, tell=True)
        finally:
            for entry in entries:
                if entry.block is not None:
                    self._arena.give_back(entry.block)
            task = asyncio.current_task()
            assert task is not None
            round.folds.discard(task)
            if self._table.index == 0:
                self._order.folded()
                self._look(round)
