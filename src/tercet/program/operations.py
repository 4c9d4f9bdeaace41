"""The operation table: for each operation its attributes and how its result type follows.

The table is the language. ``verify`` checks every instruction against it and the interpreter runs
exactly what it names. Attributes are integers or tuples of integers; extents among them may be
batch multiples (see ``types``).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tercet.program.checks import (
    MAX_ELEMENTS,
    MAX_PENDING,
    MAX_RANK,
    MAX_WINDOW,
    RANGE_BITS,
    Attributes,
    Operation,
    broadcast_shapes,
    check_bits,
    distinct_axes,
    integer,
    integers,
    join,
    multiply_extents,
    no_bits,
    require,
    shares,
)
from tercet.program.functions import FUNCTION_OPERATIONS, MAX_SORTED
from tercet.program.gradients import GRADIENT_OPERATIONS, conv_shape, product_type, shifted
from tercet.program.types import Form, Shape, Type

#: Most numbers among which ``argmax`` and ``top_k`` choose, and most that ``top_k`` returns of more
#: than what may be sorted.
MAX_CLASSES = 1 << 16
MAX_TOP = 100


def _reshape(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    shape = integers(attrs, "shape")
    no_bits(types)
    require(
        multiply_extents(shape) == multiply_extents(x.shape),
        f"reshape of {x.shape} to {shape} changes the size",
    )
    # Rows of a batch may belong to different clients: none may move into another's place.
    require(
        _before_batch(shape) == _before_batch(x.shape),
        f"reshape of {x.shape} to {shape} mixes the rows of a batch",
    )
    return Type(shape, x.scale, x.form)


def _before_batch(shape: Shape) -> int:
    """Return the number of elements across the axes before the batch axis (0 without one)."""
    for axis, d in enumerate(shape):
        if d < 0:
            return prod(shape[:axis])
    return 0


def _transpose(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    axes = distinct_axes(attrs, len(x.shape))
    require(len(axes) == len(x.shape), f"transpose by {axes} of rank {len(x.shape)}")
    return Type(tuple(x.shape[a] for a in axes), x.scale, x.form)


def _broadcast(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    shape = integers(attrs, "shape")
    require(broadcast_shapes(x.shape, shape) == shape, f"{x.shape} does not broadcast to {shape}")
    return Type(shape, x.scale, x.form)


def _slice(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    start, limit, stride = (integers(attrs, n) for n in ("start", "limit", "stride"))
    require(len(start) == len(limit) == len(stride) == len(x.shape), "slice of another rank")
    shape = []
    for d, s, e, step in zip(x.shape, start, limit, stride, strict=True):
        if d < 0:
            require((s, e, step) == (0, d, 1), "a slice along the batch axis")
            shape.append(d)
        else:
            require(0 <= s <= e <= d and step > 0, f"slice {s}:{e}:{step} of extent {d}")
            shape.append(-(-(e - s) // step))
    return Type(tuple(shape), x.scale, x.form)


def _pad(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    low, high, interior = (integers(attrs, n) for n in ("low", "high", "interior"))
    require(len(low) == len(high) == len(interior) == len(x.shape), "pad of another rank")
    shape = []
    for d, lo, hi, inner in zip(x.shape, low, high, interior, strict=True):
        if d < 0:
            require(lo == hi == inner == 0, "padding along the batch axis")
            shape.append(d)
        else:
            extent = lo + hi + d + max(d - 1, 0) * inner
            require(lo >= 0 and hi >= 0 and inner >= 0, f"padding {lo}, {hi}, {inner}")
            shape.append(extent)
    return Type(tuple(shape), x.scale, x.form)


def _concat(types: Sequence[Type], attrs: Attributes) -> Type:
    axis, first = integer(attrs, "axis"), types[0]
    no_bits(types)
    require(len({t.form for t in types}) == 1, "concatenation of values of different forms")
    require(len({t.scale for t in types}) == 1, "concatenation of different scales")
    require(len({len(t.shape) for t in types}) == 1, "concatenation of different ranks")
    require(0 <= axis < len(first.shape) and first.shape[axis] >= 0, f"concatenation axis {axis}")
    rest = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in types}
    require(len(rest) == 1, "concatenation of shapes that differ off the axis")
    require(all(t.shape[axis] >= 0 for t in types), "concatenation along the batch axis")
    total = sum(t.shape[axis] for t in types)
    return Type((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.scale, first.form)


def _reverse(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    axes = distinct_axes(attrs, len(x.shape))
    require(all(x.shape[a] >= 0 for a in axes), "reversal of the batch axis")
    return x


def _add(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    no_bits(types)
    require(x.scale == y.scale, f"sum of scales {x.scale} and {y.scale}")
    return Type(broadcast_shapes(x.shape, y.shape), x.scale, join(types))


def _same(types: Sequence[Type], attrs: Attributes) -> Type:
    no_bits(types)
    return types[0]


def _sum(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    axes = distinct_axes(attrs, len(x.shape))
    require(all(x.shape[a] >= 0 for a in axes), "sum over the batch axis")
    return Type(tuple(d for i, d in enumerate(x.shape) if i not in axes), x.scale, x.form)


def window_shape(shape: Shape, attrs: Attributes) -> Shape:
    """Return the shape that sliding windows leave (``window``, ``strides``, ``low``, ``high``)."""
    window, strides, low, high = (integers(attrs, n) for n in ("window", "strides", "low", "high"))
    require(
        len(window) == len(strides) == len(low) == len(high) == len(shape), "window of another rank"
    )
    require(0 < prod(window) <= MAX_WINDOW and all(w > 0 for w in window), f"window {window}")
    result = []
    for d, w, s, lo, hi in zip(shape, window, strides, low, high, strict=True):
        require(w > 0 and s > 0 and 0 <= lo < w and 0 <= hi < max(w, s), "window out of range")
        if d < 0:
            require((w, s, lo, hi) == (1, 1, 0, 0), "a window over the batch axis")
            result.append(d)
        else:
            require(d + lo + hi >= w, f"window {w} over extent {d}")
            result.append((d + lo + hi - w) // s + 1)
    return tuple(result)


def _window_sum(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    return Type(window_shape(x.shape, attrs), x.scale, x.form)


def _shift_left(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    bits = integer(attrs, "bits")
    require(bits > 0 and x.scale + bits <= MAX_PENDING, f"shift left by {bits}")
    return Type(x.shape, x.scale + bits, x.form)


def _scale(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    no_bits(types)
    bits = integer(attrs, "bits")
    require(bits >= 0 and x.scale + bits <= MAX_PENDING, f"scaling by {bits} bits")
    require(abs(integer(attrs, "multiplier")) < 1 << 48, "multiplier out of range")
    return Type(x.shape, x.scale + bits, x.form)


def _add_const(types: Sequence[Type], attrs: Attributes) -> Type:
    no_bits(types)
    require(abs(integer(attrs, "value")) < 1 << RANGE_BITS, "constant out of range")
    return types[0]


def _mul(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    return product_type(x, y, broadcast_shapes(x.shape, y.shape))


def _matmul(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    require(len(x.shape) >= 2 and len(y.shape) >= 2, "matmul of rank below 2")
    require(x.shape[-1] == y.shape[-2] >= 0, f"matmul of {x.shape} and {y.shape}")
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return product_type(x, y, (*batch, x.shape[-2], y.shape[-1]))


def _conv(types: Sequence[Type], attrs: Attributes) -> Type:
    x, w = types
    return product_type(x, w, conv_shape(x.shape, w.shape, attrs))


def _truncate(types: Sequence[Type], attrs: Attributes) -> Type:
    result = shifted(types[0], attrs)
    require(integer(attrs, "shift") > 0, "truncation by 0")
    return result


def _relu(types: Sequence[Type], attrs: Attributes) -> Type:
    check_bits(attrs, integer(attrs, "shift"))
    return shifted(types[0], attrs)


def _negative(types: Sequence[Type], attrs: Attributes) -> Type:
    check_bits(attrs, integer(attrs, "shift"))
    return Type(shifted(types[0], attrs).shape, 0, Form.BIT)


def _reshare(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    require(x.form in (Form.SHARE, Form.PARTIAL), f"resharing of a {x.form}")
    return Type(x.shape, x.scale, Form.SHARE)


def _select(types: Sequence[Type], attrs: Attributes) -> Type:
    bit, x = types
    require(bit.form is Form.BIT and x.form is Form.SHARE, "select takes a bit and a share")
    require(bit.shape == x.shape, "select of different shapes")
    return x


def _bit_not(types: Sequence[Type], attrs: Attributes) -> Type:
    require(types[0].form is Form.BIT, "bit_not of a number")
    return types[0]


def _bit_and(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    require(x.form is Form.BIT and x == y, "bit_and of values that are not alike")
    return x


def _maximum(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    shares(types)
    require(x.scale == y.scale, f"maximum of scales {x.scale} and {y.scale}")
    check_bits(attrs)
    return Type(broadcast_shapes(x.shape, y.shape), x.scale)


def _reduce_max(types: Sequence[Type], attrs: Attributes) -> Type:
    shares(types)
    check_bits(attrs)
    return _sum(types, attrs)


def _max_pool(types: Sequence[Type], attrs: Attributes) -> Type:
    shares(types)
    check_bits(attrs)
    shape = window_shape(types[0].shape, attrs)
    require(
        prod(integers(attrs, "window")) * multiply_extents(shape)[0] <= MAX_ELEMENTS,
        f"windows of more than {MAX_ELEMENTS} elements together",
    )
    return Type(shape, types[0].scale)


def _argmax(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    shares(types)
    axis = integer(attrs, "axis")
    require(0 <= axis < len(x.shape) and 0 < x.shape[axis] <= MAX_CLASSES, f"argmax over {axis}")
    return Type((*x.shape[:axis], *x.shape[axis + 1 :]), x.scale)


def _top_k(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    shares(types)
    k = integer(attrs, "k")
    require(
        bool(x.shape)
        and 0 < k <= x.shape[-1] <= MAX_CLASSES
        and (k <= MAX_TOP or x.shape[-1] <= MAX_SORTED),
        f"the top {k} of shape {x.shape}",
    )
    return Type((*x.shape[:-1], k, 2), x.scale)


_WINDOW = ("window", "strides", "low", "high")

OPERATIONS: dict[str, Operation] = {
    op.name: op
    for op in (
        Operation("reshape", 1, _reshape, tuples=("shape",)),
        Operation("transpose", 1, _transpose, tuples=("axes",)),
        Operation("broadcast", 1, _broadcast, tuples=("shape",)),
        Operation("slice", 1, _slice, tuples=("start", "limit", "stride")),
        Operation("pad", 1, _pad, tuples=("low", "high", "interior")),
        Operation("concat", None, _concat, ints=("axis",)),
        Operation("reverse", 1, _reverse, tuples=("axes",)),
        Operation("add", 2, _add),
        Operation("sub", 2, _add),
        Operation("neg", 1, _same),
        Operation("sum", 1, _sum, tuples=("axes",)),
        Operation("window_sum", 1, _window_sum, tuples=_WINDOW),
        Operation("shift_left", 1, _shift_left, ints=("bits",)),
        Operation("scale", 1, _scale, ints=("multiplier", "bits")),
        Operation("add_const", 1, _add_const, ints=("value",)),
        Operation("mul", 2, _mul),
        Operation("matmul", 2, _matmul),
        Operation(
            "conv",
            2,
            _conv,
            ints=("groups",),
            tuples=("strides", "low", "high", "input_dilation", "kernel_dilation"),
        ),
        Operation("truncate", 1, _truncate, ints=("shift",)),
        Operation("truncate_fresh", 1, _truncate, ints=("shift",)),
        Operation("relu", 1, _relu, ints=("shift", "bits")),
        Operation("negative", 1, _negative, ints=("shift", "bits")),
        Operation("reshare", 1, _reshare),
        Operation("bit_not", 1, _bit_not),
        Operation("bit_and", 2, _bit_and),
        Operation("select", 2, _select),
        Operation("maximum", 2, _maximum, ints=("bits",)),
        Operation("reduce_max", 1, _reduce_max, ints=("bits",), tuples=("axes",)),
        Operation("max_pool", 1, _max_pool, ints=("bits",), tuples=_WINDOW),
        Operation("argmax", 1, _argmax, ints=("axis",)),
        Operation("top_k", 1, _top_k, ints=("k",)),
        *FUNCTION_OPERATIONS,
        *GRADIENT_OPERATIONS,
    )
}


def infer(op: str, types: Sequence[Type], attrs: Attributes) -> Type:
    """Return the result type of ``op`` on arguments of ``types``.

    Raises:
        ProgramError: if the operation is unknown or its arguments or attributes do not fit.
    """
    spec = OPERATIONS.get(op)
    require(spec is not None, f"unknown operation {op[:40]!r}")
    assert spec is not None
    require(
        len(types) == spec.arity if spec.arity is not None else len(types) >= 1,
        f"{op} takes {spec.arity or 'one or more'} arguments, not {len(types)}",
    )
    wanted = {*spec.ints, *spec.tuples}
    require(
        set(attrs) == wanted, f"{op} takes attributes {sorted(wanted)}, not {sorted(attrs)}"[:400]
    )
    require(
        all(type(attrs[n]) is int for n in spec.ints)
        and all(isinstance(attrs[n], tuple) for n in spec.tuples),
        f"{op} has an attribute of the wrong kind",
    )
    require(
        all(len(integers(attrs, n)) <= MAX_RANK for n in spec.tuples),
        f"{op} has an attribute of more than {MAX_RANK} extents",
    )
    result = spec.rule(types, attrs)
    size, power = multiply_extents(result.shape)
    require(
        len(result.shape) <= MAX_RANK and 0 < size <= MAX_ELEMENTS and power <= 1,
        f"{op} makes a value of shape {result.shape}",
    )
    return result
