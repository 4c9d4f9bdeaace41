"""Contributions over three real workers: what is stored, what is refused, what survives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from tercet.crypto.prg import fresh
from tercet.errors import InputError, IntegrityError, RefusedError, WorkerError
from tercet.program.training import DATA_SCALE
from tercet.protocol.replicated.sharing import Summand, deal
from tercet.ring import fixed
from tercet.service.cluster import LocalCluster
from tercet.service.connection import Connection
from tercet.service.contributor import Contributor, prepare_rows
from tercet.service.messages import Contribution, Deposit
from tercet.service.shares import read_summands
from tercet.service.training_messages import ShareDigests, Tensor
from tests.service.processes import alive, end, eventually, ready, restart

X = np.arange(12.0).reshape(4, 3) / 8


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=("hospital-a", "hospital-b")) as cluster:
        yield cluster


def contributor(cluster: LocalCluster, name: str = "hospital-a") -> Contributor:
    return Contributor(cluster.config, cluster.as_party(name).owner)


def files(cluster: LocalCluster) -> list[list[Path]]:
    return [
        sorted((cluster.directory / f"{w.name}-state" / "sharings").iterdir())
        for w in cluster.config.worker
    ]


def test_stored_listed_removed(three: LocalCluster) -> None:
    with contributor(three) as a, contributor(three, "hospital-b") as b:
        told = a.contribute("ward", X, [0, 2, 1, 0], classes=3)
        assert told.full_name == "hospital-a/ward"
        assert told.contribution.tensors == {k: Tensor((4, 3), DATA_SCALE) for k in "xy"}
        other = b.contribute("ward", X)
        assert [t.digest for t in b.contributions()] == [told.digest, other.digest]
        with pytest.raises(RefusedError, match="contributed 'ward' already"):
            a.contribute("ward", X)
        assert [len(f) for f in files(three)] == [2, 2, 2]
        a.remove("ward")
        a.remove("ward")
        assert [t.full_name for t in a.contributions()] == ["hospital-b/ward"]
        b.remove("ward")
        assert [len(f) for f in files(three)] == [0, 0, 0]


def test_what_the_files_hold_is_a_sharing_of_the_data(three: LocalCluster) -> None:
    with contributor(three) as a:
        told = a.contribute("sum", X)
        total = np.zeros((4, 3), np.uint64)
        for index, (path,) in enumerate(files(three)):
            with pytest.raises(WorkerError, match="damaged"):
                read_summands(path, told.contribution.id, index, 0, ShareDigests(b"", b"", b""))
            arrays = load_file(path)
            seed = arrays["0:seed"].tobytes() if "0:seed" in arrays else b""
            data = {} if seed else {"x": arrays["0:array:x"].tobytes()}
            total += Summand(seed, data).expand("x", (4, 3))
        np.testing.assert_array_equal(fixed.decode(total, DATA_SCALE), X)
        a.remove("sum")


def test_shares_that_do_not_belong_together(three: LocalCluster) -> None:
    words = {"x": fixed.encode(X, 16)}
    for cheat in range(3):
        given = Contribution(bytes([cheat + 7]) * 16, "cheat", {"x": Tensor((4, 3), 16)}, 4)
        pairs = list(deal(words))
        pairs[cheat] = deal(words)[cheat]
        with (
            Connection(three.config, three.as_party("hospital-a").owner) as connection,
            pytest.raises(IntegrityError, match="do not belong together"),
        ):
            connection.ask_all(
                "/v1/sharings/prepare", [Deposit(given, p) for p in pairs], type(None), 30
            )
    with contributor(three) as a:
        assert a.contributions() == []
    assert [len(f) for f in files(three)] == [0, 0, 0]


def test_what_is_refused_by_a_worker(three: LocalCluster) -> None:
    words = {"x": fixed.encode(X, 16)}
    pairs = deal(words)
    bad = (
        (Contribution(bytes(16), "a/b", {"x": Tensor((4, 3), 16)}, 4), RefusedError, "'a/b'"),
        (Contribution(bytes(16), "n", {}, 0), RefusedError, "0 arrays"),
        (Contribution(bytes(16), "n", {"x": Tensor((4, 3), 16)}, 5), RefusedError, "5 rows"),
        (Contribution(bytes(16), "n", {"x": Tensor((0, 3), 16)}, 0), RefusedError, "none empty"),
        (Contribution(bytes(16), "n", {"x": Tensor((5, 3), 16)}, 5), IntegrityError, "summand"),
        (Contribution(bytes(3), "n", {"x": Tensor((4, 3), 16)}, 4), RefusedError, "request id"),
    )
    with Connection(three.config, three.as_party("hospital-a").owner) as connection:
        for given, kind, said in bad:
            with pytest.raises(kind, match=said):
                if given.id == bytes(16):
                    given = msgspec.structs.replace(given, id=fresh(16))
                connection.ask_all(
                    "/v1/sharings/prepare", [Deposit(given, p) for p in pairs], type(None), 30
                )
    with (
        Contributor(three.config, three.client) as stranger,
        pytest.raises(RefusedError, match="not allowed"),
    ):
        stranger.contribute("n", X)


def test_what_is_refused_at_its_owner() -> None:
    for arguments, said in (
        ((X, [0, 1, 2, 3], 3, None), "label of row 3 is not a class from 0 to 2"),
        ((X, [0, 1, -1, 1], 3, None), "label of row 2"),
        ((X, [0, 1, 0.5, 1], 3, None), "label of row 2"),
        ((X, [0, 1], 3, None), "4 rows of x and 2 labels"),
        ((X, None, 3, None), "without labels"),
        ((X, [0, 1, 0, 1], 1, None), "1 classes"),
        ((X[:0], None, None, None), "is empty"),
        ((np.where(X == 0.5, np.nan, X), None, None, None), r"x at index \(1, 1\) is NaN"),
        ((X, [0, np.inf, 0, 0], None, None), r"y at index \(1,\) is NaN or infinite"),
        ((["a"], None, None, None), "dtype"),
        ((X, None, None, [1, 1, 2, 3]), "3 different ids for 4 rows"),
    ):
        with pytest.raises(InputError, match=said):
            prepare_rows(*arguments)  # type: ignore[arg-type]


def test_rows_are_put_in_the_order_of_their_ids() -> None:
    mine, order = prepare_rows(X, None, None, ["d", "a", "c", "b"])
    np.testing.assert_array_equal(mine["x"], X[[1, 3, 2, 0]])
    _, same = prepare_rows(X, [1.0, 2, 3, 4], None, ["a", "b", "c", "d"])
    _, other = prepare_rows(X, None, None, ["a", "b", "c", "e"])
    assert order == same != other


def test_a_worker_that_dies_keeps_what_was_committed() -> None:
    with LocalCluster(quiet=True, parties=("hospital-a",)) as cluster:
        with contributor(cluster) as a:
            told = a.contribute("ward", X)
        pid = cluster.pids[1]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid))
        running = restart(cluster, "greg")
        try:
            eventually(lambda: ready(cluster))
            with contributor(cluster) as a:
                assert [t.digest for t in a.contributions()] == [told.digest]
        finally:
            end(running)
