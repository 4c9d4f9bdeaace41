"""Each function keeps its contract: in the clear and by three parties, in and beyond its domain."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from bench.contracts import CONTRACTS, Contract
from bench.functions import PAGE, cost, page

from tercet.errors import ProgramError
from tercet.function.exponential import exp
from tercet.function.gates import gelu, mish, silu, softplus
from tercet.function.logarithm import log
from tercet.function.lookup import lookup
from tercet.function.odd import erf, sigmoid, tanh
from tercet.function.power import power
from tercet.function.reciprocal import divide, reciprocal
from tercet.function.root import rsqrt, sqrt
from tercet.function.softmax import log_softmax
from tercet.function.sort import sort
from tercet.program.operations import infer
from tercet.program.types import Type
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps
from tercet.ring.fixed import decode, encode
from tests.function.test_functions import apply, both
from tests.trio import parties, reconstruct, run, share

by_contract = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.name)


def check(protocol: str, contract: Contract, scale: int, bits: int, words: np.ndarray) -> None:
    """Assert that the errors at ``words`` are within the contract."""
    result = apply(
        protocol, lambda p, a: contract.run(p, a, scale, bits, "f"), words.view(np.uint64)
    )
    got = result.view(np.int64) / 2.0**scale
    exact = contract.exact(words / 2.0**scale)
    ratio = np.abs(got - exact) / contract.tolerance(exact, scale)
    worst = int(ratio.argmax())
    place = words[worst] / 2.0**scale
    assert ratio[worst] <= 1, f"at {place}: {got[worst]} for {exact[worst]}"


@both
@pytest.mark.parametrize("scale", [8, 12, 16, 20])
@by_contract
def test_a_dense_grid(contract: Contract, scale: int, protocol: str) -> None:
    check(protocol, contract, scale, 62, contract.grid(scale, 20_001))


@by_contract
def test_narrow_comparisons(contract: Contract) -> None:
    words = contract.grid(16, 5_001)
    check("replicated", contract, 16, 32, words[np.abs(words) < 2**30])


@pytest.mark.slow
@by_contract
def test_a_hundred_million_evaluations(contract: Contract) -> None:
    rng = np.random.default_rng(11)
    chunk = 1_000_000
    for _ in range(6):
        low, high = contract.low(16), contract.high(16)
        if low > 0:
            values = np.exp(rng.uniform(np.log(low), np.log(high), chunk))
            values *= rng.choice([-1.0, 1.0], chunk) if contract.both_signs else 1.0
        else:
            values = rng.uniform(low, high, chunk)
        words = np.trunc(values * 2.0**16).astype(np.int64)
        check("plaintext", contract, 16, 62, words[words != 0])
    check("replicated", contract, 16, 62, words[words != 0])


@both
def test_a_root_of_a_value_before_its_truncation(protocol: str) -> None:
    words = np.unique(np.geomspace(2**10, 2**45, 20_001).astype(np.int64))
    got = apply(protocol, lambda p, a: rsqrt(p, a, 32, 62, "f", 16), words.view(np.uint64))
    exact = (words / 2.0**32) ** -0.5
    limit = np.maximum(1e-4 * exact, 2.0**-15)
    assert (np.abs(decode(got, 16) - exact) <= limit).all()


#: Where each function saturates: (function, x, value, tolerance in units of 2^-16).
BEYOND: dict[str, tuple[Callable[..., Steps[Share]], list[float], list[float], float]] = {
    "exp": (exp, [10.5, 1e4, 1e9, -11.9, -1e4, -1e9], [2.0**15] * 3 + [0] * 3, 1),
    "sigmoid": (sigmoid, [12, 1e4, 1e9, -12, -1e4, -1e9], [1] * 3 + [0] * 3, 1),
    "tanh": (tanh, [6.5, 1e4, 1e9, -6.5, -1e4, -1e9], [1] * 3 + [-1] * 3, 1),
    "erf": (erf, [4, 1e4, 1e9, -4, -1e4, -1e9], [1] * 3 + [-1] * 3, 1),
    "gelu": (gelu, [5, 1e4, 1e9, -5, -1e4, -1e9], [5, 1e4, 1e9, 0, 0, 0], 1),
    "silu": (silu, [15, 1e4, 1e9, -15, -1e4, -1e9], [15, 1e4, 1e9, 0, 0, 0], 1),
    "softplus": (softplus, [12, 1e4, 1e9, -12, -1e4, -1e9], [12, 1e4, 1e9, 0, 0, 0], 1),
    "mish": (mish, [15, 1e4, 1e9, -15, -1e4, -1e9], [15, 1e4, 1e9, 0, 0, 0], 1),
    "log": (log, [0, -1, -1e9, 2e4, 1e9], [-11.09035] * 3 + [9.68831] * 2, 3),
    "rsqrt": (rsqrt, [2e4, 1e9], [0.00787] * 2, 3),
    "sqrt": (sqrt, [0, -1, -1e9, 2e4, 1e9], [0, 0, 0, 126.996, 126.996], 200),
    "reciprocal": (
        lambda p, x, f, b, at: reciprocal(p, x, f, b, True, at),
        [2e4, 1e9, -2e4, -1e9], [2.0**-14] * 2 + [-(2.0**-14)] * 2, 3,
    ),
    "power": (
        lambda p, x, f, b, at: power(p, x, 3.5, f, b, at),
        [20, 1e9, 0, -3], [2.0**15] * 2 + [0] * 2, 1,
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("name", BEYOND)
def test_beyond_its_domain_a_function_saturates(name: str, protocol: str) -> None:
    function, x, values, tolerance = BEYOND[name]
    words = np.rint(np.array(x) * 2.0**16).astype(np.int64).view(np.uint64)
    got = decode(apply(protocol, lambda p, a: function(p, a, 16, 62, "f"), words), 16)
    np.testing.assert_allclose(got, values, atol=tolerance * 2.0**-16)


@both
def test_at_zero_the_inverses_are_large_and_positive(protocol: str) -> None:
    zero = np.zeros(3, np.uint64)
    got = decode(apply(protocol, lambda p, a: reciprocal(p, a, 16, 62, False, "f"), zero), 16)
    assert ((got >= 2**16) & (got <= 2**22)).all()
    got = decode(apply(protocol, lambda p, a: rsqrt(p, a, 16, 62, "f"), zero), 16)
    assert ((got >= 2**8) & (got <= 2**11)).all()


@both
@pytest.mark.parametrize("signed", [False, True])
def test_division(protocol: str, signed: bool) -> None:
    rng = np.random.default_rng(3)
    x = np.exp(rng.uniform(-11, 9, (500, 7))) * rng.choice([-1, 1], (500, 7))
    y = np.exp(rng.uniform(-9, 9, (500, 1))) * (rng.choice([-1, 1], (500, 1)) if signed else 1)
    a, b = encode(x, 16), encode(y, 16)
    b[b == 0] = 1
    exact = decode(a, 16) / decode(b, 16)

    def function(p: Protocol, u: Share, v: Share) -> Steps[Share]:
        return divide(p, u, v, 16, 62, signed, "f")

    got = decode(apply(protocol, function, a, b), 16)
    fits = np.abs(exact) < 2**14
    assert 0.02 < 1 - fits.mean() < 0.5
    limit = np.maximum(1e-4 * np.abs(exact), 2.0**-15)
    assert (np.abs(got - exact) <= limit)[fits].all()
    large = got[~fits] * np.sign(exact[~fits])
    assert ((large > 2**14 * 0.98) & (large < 2**18)).all()


@both
def test_log_softmax(protocol: str) -> None:
    rng = np.random.default_rng(4)
    words = encode(rng.normal(0, 6, (40, 33)), 16)
    x = decode(words, 16)
    exact = x - x.max(1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(1, keepdims=True))
    got = apply(protocol, lambda p, a: log_softmax(p, a, 1, 16, 40, "f"), words)
    assert np.abs(decode(got, 16) - exact).max() <= 2.0**-16 + 2e-5


@both
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_sorting_is_exact(protocol: str, count: int) -> None:
    rng = np.random.default_rng(count)
    x = rng.integers(-(2**50), 2**50, (5, count, 3), dtype=np.int64)
    x[0, : count // 2] = x[0, 0]
    got = apply(protocol, lambda p, a: sort(p, a, 1, 60, "f"), x.view(np.uint64))
    np.testing.assert_array_equal(got.view(np.int64), np.sort(x, 1))


@both
@pytest.mark.parametrize("bits", [62, 24])
@pytest.mark.parametrize(
    ("count", "width"), [(1, 3), (2, 1), (5, 2), (8, 4), (11, 100), (70, 1), (500, 2), (1000, 1)]
)
def test_a_lookup_is_exact_and_stays_in_the_table(
    protocol: str, count: int, width: int, bits: int
) -> None:
    rng = np.random.default_rng(count)
    table = rng.integers(0, 2**64, (count, width), dtype=np.uint64)
    x = np.concatenate((np.arange(min(count, 40)), [count - 1, -1, -100, count - 0.7, 0.4]))
    x = np.append(x, [count, 9000.0] if bits > 24 else [])
    x = x[np.abs(x) < 2.0 ** (bits - 17)]
    got = apply(protocol, lambda p, a, t: lookup(p, a, t, 0, 16, bits, "f"), encode(x, 16), table)
    np.testing.assert_array_equal(got, table[np.clip(np.rint(x), 0, count - 1).astype(int)])


def test_a_lookup_in_a_vocabulary_takes_little_memory() -> None:
    """30,522 rows of 64: three parties in one process hold 94 MB of table and little else."""
    rng = np.random.default_rng(2)
    table = rng.integers(0, 2**64, (30_522, 64), dtype=np.uint64)
    x = rng.integers(0, 30_522, (1, 128))
    held_x, held_table, sides = share(x << 16, rng), share(table, rng), parties()
    tracemalloc.start()
    try:
        got, traffic = run(lambda i: lookup(sides[i], held_x[i], held_table[i], 0, 16, 62, "f"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(reconstruct(got), table[x])
    assert peak < 100e6
    assert traffic.bytes < 128 * 90_000


@both
@pytest.mark.parametrize(("count", "width"), [(7, 2), (300, 1), (90, 4)])
def test_a_lookup_in_a_table_of_each_row(protocol: str, count: int, width: int) -> None:
    rng = np.random.default_rng(count)
    table = rng.integers(0, 2**64, (3, count, width), dtype=np.uint64)
    x = rng.integers(0, count, (3, 2, 25))
    got = apply(
        protocol, lambda p, a, t: lookup(p, a, t, 1, 16, 62, "f"), encode(x * 1.0, 16), table
    )
    exact = np.stack([table[n][x[n]] for n in range(3)])
    np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("name", ["sigmoid", "erf", "gelu", "softplus", "exp", "log"])
def test_the_references_agree_with_mpmath(name: str) -> None:
    contract = next(c for c in CONTRACTS if c.name == name)
    exact: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "erf": mpmath.erf,
        "gelu": lambda x: x * mpmath.ncdf(x),
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
        "exp": mpmath.exp,
        "log": mpmath.log,
    }
    words = contract.grid(16, 201)
    ours = contract.exact(words / 2.0**16)
    theirs = np.array([float(exact[name](mpmath.mpf(int(w)) / 2**16)) for w in words])
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_other_fractional_bits_are_refused() -> None:
    for scale in (7, 21):
        with pytest.raises(ProgramError, match="fractional bits"):
            infer("sigmoid", [Type((-1, 3), scale)], {"bits": 62})


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exp", exp), ("log", log), ("reciprocal", reciprocal), ("rsqrt", rsqrt), ("sqrt", sqrt),
        ("power 2.5", power), ("sigmoid", sigmoid), ("tanh", tanh), ("erf", erf), ("gelu", gelu),
        ("silu", silu), ("softplus", softplus), ("mish", mish),
    ],
)  # fmt: skip
def test_the_docstring_states_the_cost(name: str, function: Callable[..., Steps[Share]]) -> None:
    stated, rounds = cost(next(c for c in CONTRACTS if c.name == name), 62)
    assert f"Cost: {rounds} rounds, {stated:.0f} bytes an element" in (function.__doc__ or "")


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run python -m bench.functions"
