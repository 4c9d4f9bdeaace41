"""Real programs as samples, and changes of them that a decoder alone does not notice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from tercet.errors import ProgramError
from tercet.program.builder import Builder
from tercet.program.functions import FUNCTION_OPERATIONS
from tercet.program.operations import OPERATIONS, infer
from tercet.program.passes import guard, lower, narrow
from tercet.program.program import Program, Role, encode
from tercet.program.serving import Mode, Release, serving_program
from tercet.program.types import Type
from tests.program.lowering_models import Model, post_cnn

_NUMBERS = (
    -(1 << 63), -(1 << 32), -65_537, -128, -7, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31,
    47, 48, 49, 61, 62, 63, 64, 65, 100, 101, 4096, 65_535, 65_536, 1 << 20, 1 << 24, (1 << 27) - 1,
    1 << 27, (1 << 27) + 1, 1 << 28, 1 << 31, 1 << 32, (1 << 48) - 1, 1 << 62, (1 << 63) - 1,
    (1 << 64) - 1,
)  # fmt: skip


_LEAST, _MOST = _NUMBERS[0], _NUMBERS[-1]


def _everything() -> Program:
    """Every operation of the language, on small values."""
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 4, 4, 2))
    public = builder.input("p", Role.PUBLIC, (4, 4, 2))
    kernel = builder.input("w", Role.WEIGHT, (2, 2, 2, 2))
    matrix = builder.input("m", Role.WEIGHT, (2, 4))
    images = builder.input("i", Role.WEIGHT, (3, 4, 4, 2))
    single = builder.input("s", Role.WEIGHT, ())
    two = {"window": (1, 2, 2, 1), "strides": (1, 2, 2, 1), "low": (0,) * 4, "high": (0, 1, 1, 0)}
    steps = {"strides": (1, 1), "low": (0, 1), "high": (1, 0)}
    dilated = {"input_dilation": (1, 1), "kernel_dilation": (1, 1)}
    emit = builder.emit
    y = emit("truncate", emit("mul", x, public), shift=16)
    bit = emit("negative", emit("mul", x, x), shift=16, bits=30)
    bit = emit("bit_and", bit, emit("bit_not", bit))
    y = emit("maximum", y, emit("select", bit, x), bits=40)
    y = emit("relu", emit("conv", y, kernel, groups=1, **steps, **dilated), shift=16, bits=40)
    both = emit("rectify", y, shift=0, low=0, bits=30)
    y = emit("gate", emit("active", both), emit("rectified", both), shift=0)
    back = {"groups": 1, **steps, **dilated}
    y = emit("conv_input", y, kernel, extents=(4, 4), **back)
    y = emit("round", y, shift=16)
    grown = emit("conv_kernel", images, images, extents=(2, 2), **back)
    y = emit("conv", y, emit("round", grown, shift=16), **back)
    y = emit("max_pool", emit("truncate", y, shift=16), bits=40, **two)
    y = emit("sub", y, emit("neg", emit("reverse", y, axes=(1, 2))))
    y = emit("add", emit("add_const", y, value=-5), single)
    y = emit("pad", y, low=(0, 1, 0, 0), high=(0, 0, 1, 0), interior=(0, 0, 1, 0))
    pooled = emit("window_sum", y, **two)
    pooled = emit("truncate", emit("scale", pooled, multiplier=3, bits=2), shift=2)
    y = emit("transpose", pooled, axes=(0, 2, 1, 3))
    y = emit("truncate", emit("shift_left", y, bits=4), shift=4)
    y = emit("truncate_fresh", emit("matmul", y, matrix), shift=16)
    y = emit("concat", y, emit("reshare", y), axis=3)
    _, height, width, depth = builder.type_of(y).shape
    y = emit("slice", y, start=(0, 0, 0, 1), limit=(-1, height, width, depth), stride=(1, 1, 1, 2))
    y = emit("sum", y, axes=(2,))
    y = emit("broadcast", y, shape=(-1, *builder.type_of(y).shape[1:]))
    y = emit("reduce_max", y, axes=(1,), bits=28)
    y = emit("top_k", emit("softmax", y, axis=1, bits=28), k=2)
    y = emit("argmax", y, axis=2)
    y = emit("reshape", y, shape=(-1, 2))
    return builder.finish(emit("reshare", y))


def _guarded() -> Program:
    model = Model((4,))
    program, _ = lower(*model.finish(model.relu(model.dense(model.x, "dense", 3))))
    bounds = {n: 1 << 16 for n, i in enumerate(program.instructions) if i.op == "relu"}
    return guard(narrow(program, bounds))


def samples() -> list[Program]:
    """Return lowered, served and guarded programs."""
    cnn, _ = lower(*post_cnn())
    model = Model((5,))
    dense, _ = lower(*model.finish(model.bias(model.dense(model.x, "dense", 4), "dense")))
    served = [
        serving_program(dense, Release(Mode.TOP_K, 2, 2, (-1.0, 2.0))),
        serving_program(dense, Release(Mode.SOFTMAX)),
        serving_program(dense, Release(Mode.ARGMAX)),
    ]
    every = _everything()
    functions = {o.name for o in FUNCTION_OPERATIONS} - {"softmax"}
    assert {i.op for i in every.instructions} == set(OPERATIONS) - functions
    return [cnn, dense, *served, _guarded(), every]


def _number(rng: Random, old: int = 0) -> int:
    near = rng.choice((old + 1, old - 1, -old, 2 * old))
    return near if rng.random() < 0.6 and _LEAST <= near <= _MOST else rng.choice(_NUMBERS)


def _extents(rng: Random, old: Any) -> list[int]:
    shape = list(old) if isinstance(old, list) else []
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(shape) + 1)
        match rng.randrange(6):
            case 0 | 1 | 2 if at < len(shape):
                shape[at] = _number(rng, shape[at])
            case 3:
                shape.insert(at, _number(rng, 1))
            case 4:
                del shape[at:]
            case _:
                rng.shuffle(shape)
    if rng.random() < 0.02:
        shape = [rng.choice((1, 2, 1 << 62))] * rng.choice((9, 300, 5000))
    return shape


def _type(rng: Random, old: dict[str, Any]) -> None:
    match rng.randrange(4):
        case 0:
            old["scale"] = _number(rng, old["scale"])
        case 1:
            old["form"] = rng.choice(("share", "partial", "bit", "public", "none"))
        case _:
            old["shape"] = _extents(rng, old["shape"])


def _attributes(rng: Random, program: dict[str, Any]) -> None:
    one = rng.choice(program["instructions"])
    if one["attrs"] and rng.random() < 0.95:
        name = rng.choice(sorted(one["attrs"]))
        old = one["attrs"][name]
        one["attrs"][name] = _extents(rng, old) if isinstance(old, list) else _number(rng, old)
    else:
        one["attrs"][rng.choice(("shape", "axis", "x" * 1000))] = _number(rng)


def _arguments(rng: Random, program: dict[str, Any]) -> None:
    one = rng.choice(program["instructions"])
    total = len(program["inputs"]) + len(program["instructions"])
    if one["args"] and rng.random() < 0.8:
        at = rng.randrange(len(one["args"]))
        one["args"][at] = rng.choice((rng.randrange(total), _number(rng)))
    else:
        one["args"] = [rng.randrange(total) for _ in range(rng.randrange(4))]


def _operation(rng: Random, program: dict[str, Any]) -> None:
    """Another operation, with the attributes that it wants, on the same arguments."""
    one = rng.choice(program["instructions"])
    spec = OPERATIONS[rng.choice(sorted(OPERATIONS))]
    rank = len(one["type"]["shape"])
    one["op"] = spec.name if rng.random() < 0.95 else "open" * rng.choice((1, 5000))
    one["attrs"] = {n: _number(rng) for n in spec.ints} | {
        n: [rng.choice((0, 1, 2)) for _ in range(rng.choice((rank, rng.randrange(4))))]
        for n in spec.tuples
    }


def _input(rng: Random, program: dict[str, Any]) -> None:
    one = rng.choice(program["inputs"])
    match rng.randrange(5):
        case 0:
            one["name"] = rng.choice(("", "x" * 201, "é" * 3, program["inputs"][0]["name"]))
        case 1:
            one["role"] = rng.choice(("input", "weight", "public"))
        case _:
            _type(rng, one["type"])


def _order(rng: Random, program: dict[str, Any]) -> None:
    place = rng.choice((program["instructions"], program["inputs"], program["outputs"]))
    at = rng.randrange(len(place) + 1)
    match rng.randrange(4):
        case 0:
            del place[at : at + 1]
        case 1:
            place[at:at] = place[at : at + 1]
        case 2:
            rng.shuffle(place)
        case _:
            place[at:] = []


def _head(rng: Random, program: dict[str, Any]) -> None:
    match rng.randrange(4):
        case 0:
            program["scale"] = _number(rng, program["scale"])
        case 1:
            program["version"] = _number(rng, 1)
        case 2:
            program["protocol"] = rng.choice(("", "plaintext", "x" * 100_000))
        case _:
            program["outputs"] = [_number(rng, o) for o in program["outputs"]] * rng.randint(0, 3)


def _retype(rng: Random, program: dict[str, Any]) -> None:
    _type(rng, rng.choice(program["instructions"])["type"])


_CHANGES: tuple[Callable[[Random, dict[str, Any]], None], ...] = (
    _attributes, _attributes, _arguments, _operation, _operation, _input, _input, _order, _head,
    _retype,
)  # fmt: skip


def _repair(program: dict[str, Any]) -> None:
    """Let each instruction claim the type that follows from what was changed before it."""
    with contextlib.suppress(msgspec.ValidationError, ProgramError):
        types = [msgspec.convert(i["type"], Type) for i in program["inputs"]]
        for one in program["instructions"]:
            if not all(0 <= a < len(types) for a in one["args"]):
                return
            attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in one["attrs"].items()}
            kind = infer(one["op"], [types[a] for a in one["args"]], attrs)
            types.append(kind)
            one["type"] = {"shape": list(kind.shape), "scale": kind.scale, "form": str(kind.form)}


def changed(seed: int, programs: list[Program], count: int) -> Iterator[dict[str, Any]]:
    """Return ``count`` programs as plain values, each with one to three changes."""
    rng = Random(seed)
    encoded = [encode(p) for p in programs]
    for _ in range(count):
        program = msgspec.msgpack.decode(rng.choice(encoded))
        for _ in range(rng.choice((1, 1, 2, 3))):
            if all(program[k] for k in ("inputs", "instructions", "outputs")):
                rng.choice(_CHANGES)(rng, program)
        if rng.random() < 0.7:
            _repair(program)
        yield program
