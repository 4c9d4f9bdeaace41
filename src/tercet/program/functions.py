"""The rows of the operation table that are functions with a contract (``tercet.function``)."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.program.checks import (
    MAX_ELEMENTS,
    RANGE_BITS,
    Attributes,
    Operation,
    Rule,
    broadcast_shapes,
    check_bits,
    integer,
    multiply_extents,
    no_bits,
    require,
    shares,
)
from tercet.program.types import Type

#: Fractional bits for which the functions are made.
FUNCTION_SCALES = range(8, 21)
#: Most fractional bits of what ``rsqrt`` takes: a variance before its truncation.
MAX_RSQRT_SCALE = 32
#: Bits of a real exponent after the point, and its largest magnitude.
EXPONENT_SCALE, MAX_EXPONENT = 16, 16
#: Most rows of a table that a secret index looks up.
MAX_ROWS = 1 << 18
#: Longest axis that is sorted.
MAX_SORTED = 1 << 12


def _function(types: Sequence[Type], attrs: Attributes) -> Type:
    shares(types)
    check_bits(attrs)
    require(types[0].scale in FUNCTION_SCALES, f"a function of {types[0].scale} fractional bits")
    return types[0]


def _axis(types: Sequence[Type], attrs: Attributes) -> int:
    axis = integer(attrs, "axis")
    shape = types[0].shape
    require(0 <= axis < len(shape) and shape[axis] > 0, f"a function over axis {axis}")
    return shape[axis]


def _over_axis(types: Sequence[Type], attrs: Attributes) -> Type:
    _axis(types, attrs)
    return _function(types, attrs)


def _sort(types: Sequence[Type], attrs: Attributes) -> Type:
    shares(types)
    check_bits(attrs)
    require(_axis(types, attrs) <= MAX_SORTED, "sorting of too long an axis")
    return types[0]


def _absolute(types: Sequence[Type], attrs: Attributes) -> Type:
    shares(types)
    check_bits(attrs)
    return types[0]


def _signed(types: Sequence[Type], attrs: Attributes) -> Type:
    require(integer(attrs, "signed") in (0, 1), "signed is 0 or 1")
    return _function(types, attrs)


def _divide(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    require(x.scale == y.scale, f"quotient of scales {x.scale} and {y.scale}")
    return Type(broadcast_shapes(x.shape, y.shape), _signed(types, attrs).scale)


def _rsqrt(types: Sequence[Type], attrs: Attributes) -> Type:
    shares(types)
    check_bits(attrs)
    (x,), scale = types, integer(attrs, "scale")
    require(scale in FUNCTION_SCALES, f"a function of {scale} fractional bits")
    require(scale <= x.scale <= MAX_RSQRT_SCALE, f"a root of {x.scale} fractional bits")
    return Type(x.shape, scale)


def _power(types: Sequence[Type], attrs: Attributes) -> Type:
    exponent = integer(attrs, "exponent")
    require(abs(exponent) <= MAX_EXPONENT << EXPONENT_SCALE, f"exponent {exponent}")
    return _function(types, attrs)


def _lookup(types: Sequence[Type], attrs: Attributes) -> Type:
    index, table = types
    shared = integer(attrs, "shared")
    _function(types, attrs)
    require(
        0 <= shared <= len(index.shape)
        and len(table.shape) == shared + 2
        and table.shape[:shared] == index.shape[:shared],
        f"a lookup of {index.shape} in {table.shape}",
    )
    count, width = table.shape[-2:]
    require(0 < count <= MAX_ROWS and width > 0, f"a table of shape {table.shape}")
    # One-hot vectors and blocks of rows together are smaller than this.
    size, _ = multiply_extents(index.shape)
    require(size * count <= MAX_ELEMENTS, f"{size} lookups in {count} rows")
    return Type((*index.shape, width), table.scale)


def _cumsum(types: Sequence[Type], attrs: Attributes) -> Type:
    no_bits(types)
    _axis(types, attrs)
    require(integer(attrs, "reverse") in (0, 1), "reverse is 0 or 1")
    require(types[0].scale <= RANGE_BITS, "sum out of range")
    return types[0]


#: Functions of one number, which need the width of a comparison and nothing else.
UNARY = (
    "exp", "log", "log1p", "sqrt", "sigmoid", "tanh", "erf", "gelu", "gelu_tanh",
    "silu", "softplus", "mish",
)  # fmt: skip


def _row(name: str, rule: Rule, *ints: str, arity: int = 1) -> Operation:
    return Operation(name, arity, rule, ints=(*ints, "bits"))


FUNCTION_OPERATIONS = (
    *(_row(name, _function) for name in UNARY),
    _row("abs", _absolute),
    _row("rsqrt", _rsqrt, "scale"),
    _row("reciprocal", _signed, "signed"),
    _row("divide", _divide, "signed", arity=2),
    _row("power", _power, "exponent"),
    _row("softmax", _over_axis, "axis"),
    _row("log_softmax", _over_axis, "axis"),
    _row("sort", _sort, "axis"),
    _row("lookup", _lookup, "shared", arity=2),
    Operation("cumsum", 1, _cumsum, ints=("axis", "reverse")),
)
