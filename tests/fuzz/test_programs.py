"""Programs of bad will: refused in plain words, or well-formed in every respect."""

from __future__ import annotations

import resource
import time
from collections import Counter
from itertools import chain
from math import prod

import msgspec
import pytest

from tercet.errors import ProgramError, TercetError
from tercet.program.builder import Builder
from tercet.program.operations import MAX_ELEMENTS, multiply_extents
from tercet.program.program import Program, Role, encode
from tercet.program.text import format_program
from tercet.program.verify import decode, verify, verify_release
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.runtime.batch import slice_rows
from tercet.runtime.estimate import estimate, totals
from tests.fuzz.mutations import mutations
from tests.fuzz.programs import changed, samples

#: Composites are counted by their own code on arrays: larger ones are not, for the test's memory.
COUNTED = 1 << 16
COMPOSITES = ("maximum", "reduce_max", "max_pool", "softmax", "argmax", "top_k")
#: Seconds and bytes of memory that any one case may take.
SLOWEST = 2.0
GROWTH = 512 << 20
#: Characters of an error, whatever the program says of itself.
LONGEST = 2000


def judge(data: bytes) -> str:
    """Decode, and do what follows if that succeeds; return what became of it."""
    try:
        program = decode(data)
    except ProgramError as error:
        assert error.remedy
        assert len(error.message) < LONGEST, error.message[:LONGEST]
        return "refused"
    verify(program)
    assert decode(encode(program)) == program
    assert len(program.digest()) == 64
    for kind in [i.type for i in (*program.inputs, *program.instructions)]:
        assert 0 < multiply_extents(kind.shape)[0] <= MAX_ELEMENTS
    try:
        verify_release(program)
    except ProgramError:
        return "not to be released"
    if not _countable(program):
        return "large"
    try:
        spent = totals(estimate(program, 3, ReplicatedCost()))
    except TercetError:
        return "refused by the estimate"
    assert spent.bytes > 0 < spent.rounds
    assert format_program(program).startswith(f"program f{program.scale}")
    return "runs"


def _countable(program: Program) -> bool:
    largest = 0
    for instruction in program.instructions:
        if instruction.op in COMPOSITES:
            types = [instruction.type, *(program.type_of(a) for a in instruction.args)]
            largest = max(largest, *(multiply_extents(t.shape)[0] for t in types))
            if instruction.op == "max_pool":
                largest = max(largest, prod(instruction.attrs["window"]) * largest)  # type: ignore[arg-type]
    return largest <= COUNTED


def check(seed: int, count: int) -> Counter[str]:
    programs = samples()
    for program in programs:
        assert judge(encode(program)) == "runs"
    outcomes: Counter[str] = Counter()
    before = _peak()
    cases = chain(
        mutations(seed, [encode(p) for p in programs], count // 3),
        map(msgspec.msgpack.encode, changed(seed, programs, count - count // 3)),
    )
    for number, data in enumerate(cases):
        started = time.process_time()
        try:
            outcomes[judge(data)] += 1
        except Exception as error:
            error.add_note(f"case {number} of seed {seed}")
            raise
        assert time.process_time() - started < SLOWEST, f"case {number} of seed {seed}"
    assert _peak() - before < GROWTH
    return outcomes


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_mutated_programs() -> None:
    outcomes = check(1, 10_000)
    assert min(outcomes["refused"], outcomes["runs"]) > 300, outcomes


@pytest.mark.slow
def test_many_mutated_programs() -> None:
    check(2, 40_000)


def _hostile(**changes: object) -> bytes:
    """The smallest program, changed."""
    program = {
        "inputs": [
            {"name": "x", "role": "input", "type": {"shape": [-1, 2], "scale": 16}},
            {"name": "s", "role": "public", "type": {"shape": [], "scale": 16, "form": "public"}},
        ],
        "instructions": [
            {"op": "reshare", "args": [0], "attrs": {}, "type": {"shape": [-1, 2], "scale": 16}}
        ],
        "outputs": [2],
    }
    return msgspec.msgpack.encode(program | changes)


def _one(op: str, args: list[int], extents: list[int], **attrs: object) -> bytes:
    kind = {"shape": extents, "scale": 16}
    return _hostile(instructions=[{"op": op, "args": args, "attrs": attrs, "type": kind}])


def _given(shape: list[int]) -> bytes:
    kind = {"shape": shape, "scale": 16}
    return _hostile(inputs=[{"name": "x", "role": "input", "type": kind}])


def _ranks() -> bytes:
    """Concatenation along an axis that only the first value has."""
    extents: tuple[list[int], ...] = ([-1, 2], [3, 4], [3])
    roles = ("input", "weight", "weight")
    inputs = [
        {"name": str(n), "role": role, "type": {"shape": e, "scale": 16}}
        for n, (role, e) in enumerate(zip(roles, extents, strict=True))
    ]
    kind = {"shape": [3, 4], "scale": 16}
    one = {"op": "concat", "args": [1, 2], "attrs": {"axis": 1}, "type": kind}
    return _hostile(inputs=inputs, instructions=[one])


NO_WINDOW: dict[str, object] = {"window": [], "strides": [], "low": [], "high": []}
TEXT = _hostile().replace(b"\xa7reshare", b"\xa7resh\xff\xfee")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TEXT, "not a program: .*utf-8"),
        (_one("window_sum", [1], [], **NO_WINDOW), "is public<scalar"),
        (_one("concat", [0, 1], [-1, 2], axis=1), "different forms"),
        (_ranks(), "different ranks"),
        (_one("reshape", [0], [-1, 2], shape=[1 << 62] * 500_000), "more than 8 extents"),
        (_one("broadcast", [0], [-1, 2], shape=[1 << 62] * 500_000), "more than 8 extents"),
        (_given([-1, *[1 << 62] * 500_000]), "more than 8 dimensions"),
        (_given([-1, *[1 << 62] * 7]), "weights in all"),
        (_one("reshare", [0], [7] * 500_000), r"is share<B x 2, f16>, not share<7 x 7"),
        (_one("x" * 1_000_000, [0], [-1, 2]), "unknown operation 'xxx"),
        (_one("reshare", [0], [-1, 2], **{"x" * 1_000_000: 1}), "takes attributes"),
        (b"\x91" * (1 << 24), "not a program"),
        (bytes((1 << 26) + 1), "At most"),
    ],
    ids=range(13),
)
def test_what_was_fatal_or_endless(data: bytes, words: str) -> None:
    assert judge(_hostile()) == "runs"
    started = time.process_time()
    with pytest.raises(ProgramError, match=words) as caught:
        decode(data)
    assert time.process_time() - started < SLOWEST
    assert len(str(caught.value)) < LONGEST


def test_a_max_pool_of_too_many_windows_is_refused() -> None:
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 1 << 20))
    with pytest.raises(ProgramError, match="windows of more than"):
        builder.emit(
            "max_pool", x, window=(1, 129), strides=(1, 1), low=(0, 0), high=(0, 128), bits=40
        )
    y = builder.emit(
        "max_pool", x, window=(1, 64), strides=(1, 1), low=(0, 0), high=(0, 63), bits=40
    )
    assert slice_rows(builder.finish(y)) == 1
