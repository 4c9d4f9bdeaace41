"""The estimate against the stated formulas, and against what three parties really send."""

from __future__ import annotations

import numpy as np

from tercet.program.builder import Builder
from tercet.program.passes import lower
from tercet.program.passes.narrow import MARGIN, narrow
from tercet.program.program import Program, Role
from tercet.protocol.base import Cost
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.runtime.estimate import by_source, estimate, totals
from tercet.runtime.interpreter import run
from tests.program.lowering_models import post_cnn
from tests.trio import parties, share
from tests.trio import run as drive


def cnn(bits: int) -> Program:
    """Return the post's CNN, lowered, with ReLUs on ``bits`` bits."""
    program, _ = lower(*post_cnn())
    bound = (1 << bits - 1) // MARGIN - 1
    return narrow(program, {n: bound for n, i in enumerate(program.instructions) if i.op == "relu"})


def test_the_posts_cnn_is_the_sum_of_its_formulas() -> None:
    stated = ReplicatedCost()
    sizes = (13 * 13 * 16, 5 * 5 * 32, 64)
    parts = [
        *(stated.relu(n, 18, 28, True) for n in sizes),
        stated.truncate_fresh(10, 16, True),
    ]
    spent = estimate(cnn(28), 1, stated)
    expected = Cost(sum(c.bytes for c in parts), sum(c.rounds for c in parts))
    assert totals(spent) == expected == Cost(386_688, 11)
    assert [(c.number, c.op) for c in spent if c.rounds] == [
        (3, "relu"),
        (7, "relu"),
        (11, "relu"),
        (15, "truncate_fresh"),
    ]


def test_layers_come_in_order() -> None:
    layers = by_source(estimate(cnn(28), 1, ReplicatedCost()))
    assert [c.source for c in layers] == [
        *(f"{kind}{n}" for n in (1, 2, 3) for kind in ("conv", "pool", "relu")),
        "dense",
    ]
    assert [c.rounds for c in layers] == [0, 0, 3, 0, 0, 3, 0, 0, 3, 2]


def test_bytes_grow_with_the_slices_and_rounds_do_not() -> None:
    one, slice_, many, odd = (
        totals(estimate(cnn(28), n, ReplicatedCost())) for n in (1, 64, 6400, 6401)
    )
    assert (one.rounds, slice_.rounds, many.rounds) == (11, 15, 15)
    assert many.bytes == 100 * slice_.bytes
    assert odd.bytes == many.bytes + one.bytes
    assert 0.7 * 64 * one.bytes < slice_.bytes < 64 * one.bytes


def _everything() -> Program:
    """Every operation that communicates, and every form of argument."""
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 4, 4, 2))
    public = builder.input("p", Role.PUBLIC, (4, 4, 2))
    two = {"window": (1, 2, 2, 1), "strides": (1, 2, 2, 1), "low": (0,) * 4, "high": (0, 1, 1, 0)}
    y = builder.emit("truncate_fresh", builder.emit("mul", x, public), shift=16)
    bit = builder.emit("negative", builder.emit("mul", x, x), shift=16, bits=30)
    bit = builder.emit("bit_and", bit, builder.emit("bit_not", bit))
    y = builder.emit("maximum", y, builder.emit("select", bit, x), bits=40)
    y = builder.emit("max_pool", y, bits=40, **two)
    y = builder.emit("relu", builder.emit("reshare", y), shift=0, bits=24)
    y = builder.emit("reduce_max", y, axes=(1,), bits=28)
    y = builder.emit("top_k", builder.emit("softmax", y, axis=1, bits=28), k=2)
    return builder.finish(builder.emit("argmax", y, axis=2))


def test_the_estimate_is_what_three_parties_send() -> None:
    program, batch, rng = _everything(), 3, np.random.default_rng(0)
    values = rng.integers(0, 1 << 16, (batch, 4, 4, 2), dtype=np.uint64)
    shares, public = share(values, rng), rng.integers(0, 1 << 16, (4, 4, 2), dtype=np.uint64)
    trio = parties()
    _, traffic = drive(lambda i: run(program, trio[i], {"x": shares[i], "p": public}, batch))
    spent = totals(estimate(program, batch, ReplicatedCost()))
    assert (traffic.bytes, traffic.rounds) == (spent.bytes, spent.rounds)


def test_the_posts_cnn_sends_what_is_estimated() -> None:
    program, rng = cnn(28), np.random.default_rng(0)
    shares = {
        i.name: share(rng.integers(0, 99, [abs(d) for d in i.type.shape], dtype=np.uint64), rng)
        for i in program.inputs
    }
    trio = parties()
    _, traffic = drive(lambda i: run(program, trio[i], {n: s[i] for n, s in shares.items()}, 1))
    assert (traffic.bytes, traffic.rounds) == (386_688, 11)
