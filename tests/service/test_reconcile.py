"""Three registries that are cut off in the middle of things, and what they make of it."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import pytest

from tercet.crypto.prg import fresh
from tercet.errors import NotFoundError, RefusedError, TransportError
from tercet.program.program import encode
from tercet.service import reconcile, registry
from tercet.service.counts import Request
from tercet.service.messages import Change, Policy, ShareDigests
from tercet.service.reconcile import Reconciler
from tercet.service.registry import Registry
from tests.service.conftest import dense_model

OWNER = ("owner", "aa" * 32)
DIGESTS = ShareDigests(b"1", b"2", b"3")
PROGRAM = encode(dense_model().program)
SERVED = Policy(serving=True, max_requests=9)


class Trio:
    """Three workers' registries; links can be cut. Mail is delivered when ``settle`` runs."""

    def __init__(self, folder: Path) -> None:
        self.down: set[int] = set()
        self.mail: deque[tuple[int, int, object]] = deque()
        self.all = [
            Registry(folder / str(i), lambda i=i: self.workers[i].changed()) for i in range(3)
        ]
        self.moved: list[list[bytes]] = [[], [], []]
        self.workers = [
            Reconciler(
                self.all[i],
                ("julia", "greg", "me"),
                [p for p in range(3) if p != i],
                lambda peer, message, i=i: self.send(i, peer, message),
                self.moved[i].extend,
                set,
            )
            for i in range(3)
        ]

    def send(self, sender: int, receiver: int, message: object) -> None:
        if {sender, receiver} & self.down:
            raise TransportError("not connected")
        self.mail.append((sender, receiver, message))

    def link(self, up: bool, worker: int) -> None:
        if up:
            self.down.discard(worker)
        for peer in range(3):
            if peer != worker:
                self.workers[worker].link_changed(peer, up)
                self.workers[peer].link_changed(worker, up)
        if not up:
            self.down.add(worker)
        self.settle()

    def settle(self) -> None:
        while self.mail:
            sender, receiver, message = self.mail.popleft()
            self.workers[receiver].received(sender, message)

    def share(self, at: range | tuple[int, ...] = range(3), version: int = 1) -> bytes:
        model = fresh(16)
        for i in at:
            self.all[i].prepare(model, "digits", version, OWNER, PROGRAM, DIGESTS)
        return model

    def states(self) -> list[list[tuple[str, bool, bytes, int]]]:
        return [
            [(m.label, m.policy.serving, m.change, m.used_requests) for m in r.models()]
            for r in self.all
        ]

    def same(self) -> bool:
        first, second, third = self.states()
        return first == second == third and not any(w.differences() for w in self.workers)


@pytest.fixture
def trio(tmp_path: Path):
    three = Trio(tmp_path)
    for worker in range(3):
        three.link(True, worker)
    yield three
    for kept in three.all:
        kept.close()


def change(trio: Trio, apply_at: tuple[int, ...], remove: bool = False) -> Change:
    """A change that all three wrote down and some applied."""
    asked = Change(fresh(16), "digits", None if remove else SERVED, remove)
    for kept in trio.all:
        kept.propose(asked, kept.select(asked, OWNER[1]), OWNER)
    for i in apply_at:
        trio.all[i].apply(asked.id)
    return asked


@pytest.mark.parametrize("committed", [(0,), (1, 2), (2,)])
def test_a_commit_that_reached_some_reaches_all(trio: Trio, committed: tuple[int, ...]) -> None:
    model = trio.share()
    trio.link(False, 0)
    for i in committed:
        trio.all[i].commit(model, OWNER[1])
    trio.settle()
    trio.link(True, 0)
    assert trio.same()
    assert [len(s) for s in trio.states()] == [1, 1, 1]
    assert all(model in trio.moved[i] for i in range(3) if i not in committed)


def test_a_model_that_nobody_committed_goes(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trio.share((0, 1))
    now = time.time()
    monkeypatch.setattr(reconcile.time, "time", lambda: now + registry.DROP_SECONDS + 1)
    trio.link(False, 2)
    trio.workers[0].tick()
    trio.settle()
    assert trio.all[0].models(prepared=True), "dropped without having heard of all"
    trio.link(True, 2)
    for worker in trio.workers:
        worker.tick()
    assert not any(kept.models(prepared=True) for kept in trio.all)
    assert not any(kept._programs for kept in trio.all), "its program stays in memory"
    with pytest.raises(NotFoundError):
        trio.all[0].commit(model, OWNER[1])
    assert trio.all[0].next_version("digits", OWNER[1]) == 2  # no version is used twice


def test_a_late_commit_is_refused(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before any worker may drop it, so that none commits what another dropped."""
    model = trio.share()
    now = time.time()
    monkeypatch.setattr(registry.time, "time", lambda: now + registry.COMMIT_SECONDS + 1)
    assert registry.COMMIT_SECONDS < registry.DROP_SECONDS / 2
    with pytest.raises(NotFoundError, match="lately"):
        trio.all[0].commit(model, OWNER[1])


@pytest.mark.parametrize("applied", [(0,), (0, 1), (2,)])
@pytest.mark.parametrize("remove", [False, True])
def test_a_change_that_reached_some_reaches_all(
    trio: Trio, applied: tuple[int, ...], remove: bool
) -> None:
    model = trio.share()
    for kept in trio.all:
        kept.commit(model, OWNER[1])
    trio.settle()
    trio.link(False, 2)
    change(trio, applied, remove)
    trio.settle()
    trio.link(True, 2)
    assert trio.same()
    assert [len(s) for s in trio.states()] == [0 if remove else 1] * 3
    assert not any(kept.proposals() for kept in trio.all)


def test_a_change_that_nobody_applied_is_forgotten(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trio.share()
    for kept in trio.all:
        kept.commit(model, OWNER[1])
    change(trio, ())
    trio.settle()
    assert all(len(kept.proposals()) == 1 for kept in trio.all)
    now = time.time()
    monkeypatch.setattr(reconcile.time, "time", lambda: now + reconcile.PROPOSAL_SECONDS + 1)
    for worker in trio.workers:
        worker.tick()
    assert not any(kept.proposals() for kept in trio.all)
    assert trio.same()


def test_a_peer_cannot_change_what_the_owner_did_not_ask(trio: Trio) -> None:
    """One worker alone applies a policy and removes a model: the others keep theirs and tell."""
    models = [trio.share(), trio.share(version=2)]
    for kept in trio.all:
        for model in models:
            kept.commit(model, OWNER[1])
    liar = trio.all[1]
    for asked in (Change(fresh(16), "digits@2", SERVED), Change(fresh(16), "digits@1", None, True)):
        liar.propose(asked, liar.select(asked, OWNER[1]), OWNER)
        liar.apply(asked.id)
    trio.settle()
    assert trio.states()[0] == trio.states()[2]
    assert [s[1] for s in trio.states()[0]] == [False, False]
    assert trio.workers[0].differences() == ["greg to hold the same of digits@1, digits@2"]


def test_counts_become_equal_and_no_request_counts_twice(trio: Trio) -> None:
    model = trio.share()
    for kept in trio.all:
        kept.commit(model, OWNER[1])
    served = change(trio, (0, 1, 2)).id
    requests = [Request(fresh(16), model, "cc" * 32, 2, "client") for _ in range(5)]
    trio.link(False, 2)
    trio.all[0].count(requests, served)
    trio.all[1].count(requests[:3], served)
    trio.link(True, 2)
    for _ in range(3):
        for worker in trio.workers:
            worker.tick()
        trio.settle()
    assert trio.same()
    assert [(m.used_requests, m.used_rows) for r in trio.all for m in r.models()] == [(5, 10)] * 3
    assert trio.all[2].count(requests, served) == 0
    with pytest.raises(RefusedError, match="already answered"):
        trio.all[2].admit(requests[4].id, trio.all[2].by_id(model), "cc" * 32, 1)


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    kept = Registry(tmp_path)
    model = fresh(16)
    kept.prepare(model, "digits", 1, OWNER, PROGRAM, DIGESTS)
    kept.path(model).write_bytes(b"shares")
    stray = kept.path(fresh(16))
    stray.write_bytes(b"half a file of a model that was never prepared")
    kept.close()
    again = Registry(tmp_path)
    assert not stray.exists()
    assert again.path(model).exists()
    assert not again.models()
    assert again.commit(model, OWNER[1]).label == "digits@1"
    again.close()
