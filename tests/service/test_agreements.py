"""Agreements over three real workers: who may sign what, and what a worker takes for consent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tercet.crypto.identity import Identity
from tercet.errors import IdentityError, NotFoundError, RefusedError
from tercet.service.agreements import APPROVAL, Agreements
from tercet.service.cluster import LocalCluster
from tercet.service.connection import Connection
from tercet.service.messages import Agreed, Sign
from tercet.service.parties import Party
from tercet.service.registry import Registry
from tercet.service.training_terms import Reference, TrainingTerms

A, B, C = (Identity.generate(n) for n in ("hospital-a", "hospital-b", "stranger"))


def terms(workers: tuple[str, str, str], *signers: Identity, **other: object) -> TrainingTerms:
    owner = signers[0].fingerprint
    given = {
        "name": "tumours",
        "workers": workers,
        "signers": tuple(s.fingerprint for s in signers),
        "program": "0" * 64,
        "states": Reference(bytes(16), b"s", owner, "initial"),
        "data": tuple(
            Reference(bytes([n + 1]) * 16, b"d", s.fingerprint, s.name)
            for n, s in enumerate(signers)
        ),
        "epochs": 1,
        "steps": 10,
        "batch_size": 8,
        "seed": bytes(32),
        "checkpoint": 5,
        "owner": owner,
    }
    return TrainingTerms(**{**given, **other})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=("hospital-a", "hospital-b", "stranger")) as cluster:
        yield cluster


def party(cluster: LocalCluster, name: str) -> Party:
    return Party(cluster.config, cluster.as_party(name).owner)


def agree_on(cluster: LocalCluster, **other: object) -> TrainingTerms:
    workers = tuple(w.identity.fingerprint for w in cluster.config.worker)
    signers = [cluster.as_party(n).owner for n in ("hospital-a", "hospital-b")]
    return terms(workers, *signers, **other)  # type: ignore[arg-type]


def test_it_holds_once_all_have_signed(three: LocalCluster) -> None:
    with (
        party(three, "hospital-a") as a,
        party(three, "hospital-b") as b,
        party(three, "stranger") as c,
    ):
        proposed = c.propose(agree_on(three))
        assert not proposed.holds
        assert len(proposed.missing) == 2
        assert c.find("tumours").id == proposed.id
        assert a.find(proposed.id[:8]).terms == proposed.terms
        first = a.approve(a.find(proposed.id))
        assert first == a.approve(first)
        assert len(first.missing) == 1
        assert b.approve(b.find("tumours")).holds
        with pytest.raises(RefusedError, match="does not ask stranger to sign"):
            c.approve(proposed)
        with pytest.raises(RefusedError, match="does not ask stranger to sign"):
            c.withdraw(proposed)
        gone = b.withdraw(first)
        assert not gone.missing
        assert not gone.holds
        with pytest.raises(RefusedError, match=r"hospital-b .* has withdrawn"):
            b.approve(gone)


def test_only_parties_see_it(three: LocalCluster) -> None:
    with party(three, "hospital-a") as a, party(three, "stranger") as c:
        mine = a.propose(agree_on(three, name="private"))
        assert mine.id not in {x.id for x in c.agreements()}
        with pytest.raises(NotFoundError, match="no agreement 'private' concerns you"):
            c.find("private")


def test_what_is_refused(three: LocalCluster) -> None:
    with party(three, "hospital-a") as a:
        swapped = agree_on(three)
        with pytest.raises(RefusedError, match="names other workers"):
            a.propose(msgspec.structs.replace(swapped, workers=swapped.workers[::-1]))
        with pytest.raises(RefusedError, match="'hospital-b' is not asked to sign"):
            a.propose(msgspec.structs.replace(swapped, signers=swapped.signers[:1]))
        for change, said in (
            ({"name": "a/b"}, "about 'a/b'"),
            ({"steps": 0}, "0 steps"),
            ({"receivers": (A.fingerprint,)}, "nothing for a receiver"),
            ({"signers": ()}, "0 signers"),
        ):
            with pytest.raises(RefusedError, match=said):
                a.propose(agree_on(three, **change))
        held = a.propose(agree_on(three, name="forged"))
        asked = Sign(held.digest, three.as_party("hospital-b").owner.sign(APPROVAL, held.digest))
        with (
            Connection(three.config, three.as_party("hospital-a").owner) as connection,
            pytest.raises(IdentityError, match=r"not hospital-a .* signature"),
        ):
            connection.ask_all("/v1/agreements/sign", [asked] * 3, Agreed, 10)
        with (
            Connection(three.config, three.owner) as connection,
            pytest.raises(RefusedError, match="does not ask owner to sign"),
        ):
            connection.ask_all("/v1/agreements/sign", [asked] * 3, Agreed, 10)


def test_what_a_worker_requires(tmp_path: Path) -> None:
    workers = tuple(Identity.generate(n).fingerprint for n in ("x", "y", "z"))
    listed = [A.public, B.public]
    registry = Registry(tmp_path)
    kept = Agreements(registry, workers, lambda: listed)
    digest = kept.propose(C.public, msgspec.msgpack.encode(terms(workers, A, B))).digest
    with pytest.raises(NotFoundError, match="no agreement"):
        kept.require(bytes(32))
    with pytest.raises(RefusedError, match="not signed by"):
        kept.require(digest)
    for signer in (A, B):
        kept.sign(signer.public, Sign(digest, signer.sign(APPROVAL, digest)))
    assert kept.require(digest).name == "tumours"
    listed.remove(B.public)
    with pytest.raises(RefusedError, match=r"hospital-b .* not on this worker's lists"):
        kept.require(digest)
    registry.close()

    registry = Registry(tmp_path)  # all of it is durable, and forged rows are noticed
    kept = Agreements(registry, workers, lambda: [A.public, B.public])
    assert kept.require(digest).name == "tumours"
    with registry.transaction() as db:
        db.execute("UPDATE signatures SET signature = x'00' WHERE signer = ?", (A.fingerprint,))
    with pytest.raises(IdentityError, match="not hospital-a"):
        kept.require(digest)
    registry.close()
