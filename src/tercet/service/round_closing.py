"""The end of a round at a worker: its record is signed, its sum is stored, then opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tercet.crypto.identity import PublicIdentity
from tercet.errors import BusyError, RefusedError, TercetError, WorkerError
from tercet.runtime.release import release_stored
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.agreement import Agreement
from tercet.service.checks import binding, check_id
from tercet.service.round_contributions import OVER_THE_BOUND
from tercet.service.round_order import NEXT_ROUND, TOO_LATE
from tercet.service.round_records import Records
from tercet.service.round_state import Asked, Round
from tercet.service.round_store import Record, RoundStore, Stored
from tercet.service.round_table import Table, check_number, session_digest
from tercet.service.sum_files import read_sum
from tercet.service.sum_messages import AskSum, Close, FinishJob, Told


class Closing:
    """This worker's part in closing rounds.

    Args:
        table: the rounds under way.
        agreement: compares requests with the peers.
        records: exchanges signed records with the peers.
        store: the sums that are stored.
        look: sees, at worker 0, whether a round can be closed.
    """

    def __init__(
        self,
        table: Table,
        agreement: Agreement,
        records: Records,
        store: RoundStore,
        look: Callable[[Round], None],
    ) -> None:
        self._table = table
        self._agreement = agreement
        self._records = records
        self._store = store
        self._look = look

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
            if key in self._table.asked:
                raise BusyError("this round is being asked for", "AskSum again in a second")
        except TercetError as error:
            self._agreement.refuse(request.id, error)
            raise
        self._table.asked[key] = None
        asked: Asked | None = None
        try:
            bound = binding(
                "aggregate", request.agreement.hex(), str(request.round),
                *request.participants, "awaited", *request.awaited,
            )  # fmt: skip
            nonces = await self._agreement.agree(
                request.id, bound, dict.fromkeys(self._table.peers, b"")
            )
            asked = self._table.asked[key] = Asked(request, nonces)
            stored = await self._stand(request, 0)
            if stored is None:
                round = self._table.open(key, terms)
                round.asked = asked
                asked.settled.set()
                self._look(round)
                await asked.closed
                stored = await self._stand(request, 1)
            if stored is None:
                raise WorkerError("a worker could not store the sum", "AskSum again")
            if not stored.opened:
                self._store.open(stored, (who.name, who.fingerprint), terms.name)
            return await self._release(stored)
        finally:
            del self._table.asked[key]
            if asked is not None:
                asked.settled.set()  # a close that waits for it must not wait for ever
            if (
                open_round := self._table.rounds.get(key)
            ) is not None and open_round.asked is asked:
                open_round.asked = None

    async def close(self, round: Round, message: Close) -> None:
        """Sign, write down, finish and store; or start anew."""
        round.late = True
        for entry in list(round.entries.values()):
            entry.fail(RefusedError(TOO_LATE, NEXT_ROUND, "late"))
        await asyncio.gather(*round.folds, return_exceptions=True)
        asked = self._table.asked.get(round.key)
        if self._table.rounds.get(round.key) is not round:
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
            self._table.restart(round, error, tell=True)
        else:
            self._table.rounds.pop(round.key, None)
            if not asked.closed.done():
                asked.closed.set_result(None)

    def _check_question(self, who: PublicIdentity, request: AskSum) -> AggregationTerms:
        terms = self._table.require(request.agreement)
        if who.fingerprint != terms.server:
            raise RefusedError(f"{who.name} is not the server", "The agreement names it")
        check_number(terms, request.round)
        asked = request.participants
        if list(asked) != sorted(set(asked)) or not set(asked) <= set(terms.participants):
            raise RefusedError("a list of other participants", "The agreement names them")
        if not set(request.awaited) <= set(asked):
            raise RefusedError("a round that waits for others than it asks", "Ask for them as well")
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

    def _record(self, round: Round, asked: Asked) -> Record:
        """Return what all three sign.

        Raises:
            RefusedError: if the agreement holds no more, too few are in the sum, or others than
                the server asked for.
        """
        agreement, number = round.key
        terms = self._table.require(agreement)
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
        finished = await self._table.plane().submit_finish(
            FinishJob(
                0, round.epoch, round.position - 1, session_digest(round.key[0]), asked.nonces,
                terms.words, terms.variance, str(path),
            )
        )  # fmt: skip
        self._store.keep(record, finished.digests)

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

    async def _release(self, stored: Stored) -> Told:
        record, digests = stored.record, stored.digests
        path = self._store.path(record)
        if not path.exists():
            raise RefusedError(
                f"the sum of round {record.round} is not kept any more", "AskSum for later rounds"
            )
        self._table.require(record.agreement)
        summand = await asyncio.to_thread(read_sum, path, digests.first)
        part = release_stored(summand, digests.second)
        return Told(part, record.contributors, record.dropped)
