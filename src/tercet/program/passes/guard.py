"""The guard: a second output that is 1 if a value left the window that it is compared in.

A comparison on a window (``narrow``) gives a sign that means nothing for values outside of it. The
guard adds up, under sharing, by how much each compared value exceeds its window; whether the sum
is positive is one bit a row, released to whoever asked and to nobody else. It is off by default
and its callers must accept it: whoever chose the weights can choose what it says, one bit of each
row. A value beyond 2^62 in units of the last place is outside of what it can see.

Cost: a ReLU on twice the values compared, its rounds once for each width of window, then one
comparison and one selection a row.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import msgspec

from tercet.errors import InputError
from tercet.program.builder import Builder
from tercet.program.checks import MAX_SCALE, RANGE_BITS, multiply_extents
from tercet.program.passes.narrow import DIFFERENCES, SIGNS
from tercet.program.program import Program
from tercet.program.types import Form
from tercet.program.verify import verify

#: Bits to which a value is cut before it is compared with its window's edge, less the sign: few,
#: so that sums of excesses cannot leave the range.
_COARSE = 8


@dataclass(frozen=True, slots=True)
class _Site:
    """A compared value: ``edge`` times 2^shift is the bound of its absolute value."""

    value: int
    shift: int
    edge: int


def guard(program: Program) -> Program:
    """Return ``program`` with the guard's flag as its second output, of shape (rows, 1).

    A value counts as outside from 1 % below the edge of its window on.

    Raises:
        InputError: if no comparison is narrowed: there is nothing to guard.
    """
    sites = _sites(program)
    if not sites:
        raise InputError(
            "a guard for a model none of whose comparisons has a window",
            "Give a sample, which sets windows, or leave the guard out: without windows every "
            "comparison is exact",
        )
    builder = _copy(program)
    groups: defaultdict[tuple[Form, int, int, int], list[int]] = defaultdict(list)
    for site in sites:
        kind = program.type_of(site.value)
        groups[kind.form, kind.scale, site.shift, site.edge].append(site.value)
    builder.source = "guard"
    excesses = [
        _excess(builder, [_handle(program, v) for v in values], shift, edge)
        for (_, _, shift, edge), values in groups.items()
    ]
    total = _total(builder, excesses)
    outside = builder.emit("negative", builder.emit("neg", total), shift=0, bits=RANGE_BITS)
    lift = program.scale - builder.type_of(total).scale
    nothing = builder.emit("scale", total, multiplier=0, bits=max(0, lift))
    nothing = builder.emit("truncate", nothing, shift=-lift) if lift < 0 else nothing
    one = builder.emit("add_const", nothing, value=1 << program.scale)
    flag = builder.emit("reshape", builder.emit("select", outside, one), shape=(-1, 1))
    output = _handle(program, program.outputs[0])
    built = builder.finish(output, builder.emit("reshare", flag))
    result = msgspec.structs.replace(built, protocol=program.protocol)
    verify(result)
    return result


def _sites(program: Program) -> list[_Site]:
    sites: dict[_Site, None] = {}
    for made in program.instructions:
        if made.op not in SIGNS | DIFFERENCES:
            continue
        shift, bits = made.attrs.get("shift", 0), made.attrs["bits"]
        assert isinstance(shift, int)
        assert isinstance(bits, int)
        if bits >= RANGE_BITS - shift:
            continue
        # |x >> shift| < 2^room; of two values compared, each may take half of the window.
        room = bits - (2 if made.op in DIFFERENCES else 1)
        coarse = min(max(shift + room - _COARSE, 0), MAX_SCALE)
        edge = (1 << (shift + room - coarse)) - 2
        for a in made.args:
            if program.type_of(a).shape[:1] == (-1,):
                sites[_Site(a, coarse, edge)] = None
    return list(sites)


def _excess(builder: Builder, values: list[int], shift: int, edge: int) -> int:
    """Return for each row the sum of what |values| / 2^shift exceeds ``edge`` by."""
    flat = []
    for value in values:
        size, _ = multiply_extents(builder.type_of(value).shape)
        x = builder.emit("reshape", value, shape=(-1, size))
        x = builder.emit("scale", x, multiplier=1, bits=max(0, shift - builder.type_of(x).scale))
        flat += [x, builder.emit("neg", x)]
    beyond = builder.emit(
        "add_const", builder.emit("concat", *flat, axis=1), value=-(edge << shift)
    )
    excess = builder.emit("relu", beyond, shift=shift, bits=RANGE_BITS - shift)
    return builder.emit("sum", excess, axes=(1,))


def _total(builder: Builder, excesses: list[int]) -> int:
    """Return the sum; only whether it is positive counts, so that scales are relabelled."""
    scale = max(builder.type_of(e).scale for e in excesses)
    total, *rest = (
        builder.emit("scale", e, multiplier=1, bits=scale - builder.type_of(e).scale)
        for e in excesses
    )
    for excess in rest:
        total = builder.emit("add", total, excess)
    return total


def _copy(program: Program) -> Builder:
    builder = Builder(program.scale)
    for given in program.inputs:
        builder.input(given.name, given.role, given.type.shape, given.type.scale)
    for made in program.instructions:
        builder.source = made.source
        builder.emit(made.op, *(_handle(program, a) for a in made.args), **made.attrs)
    return builder


def _handle(program: Program, value: int) -> int:
    """Return the builder's handle of a value: inputs are numbered down from -1."""
    number = value - len(program.inputs)
    return number if number >= 0 else -value - 1
