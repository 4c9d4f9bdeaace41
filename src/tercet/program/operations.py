"""The operation table: for each operation its attributes and how its result type follows.

The table is the language. ``verify`` checks every instruction against it and the interpreter runs
exactly what it names. Attributes are integers or tuples of integers; extents among them may be
batch multiples (see ``types``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias, cast

from tercet.errors import ProgramError
from tercet.program.program import Attribute
from tercet.program.types import Form, Shape, Type

Attributes: TypeAlias = Mapping[str, Attribute]
Rule: TypeAlias = Callable[[Sequence[Type], Attributes], Type]

#: Largest number of fractional bits of a product; |x| < 2^(62 - scale) must hold at a truncation.
MAX_SCALE = 48
#: Bits of the ring that a truncation or a comparison may use: |x| < 2^62.
RANGE_BITS = 62
MAX_RANK = 8
#: Elements of one value, a row of the batch: bounds what a program can make a worker allocate.
MAX_ELEMENTS = 1 << 27
#: Largest stride, dilation, padding or number of groups of a convolution.
MAX_STEP = 1 << 16
#: Most elements of a pooling window: they are visited one by one.
MAX_WINDOW = 1 << 14
#: Most classes among which ``argmax`` and ``top_k`` choose, and most that ``top_k`` returns.
MAX_CLASSES = 1 << 16
MAX_TOP = 100


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table.

    ``ints`` and ``tuples`` name the attributes; ``arity`` is the number of arguments, ``None``
    for one or more.
    """

    name: str
    arity: int | None
    rule: Rule
    ints: tuple[str, ...] = ()
    tuples: tuple[str, ...] = ()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ProgramError(message, "The program is malformed: trace the model again")


def _tuple(attrs: Attributes, name: str) -> tuple[int, ...]:
    return cast("tuple[int, ...]", attrs[name])


def _int(attrs: Attributes, name: str) -> int:
    return cast("int", attrs[name])


def multiply_extents(shape: Shape) -> tuple[int, int]:
    """Return ``(coefficient, power)``: the size of ``shape`` is coefficient * batch^power."""
    size, power = 1, 0
    for d in shape:
        size *= abs(d)
        power += d < 0
    return size, power


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """Return the common shape by NumPy's rule; batch extents match only themselves or 1."""
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    _require(
        all(x == y or 1 in (x, y) for x, y in zip(left, right, strict=True)),
        f"shapes {a} and {b} do not broadcast",
    )
    return tuple(y if x == 1 else x for x, y in zip(left, right, strict=True))


def _axes(attrs: Attributes, rank: int, name: str = "axes") -> tuple[int, ...]:
    axes = _tuple(attrs, name)
    _require(
        len(set(axes)) == len(axes) and all(0 <= a < rank for a in axes),
        f"{name} {axes} are not distinct axes of rank {rank}",
    )
    return axes


def _no_bits(types: Sequence[Type]) -> None:
    _require(all(t.form is not Form.BIT for t in types), "a bit where a number is expected")


def _join(types: Sequence[Type]) -> Form:
    forms = {t.form for t in types}
    for form in (Form.BIT, Form.PARTIAL, Form.SHARE):
        if form in forms:
            return form
    return Form.PUBLIC


def _reshape(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    shape = _tuple(attrs, "shape")
    _require(x.form is not Form.BIT, "reshape of bits")
    _require(
        multiply_extents(shape) == multiply_extents(x.shape),
        f"reshape of {x.shape} to {shape} changes the size",
    )
    # Rows of a batch may belong to different clients: none may move into another's place.
    _require(
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
    _no_bits(types)
    axes = _axes(attrs, len(x.shape))
    _require(len(axes) == len(x.shape), f"transpose by {axes} of rank {len(x.shape)}")
    return Type(tuple(x.shape[a] for a in axes), x.scale, x.form)


def _broadcast(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    shape = _tuple(attrs, "shape")
    _require(broadcast_shapes(x.shape, shape) == shape, f"{x.shape} does not broadcast to {shape}")
    return Type(shape, x.scale, x.form)


def _slice(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    start, limit, stride = (_tuple(attrs, n) for n in ("start", "limit", "stride"))
    _require(len(start) == len(limit) == len(stride) == len(x.shape), "slice of another rank")
    shape = []
    for d, s, e, step in zip(x.shape, start, limit, stride, strict=True):
        if d < 0:
            _require((s, e, step) == (0, d, 1), "a slice along the batch axis")
            shape.append(d)
        else:
            _require(0 <= s <= e <= d and step > 0, f"slice {s}:{e}:{step} of extent {d}")
            shape.append(-(-(e - s) // step))
    return Type(tuple(shape), x.scale, x.form)


def _pad(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    low, high, interior = (_tuple(attrs, n) for n in ("low", "high", "interior"))
    _require(len(low) == len(high) == len(interior) == len(x.shape), "pad of another rank")
    shape = []
    for d, lo, hi, inner in zip(x.shape, low, high, interior, strict=True):
        if d < 0:
            _require(lo == hi == inner == 0, "padding along the batch axis")
            shape.append(d)
        else:
            extent = lo + hi + d + max(d - 1, 0) * inner
            _require(lo >= 0 and hi >= 0 and inner >= 0, f"padding {lo}, {hi}, {inner}")
            shape.append(extent)
    return Type(tuple(shape), x.scale, x.form)


def _concat(types: Sequence[Type], attrs: Attributes) -> Type:
    axis, first = _int(attrs, "axis"), types[0]
    _no_bits(types)
    _require(len({t.form for t in types}) == 1, "concatenation of values of different forms")
    _require(len({t.scale for t in types}) == 1, "concatenation of different scales")
    _require(len({len(t.shape) for t in types}) == 1, "concatenation of different ranks")
    _require(0 <= axis < len(first.shape) and first.shape[axis] >= 0, f"concatenation axis {axis}")
    rest = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in types}
    _require(len(rest) == 1, "concatenation of shapes that differ off the axis")
    _require(all(t.shape[axis] >= 0 for t in types), "concatenation along the batch axis")
    total = sum(t.shape[axis] for t in types)
    return Type((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.scale, first.form)


def _reverse(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    axes = _axes(attrs, len(x.shape))
    _require(all(x.shape[a] >= 0 for a in axes), "reversal of the batch axis")
    return x


def _add(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    _no_bits(types)
    _require(x.scale == y.scale, f"sum of scales {x.scale} and {y.scale}")
    return Type(broadcast_shapes(x.shape, y.shape), x.scale, _join(types))


def _same(types: Sequence[Type], attrs: Attributes) -> Type:
    _no_bits(types)
    return types[0]


def _sum(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    axes = _axes(attrs, len(x.shape))
    _require(all(x.shape[a] >= 0 for a in axes), "sum over the batch axis")
    return Type(tuple(d for i, d in enumerate(x.shape) if i not in axes), x.scale, x.form)


def window_shape(shape: Shape, attrs: Attributes) -> Shape:
    """Return the shape that sliding windows leave (``window``, ``strides``, ``low``, ``high``)."""
    window, strides, low, high = (_tuple(attrs, n) for n in ("window", "strides", "low", "high"))
    _require(
        len(window) == len(strides) == len(low) == len(high) == len(shape), "window of another rank"
    )
    _require(0 < prod(window) <= MAX_WINDOW and all(w > 0 for w in window), f"window {window}")
    result = []
    for d, w, s, lo, hi in zip(shape, window, strides, low, high, strict=True):
        _require(w > 0 and s > 0 and 0 <= lo < w and 0 <= hi < max(w, s), "window out of range")
        if d < 0:
            _require((w, s, lo, hi) == (1, 1, 0, 0), "a window over the batch axis")
            result.append(d)
        else:
            _require(d + lo + hi >= w, f"window {w} over extent {d}")
            result.append((d + lo + hi - w) // s + 1)
    return tuple(result)


def _window_sum(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    return Type(window_shape(x.shape, attrs), x.scale, x.form)


def _shift_left(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    bits = _int(attrs, "bits")
    _require(bits > 0 and x.scale + bits <= MAX_SCALE, f"shift left by {bits}")
    return Type(x.shape, x.scale + bits, x.form)


def _scale(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _no_bits(types)
    bits = _int(attrs, "bits")
    _require(bits >= 0 and x.scale + bits <= MAX_SCALE, f"scaling by {bits} bits")
    _require(abs(_int(attrs, "multiplier")) < 1 << 48, "multiplier out of range")
    return Type(x.shape, x.scale + bits, x.form)


def _add_const(types: Sequence[Type], attrs: Attributes) -> Type:
    _no_bits(types)
    _require(abs(_int(attrs, "value")) < 1 << RANGE_BITS, "constant out of range")
    return types[0]


def _product(x: Type, y: Type, shape: Shape) -> Type:
    _require(
        all(t.form in (Form.SHARE, Form.PUBLIC) for t in (x, y)),
        "a product of values that are not shares",
    )
    _require(x.scale + y.scale <= MAX_SCALE, f"product of scales {x.scale} and {y.scale}")
    forms = (x.form, y.form)
    form = Form.PARTIAL if Form.PUBLIC not in forms else _join((x, y))
    return Type(shape, x.scale + y.scale, form)


def _mul(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    return _product(x, y, broadcast_shapes(x.shape, y.shape))


def _matmul(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    _require(len(x.shape) >= 2 and len(y.shape) >= 2, "matmul of rank below 2")
    _require(x.shape[-1] == y.shape[-2] >= 0, f"matmul of {x.shape} and {y.shape}")
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return _product(x, y, (*batch, x.shape[-2], y.shape[-1]))


def conv_shape(x: Shape, w: Shape, attrs: Attributes) -> Shape:
    """Return the output shape of ``conv`` on x (N, spatial..., C) and w (spatial..., C/g, O)."""
    strides, low, high = (_tuple(attrs, n) for n in ("strides", "low", "high"))
    dil_x, dil_w = (_tuple(attrs, n) for n in ("input_dilation", "kernel_dilation"))
    groups, rank = _int(attrs, "groups"), len(x) - 2
    _require(1 <= rank <= 3 and len(w) == rank + 2, f"convolution of {x} and {w}")
    _require(
        all(len(v) == rank for v in (strides, low, high, dil_x, dil_w)), "convolution attributes"
    )
    steps = (*strides, *dil_x, *dil_w, groups)
    _require(
        min(steps) > 0 and max(*steps, *map(abs, low), *map(abs, high)) <= MAX_STEP,
        "convolution attributes out of range",
    )
    _require(x[-1] > 0 and min(w) > 0, "convolution over a symbolic axis")
    _require(
        x[-1] == w[-2] * groups and w[-1] % groups == 0,
        f"convolution of {x[-1]} channels with a kernel of {w[-2:]} in {groups} groups",
    )
    out = []
    for d, k, s, lo, hi, dx, dw in zip(
        x[1:-1], w[:-2], strides, low, high, dil_x, dil_w, strict=True
    ):
        _require(d > 0 and k > 0, "convolution over an empty or symbolic axis")
        extent = (d - 1) * dx + 1 + lo + hi - ((k - 1) * dw + 1)
        _require(extent >= 0, f"kernel {k} over extent {d}")
        out.append(extent // s + 1)
    return (x[0], *out, w[-1])


def _conv(types: Sequence[Type], attrs: Attributes) -> Type:
    x, w = types
    return _product(x, w, conv_shape(x.shape, w.shape, attrs))


def _shifted(x: Type, attrs: Attributes) -> Type:
    shift = _int(attrs, "shift")
    _require(x.form in (Form.SHARE, Form.PARTIAL), f"truncation of a {x.form}")
    _require(0 <= shift <= x.scale, f"shift {shift} of scale {x.scale}")
    return Type(x.shape, x.scale - shift, Form.SHARE)


def _truncate(types: Sequence[Type], attrs: Attributes) -> Type:
    result = _shifted(types[0], attrs)
    _require(_int(attrs, "shift") > 0, "truncation by 0")
    return result


def _check_bits(attrs: Attributes, shift: int = 0) -> None:
    bits = _int(attrs, "bits")
    _require(8 <= bits <= RANGE_BITS - shift, f"comparison on {bits} bits at shift {shift}")


def _relu(types: Sequence[Type], attrs: Attributes) -> Type:
    _check_bits(attrs, _int(attrs, "shift"))
    return _shifted(types[0], attrs)


def _negative(types: Sequence[Type], attrs: Attributes) -> Type:
    _check_bits(attrs, _int(attrs, "shift"))
    return Type(_shifted(types[0], attrs).shape, 0, Form.BIT)


def _reshare(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _require(x.form in (Form.SHARE, Form.PARTIAL), f"resharing of a {x.form}")
    return Type(x.shape, x.scale, Form.SHARE)


def _shares(types: Sequence[Type]) -> None:
    _require(all(t.form is Form.SHARE for t in types), "an argument that is not a share")


def _select(types: Sequence[Type], attrs: Attributes) -> Type:
    bit, x = types
    _require(bit.form is Form.BIT and x.form is Form.SHARE, "select takes a bit and a share")
    _require(bit.shape == x.shape, "select of different shapes")
    return x


def _bit_not(types: Sequence[Type], attrs: Attributes) -> Type:
    _require(types[0].form is Form.BIT, "bit_not of a number")
    return types[0]


def _bit_and(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    _require(x.form is Form.BIT and x == y, "bit_and of values that are not alike")
    return x


def _maximum(types: Sequence[Type], attrs: Attributes) -> Type:
    x, y = types
    _shares(types)
    _require(x.scale == y.scale, f"maximum of scales {x.scale} and {y.scale}")
    _check_bits(attrs)
    return Type(broadcast_shapes(x.shape, y.shape), x.scale)


def _reduce_max(types: Sequence[Type], attrs: Attributes) -> Type:
    _shares(types)
    _check_bits(attrs)
    return _sum(types, attrs)


def _max_pool(types: Sequence[Type], attrs: Attributes) -> Type:
    _shares(types)
    _check_bits(attrs)
    shape = window_shape(types[0].shape, attrs)
    _require(
        prod(_tuple(attrs, "window")) * multiply_extents(shape)[0] <= MAX_ELEMENTS,
        f"windows of more than {MAX_ELEMENTS} elements together",
    )
    return Type(shape, types[0].scale)


def _softmax(types: Sequence[Type], attrs: Attributes) -> Type:
    _shares(types)
    _check_bits(attrs)
    axis = _int(attrs, "axis")
    _require(
        0 <= axis < len(types[0].shape) and types[0].shape[axis] > 0, f"softmax over axis {axis}"
    )
    return types[0]


def _argmax(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _shares(types)
    axis = _int(attrs, "axis")
    _require(0 <= axis < len(x.shape) and 0 < x.shape[axis] <= MAX_CLASSES, f"argmax over {axis}")
    return Type((*x.shape[:axis], *x.shape[axis + 1 :]), x.scale)


def _top_k(types: Sequence[Type], attrs: Attributes) -> Type:
    (x,) = types
    _shares(types)
    k = _int(attrs, "k")
    _require(
        bool(x.shape) and 0 < k <= min(x.shape[-1], MAX_TOP) and x.shape[-1] <= MAX_CLASSES,
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
        Operation("relu", 1, _relu, ints=("shift", "bits")),
        Operation("negative", 1, _negative, ints=("shift", "bits")),
        Operation("reshare", 1, _reshare),
        Operation("bit_not", 1, _bit_not),
        Operation("bit_and", 2, _bit_and),
        Operation("select", 2, _select),
        Operation("maximum", 2, _maximum, ints=("bits",)),
        Operation("reduce_max", 1, _reduce_max, ints=("bits",), tuples=("axes",)),
        Operation("max_pool", 1, _max_pool, ints=("bits",), tuples=_WINDOW),
        Operation("softmax", 1, _softmax, ints=("axis", "bits")),
        Operation("argmax", 1, _argmax, ints=("axis",)),
        Operation("top_k", 1, _top_k, ints=("k",)),
    )
}


def infer(op: str, types: Sequence[Type], attrs: Attributes) -> Type:
    """Return the result type of ``op`` on arguments of ``types``.

    Raises:
        ProgramError: if the operation is unknown or its arguments or attributes do not fit.
    """
    spec = OPERATIONS.get(op)
    _require(spec is not None, f"unknown operation {op[:40]!r}")
    assert spec is not None
    _require(
        len(types) == spec.arity if spec.arity is not None else len(types) >= 1,
        f"{op} takes {spec.arity or 'one or more'} arguments, not {len(types)}",
    )
    wanted = {*spec.ints, *spec.tuples}
    _require(
        set(attrs) == wanted, f"{op} takes attributes {sorted(wanted)}, not {sorted(attrs)}"[:400]
    )
    _require(
        all(type(attrs[n]) is int for n in spec.ints)
        and all(isinstance(attrs[n], tuple) for n in spec.tuples),
        f"{op} has an attribute of the wrong kind",
    )
    _require(
        all(len(_tuple(attrs, n)) <= MAX_RANK for n in spec.tuples),
        f"{op} has an attribute of more than {MAX_RANK} extents",
    )
    result = spec.rule(types, attrs)
    size, power = multiply_extents(result.shape)
    _require(
        len(result.shape) <= MAX_RANK and 0 < size <= MAX_ELEMENTS and power <= 1,
        f"{op} makes a value of shape {result.shape}",
    )
    return result
