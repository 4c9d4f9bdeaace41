"""How three workers come to hold the same after one of them was killed in between.

On every new link, and after every change, workers tell each other what they hold (``Inventory``).
What a worker then does rests on what it wrote down itself, when the owner asked it and all three
had compared it; a peer only says that it went through:

* a model that is prepared here and committed at a peer is committed here;
* one that is prepared here, that no peer has committed and that has become too old, is dropped;
* a change that is proposed here and that a peer has applied is applied here; one that no peer has
  applied after ``PROPOSAL_SECONDS`` is forgotten;
* counts that differ are made equal by exchanging the ids of the latest requests: a request counts
  once, whoever tells of it. A peer can thus only use limits up, which it could by refusing, too.

Whatever else differs (a lost disk, an old backup) is not healed but told: the worker is not ready.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from tercet.errors import TercetError, TransportError
from tercet.service.counts import Request
from tercet.service.messages import (
    MAX_ROWS,
    REQUEST_ID_BYTES,
    Counted,
    CountedRequest,
    Held,
    Inventory,
    PeerMessage,
)
from tercet.service.model import Model
from tercet.service.proposals import Proposal
from tercet.service.registry import DROP_SECONDS, Registry

_log = logging.getLogger("tercet.worker")

#: Seconds after which a proposed change that no worker has applied is forgotten: longer than
#: the workers wait for each other to agree on it.
PROPOSAL_SECONDS = 60.0
#: Latest requests of a model that are told when counts differ.
_RECENT = 1000


class Reconciler:
    """This worker's part.

    Args:
        registry: what it holds.
        names: names of the three workers.
        peers: indices of the two others.
        send: passes a message to a peer; raises TransportError if it is not connected.
        moved: called with the ids of models that were committed, changed or removed here.
        busy: returns the ids of changes that their owner is being answered about.
    """

    def __init__(
        self,
        registry: Registry,
        names: Sequence[str],
        peers: Sequence[int],
        send: Callable[[int, PeerMessage], None],
        moved: Callable[[Sequence[bytes]], None],
        busy: Callable[[], set[bytes]],
    ) -> None:
        self._registry = registry
        self._names = names
        self._peers = peers
        self._send = send
        self._moved = moved
        self._busy = busy
        self._held: dict[int, dict[bytes, Held]] = {}
        self._told: dict[int, list[Held]] = {}
        self._seen: dict[int, dict[bytes, Held]] = {}
        self._helped: dict[int, dict[bytes, Held]] = {}

    def link_changed(self, peer: int, up: bool) -> None:
        """Tell a new peer what is held here; forget what a lost one held."""
        self._held.pop(peer, None)
        self._told.pop(peer, None)
        if up:
            self._tell([peer])

    def changed(self) -> None:
        """Tell the peers what is held here."""
        self._tell(self._peers)

    def tick(self) -> None:
        """Do what time asks for; called every second or so."""
        mine = self._inventory()
        self._tell([p for p in self._peers if self._told.get(p) != mine])
        self._settle()
        for peer, held in self._held.items():
            # While requests run the others' counts lag or lead by some: only what stays counts.
            if self._seen.get(peer) is held and self._helped.get(peer) is not held:
                self._catch_up(peer)
            self._seen[peer] = held

    def received(self, peer: int, message: Inventory | Counted) -> None:
        """Take what a peer tells."""
        if isinstance(message, Counted):
            self._adopt(peer, message)
            return
        first = peer not in self._held
        self._held[peer] = {held.id: held for held in message.models}
        self._settle()
        if first:
            self._catch_up(peer)

    def differences(self) -> list[str]:
        """Return what keeps this worker from holding the same as its peers, in plain words."""
        mine = _standing(self._inventory())
        told = []
        for peer in self._peers:
            if peer not in self._held:
                told.append(f"the model list of {self._names[peer]}")
                continue
            theirs = _standing(self._held[peer].values())
            if theirs != mine:
                differing = {k for k, _ in theirs.items() ^ mine.items()}
                labels = sorted(
                    m.label for m in self._registry.models(prepared=True) if m.id in differing
                )
                what = ", ".join(labels[:3]) or f"{len(differing)} models"
                told.append(f"{self._names[peer]} to hold the same of {what}")
        return told

    def agreed(self, models: Sequence[bytes], kept: Sequence[Model]) -> bool:
        """Return whether the peers that have a link hold, of ``models``, what is ``kept`` here."""
        mine = _standing(map(_held, kept))
        return all(
            _standing(held[m] for m in models if m in held) == mine for held in self._held.values()
        )

    def _inventory(self) -> list[Held]:
        return [_held(m) for m in self._registry.models(prepared=True)]

    def _tell(self, peers: Sequence[int]) -> None:
        mine = self._inventory()
        for peer in peers:
            self._told[peer] = mine
            self._try_send(peer, Inventory(mine))

    def _try_send(self, peer: int, message: PeerMessage) -> None:
        try:
            self._send(peer, message)
        except TransportError:
            return  # told when its link stands

    def _settle(self) -> None:
        """Finish what was begun here and is finished elsewhere; drop what is finished nowhere."""
        for model in self._registry.models(prepared=True):
            if model.committed:
                continue
            theirs = [h for p in self._held.values() if (h := p.get(model.id)) is not None]
            if any(h.committed for h in theirs):
                _log.info("model %s of %s committed as at a peer", model.label, model.owner)
                self._registry.commit_too(model.id)
                self._moved([model.id])
            elif self._complete and time.time() > model.created + DROP_SECONDS:
                _log.warning("model %s of %s was never committed", model.label, model.owner)
                self._registry.drop(model.id)
        busy = self._busy()
        for proposal in self._registry.proposals():
            if proposal.id in busy:
                continue
            if any(self._applied(proposal, held) for held in self._held.values()):
                _log.info("change of %r applied as at a peer", proposal.asked.name)
                self._moved(self._registry.apply(proposal.id))
            elif self._complete and time.time() > proposal.time + PROPOSAL_SECONDS:
                self._registry.withdraw(proposal.id)

    @property
    def _complete(self) -> bool:
        return len(self._held) == len(self._peers)

    @staticmethod
    def _applied(proposal: Proposal, held: dict[bytes, Held]) -> bool:
        if proposal.asked.remove:
            return not any(model in held for model in proposal.models)
        return any(m in held and held[m].change == proposal.id for m in proposal.models)

    def _catch_up(self, peer: int) -> None:
        """Tell a peer of requests that it has not counted."""
        theirs = self._held[peer]
        self._helped[peer] = theirs
        for model in self._registry.models():
            held = theirs.get(model.id)
            if (
                held is not None
                and held.change == model.change
                and (held.used_requests, held.used_rows) < (model.used_requests, model.used_rows)
            ):
                recent = self._registry.recent(model.id, model.change, _RECENT)
                told = [CountedRequest(r.id, r.client, r.rows) for r in recent]
                self._try_send(peer, Counted(model.id, model.change, told))

    def _adopt(self, peer: int, message: Counted) -> None:
        try:
            model = self._registry.by_id(message.model)
        except TercetError:
            return
        if model.change != message.change:
            return
        requests = [
            Request(r.id, model.id, r.client[:64], r.rows)
            for r in message.requests[:_RECENT]
            if 0 < r.rows <= MAX_ROWS and len(r.id) == REQUEST_ID_BYTES
        ]
        known = {r.id for r in self._registry.recent(model.id, model.change, 2 * _RECENT)}
        if new := [r for r in requests if r.id not in known]:
            self._registry.count(new, model.change, "counted at a peer")
            _log.info(
                "%d requests on %s counted as at %s", len(new), model.label, self._names[peer]
            )


def _held(model: Model) -> Held:
    return Held(
        model.id,
        model.committed,
        model.digest,
        model.change,
        model.used_requests,
        model.used_rows,
    )


def _standing(models: Iterable[Held]) -> dict[bytes, tuple[str, bytes]]:
    """Return what must be equal everywhere; prepared models may come and go."""
    return {h.id: (h.digest, h.change) for h in models if h.committed}
