"""``tercet doctor``: what it finds, and that it names the right worker and remedy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import tercet
from tercet.api import Lowered
from tercet.crypto.identity import Identity
from tercet.service import doctor
from tercet.service.cluster import LocalCluster
from tercet.service.config import ClusterConfig, load_cluster
from tercet.service.doctor import Check, examine
from tercet.service.messages import Description, Policy, Status


def wrong(checks: list[Check]) -> list[tuple[str, str]]:
    assert all(c.remedy for c in checks if not c.ok)
    return [(c.worker, c.what) for c in checks if not c.ok]


def test_a_healthy_cluster(cluster: LocalCluster, model: Lowered) -> None:
    tercet.share(model, cluster, "examined")
    try:
        for identity in (cluster.owner, cluster.client):
            checks = examine(cluster.config, identity)
            assert wrong(checks) == []
            values = {(c.worker, c.what): c.value for c in checks}
            for entry in cluster.config.worker:
                assert 0 < (values[entry.name, "latency"] or 0) < 1
                assert (values[entry.name, "bandwidth"] or 0) > 1e6
                assert abs(values[entry.name, "clock"] or 0) < 1
                for other in cluster.config.worker:
                    if other.name != entry.name:
                        assert (values[entry.name, f"line to {other.name}"] or 0) > 1e6
            told = [c.told for c in checks if c.what == "models"]
            assert any("owner/examined" in t and "at julia, greg, me" in t for t in told)
    finally:
        tercet.remove("examined", cluster)


def test_another_key_than_the_file_says(cluster: LocalCluster) -> None:
    other = Identity.generate("greg").certificate_pem.decode()
    workers = list(cluster.config.worker)
    workers[1] = msgspec.structs.replace(workers[1], certificate=other)
    checks = examine(ClusterConfig(workers), cluster.owner)
    assert wrong(checks) == [("greg", "certificate")]
    assert "do not send anything until they match" in next(c.remedy for c in checks if not c.ok)


def test_a_stranger(cluster: LocalCluster) -> None:
    checks = examine(cluster.config, Identity.generate("stranger"))
    assert wrong(checks) == [(w.name, "certificate") for w in cluster.config.worker]
    assert {c.told for c in checks} == {"it does not accept the identity that asks"}


def test_clocks_and_versions(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [w.name for w in cluster.config.worker]
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "__version__", "0.0.1")
        checks = examine(cluster.config, cluster.owner)
        assert wrong(checks) == [(n, "version") for n in names]
    now = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() + 60)
    checks = examine(cluster.config, cluster.owner)
    assert wrong(checks) == [(n, "clock") for n in names]
    assert [c.told for c in checks if c.what == "clock"] == ["-60.0 s from the one here"] * 3


def test_a_worker_that_is_gone() -> None:
    with LocalCluster(quiet=True) as own:
        os.kill(own.pids[1], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while wrong(checks := examine(own.config, own.owner)) != [
            ("greg", "reach"), ("julia", "links"), ("me", "links"),
        ]:  # fmt: skip
            assert time.monotonic() < deadline, checks
            time.sleep(0.1)
    remedies = [c.remedy for c in checks if not c.ok]
    assert remedies[1:] == ["Bring greg back first"] * 2


def test_models_that_differ() -> None:
    def status(name: str, *models: Description) -> Status:
        return Status(name, 0, "", True, [], 0.0, list(models))

    def shared(model: bytes, digest: str) -> Description:
        return Description(model, "digits", 1, "ann", digest, (-1, 8), (-1, 3), 16, 16, Policy())

    one, two = shared(b"1", "aa"), shared(b"1", "bb")
    checks = list(doctor._models([status("julia", one), status("greg", one), status("me", two)]))
    assert [(c.ok, c.told) for c in checks] == [
        (False, "ann/digits@1: program aa only at julia, greg"),
        (False, "ann/digits@1: program bb only at me"),
    ]
    checks = list(doctor._models([status("julia", one), status("greg"), status("me", one)]))
    assert [c.told for c in checks] == ["ann/digits@1: program aa only at julia, me"]


def test_what_a_worker_waits_for_has_a_remedy(cluster: LocalCluster) -> None:
    first, second, _ = cluster.config.worker

    def judged(*waits: str, fault: str = "") -> list[tuple[str, bool, str, str]]:
        model = Description(
            b"1", "digits", 1, "ann", "aa", (-1, 8), (-1, 3), 16, 16, Policy(), fault=fault
        )
        states = [Status(n, 0, "", not waits, list(waits), 0.0, [model]) for n in ("julia", "greg")]
        checks = list(doctor._standing(first, states[0], cluster.config, [*states, None]))
        assert wrong(checks) == [("julia", c.what) for c in checks if not c.ok]
        return [(c.what, c.ok, c.told, c.remedy) for c in checks]

    stand = ("links", True, "to greg and me stand", "")
    assert judged() == [stand, ("ready", True, "holds what the others hold, loaded", "")]
    links, waiting = judged("the shares of digits@1")
    assert links == stand
    assert waiting[:3] == ("ready", False, "waits for the shares of digits@1")
    assert "Wait some seconds" in waiting[3]
    assert "share again" in judged("greg to hold the same of digits@1")[1][3]
    links, damaged = judged("the shares of digits@1", fault="it is damaged")
    assert damaged[:3] == ("ready", False, "ann/digits@1: it is damaged")
    assert "backup" in damaged[3]
    (both,) = judged("greg", "me")
    assert both[:3] == ("links", False, "no link to greg and me")
    assert second.data_address in both[3]
    assert "Bring me back first" in both[3]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tercet.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_cluster_new(tmp_path: Path) -> None:
    made = {n: Identity.generate(n) for n in ("julia", "greg", "me")}
    for identity in made.values():
        identity.save(tmp_path)
    good = ["julia.crt=a.example:4000,4001", "greg.crt=b.example:4000,4001", "me.crt=[::1]:1,2"]

    def new(*workers: str) -> str:
        done = run(tmp_path, "cluster", "new", *(a for w in workers for a in ("--worker", w)))
        assert (done.returncode == 0) == (not done.stderr)
        return done.stdout + done.stderr

    for workers, words in (
        (good[:2], "the cluster names 2 workers"),
        ([*good[:2], "greg.crt=c.example:4000,4001"], "the same name twice"),
        ([*good[:2], "me.crt=a.example:4001,4002"], "the same address twice"),
        ([*good[:2], "me.crt"], "'me.crt' is not a worker. Write CRT=HOST:PORT,DATAPORT"),
        ([*good[:2], "me.crt=c.example:4000"], "is not a worker"),
        ([*good[:2], "me.crt=c.example:4000,x"], "'c.example:x' is not an address"),
        ([*good[:2], "none.crt=c.example:4000,1"], "cannot read the certificate none.crt"),
        ([*good[:2], "me.key=c.example:4000,1"], "a private key where a certificate was expected"),
    ):
        assert words in new(*workers)
        assert not (tmp_path / "cluster.toml").exists()
    said = new(*good)
    config = load_cluster(tmp_path / "cluster.toml")
    assert [(w.name, w.address, w.data_address) for w in config.worker] == [
        ("julia", "a.example:4000", "a.example:4001"),
        ("greg", "b.example:4000", "b.example:4001"),
        ("me", "[::1]:1", "[::1]:2"),
    ]
    for entry in config.worker:
        assert entry.identity == made[entry.name].public
        assert made[entry.name].fingerprint in said
    assert "exists and will not be overwritten" in new(*good)
