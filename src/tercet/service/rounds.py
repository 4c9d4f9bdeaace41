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

from collections.abc import Callable, Sequence

from tercet.crypto.identity import PublicIdentity
from tercet.errors import TercetError, TransportError
from tercet.service.agreement import Agreement
from tercet.service.agreements import Agreements
from tercet.service.arena import Arena
from tercet.service.dataprocess import DataProcess
from tercet.service.messages import PeerMessage
from tercet.service.round_closing import Closing
from tercet.service.round_contributions import Body, Contributions
from tercet.service.round_order import Order
from tercet.service.round_records import Records
from tercet.service.round_state import Round, fail
from tercet.service.round_store import RoundStore
from tercet.service.round_table import Table, lost
from tercet.service.sum_messages import (
    AskSum,
    Close,
    Contribute,
    Fold,
    Holding,
    Ready,
    Restart,
    Signed,
    SumMessage,
    Told,
    Turn,
)


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
        self._records = records
        self._table = Table(index, names, agreements, send, plane)
        self._order = Order(self._announce)
        self._table.dropped = self._order.drop
        self._contributions = Contributions(
            self._table, agreement, store, self._order, missing, arena, self._look
        )
        self._closing = Closing(self._table, agreement, records, store, self._look)

    async def contribute(self, who: PublicIdentity, head: Contribute, body: Body) -> None:
        """Take a contribution in and return once it is in the sum: see ``Contributions``."""
        await self._contributions.contribute(who, head, body)

    async def ask(self, who: PublicIdentity, request: AskSum) -> Told:
        """Close a round and return this worker's part of its sum: see ``Closing``."""
        return await self._closing.ask(who, request)

    def received(self, peer: int, message: SumMessage) -> None:
        """Take a message of a peer; only worker 0 announces."""
        if isinstance(message, Signed | Holding):
            self._records.received(peer, message)
        elif isinstance(message, Restart):
            for round in [r for r in self._table.rounds.values() if r.epoch == message.epoch]:
                self._table.restart(round, lost("a worker lost its part of the round"), tell=False)
        elif isinstance(message, Ready):
            if (
                self._table.index == 0
                and (entry := self._table.entries.get(message.id)) is not None
            ):
                self._order.ready(entry, peer)
        elif peer == 0:
            self._obey(message)

    def withdraw(self, request: bytes, refusal: TercetError) -> None:
        """Refuse a contribution that a peer refuses, unless it is being folded in."""
        self._contributions.withdraw(request, refusal)

    def peer_lost(self, error: TercetError) -> None:
        """Start all rounds anew: a sum needs all three workers."""
        for round in list(self._table.rounds.values()):
            self._table.restart(round, error, tell=False)
        for entry in list(self._table.entries.values()):
            entry.fail(error)
        for asked in self._table.asked.values():
            if asked is not None:
                fail(asked.closed, error)
        self._records.fail(error)

    def tick(self) -> None:
        """Close what is past its deadline, and give up what nobody asks for."""
        for round in list(self._table.rounds.values()):
            if round.abandoned:
                self._table.restart(round, lost("the server never asked for this round"), tell=True)
            else:
                self._look(round)

    def _announce(self, message: Turn | Fold | Close) -> bool:
        try:
            for peer in self._table.peers:
                self._table.send(peer, message)
        except TransportError:
            return False  # the lost link makes everything start anew
        return self._obey(message)

    def _obey(self, message: Turn | Fold | Close) -> bool:
        """Do what worker 0 announced; return whether it could be done."""
        if isinstance(message, Turn):
            return self._contributions.turn(message)
        round = self._table.rounds.get((message.agreement, message.round))
        if (
            round is None
            or message.number != round.position
            or (message.number and round.epoch != message.epoch)
        ):
            self._table.out_of_step(round, message.epoch)
            return False
        round.epoch = message.epoch
        round.position += 1
        if isinstance(message, Fold):
            return self._contributions.fold(round, message)
        round.closing = True
        self._table.start(self._closing.close(round, message))
        return True

    def _look(self, round: Round) -> None:
        """At worker 0, see whether a round can be closed."""
        if (
            self._table.index == 0
            and self._table.rounds.get(round.key) is round
            and not round.closing
        ):
            self._order.close_if_due(round)
