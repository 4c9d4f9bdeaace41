"""The rows of the operation table that gradients need, and the rules that products share."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.program.checks import (
    MAX_PENDING,
    MAX_SCALE,
    MAX_STEP,
    Attributes,
    Operation,
    Rule,
    check_bits,
    integer,
    integers,
    join,
    require,
)
from tercet.program.types import Form, Shape, Type

#: Attributes of a convolution and of its gradients.
CONV_TUPLES = ("strides", "low", "high", "input_dilation", "kernel_dilation")


def product_type(x: Type, y: Type, shape: Shape) -> Type:
    """Return the type of a product of two values."""
    forms = (x.form, y.form)
    known = Form.PUBLIC in forms
    require(
        all(f in (Form.SHARE, Form.PUBLIC) or (f is Form.PARTIAL and known) for f in forms),
        "a product of values that are not shares",
    )
    most = MAX_PENDING if known else MAX_SCALE
    require(
        min(x.scale, y.scale) >= 0 and x.scale + y.scale <= most,
        f"product of scales {x.scale} and {y.scale}",
    )
    form = Form.PARTIAL if Form.PUBLIC not in forms else join((x, y))
    return Type(shape, x.scale + y.scale, form)


def conv_shape(x: Shape, w: Shape, attrs: Attributes) -> Shape:
    """Return the output shape of ``conv`` on x (N, spatial..., C) and w (spatial..., C/g, O)."""
    strides, low, high = (integers(attrs, n) for n in ("strides", "low", "high"))
    dil_x, dil_w = (integers(attrs, n) for n in ("input_dilation", "kernel_dilation"))
    groups, rank = integer(attrs, "groups"), len(x) - 2
    require(1 <= rank <= 3 and len(w) == rank + 2, f"convolution of {x} and {w}")
    require(
        all(len(v) == rank for v in (strides, low, high, dil_x, dil_w)), "convolution attributes"
    )
    steps = (*strides, *dil_x, *dil_w, groups)
    require(
        min(steps) > 0 and max(*steps, *map(abs, low), *map(abs, high)) <= MAX_STEP,
        "convolution attributes out of range",
    )
    require(x[-1] > 0 and min(w) > 0, "convolution over a symbolic axis")
    require(
        x[-1] == w[-2] * groups and w[-1] % groups == 0,
        f"convolution of {x[-1]} channels with a kernel of {w[-2:]} in {groups} groups",
    )
    out = []
    for d, k, s, lo, hi, dx, dw in zip(
        x[1:-1], w[:-2], strides, low, high, dil_x, dil_w, strict=True
    ):
        require(d > 0 and k > 0, "convolution over an empty or symbolic axis")
        extent = (d - 1) * dx + 1 + lo + hi - ((k - 1) * dw + 1)
        require(extent >= 0, f"kernel {k} over extent {d}")
        out.append(extent // s + 1)
    return (x[0], *out, w[-1])


def shifted(x: Type, attrs: Attributes) -> Type:
    """Return the type of ``x`` after the truncation that ``shift`` names."""
    shift = integer(attrs, "shift")
    require(x.form in (Form.SHARE, Form.PARTIAL), f"truncation of a {x.form}")
    require(0 <= shift <= x.scale, f"shift {shift} of scale {x.scale}")
    return Type(x.shape, x.scale - shift, Form.SHARE)


def _round(types: Sequence[Type], attrs: Attributes) -> Type:
    result = shifted(types[0], attrs)
    require(integer(attrs, "shift") > 0, "rounding by 0")
    return result


def _gate(types: Sequence[Type], attrs: Attributes) -> Type:
    bit, x = types
    require(bit.form is Form.BIT and bit.shape == x.shape, "gate takes a bit for each number")
    return shifted(x, attrs)


def _rectify(types: Sequence[Type], attrs: Attributes) -> Type:
    low = integer(attrs, "low")
    result = shifted(types[0], attrs)
    require(0 <= low <= types[0].scale, f"comparison from bit {low} of scale {types[0].scale}")
    check_bits(attrs, low)
    return Type(result.shape, result.scale, Form.RECTIFIED)


def _part(form: Form) -> Rule:
    def rule(types: Sequence[Type], attrs: Attributes) -> Type:
        (x,) = types
        require(x.form is Form.RECTIFIED, "only what rectify makes can be taken apart")
        return Type(x.shape, x.scale if form is Form.SHARE else 0, form)

    return rule


def _padded(attrs: Attributes) -> None:
    pads = (*integers(attrs, "low"), *integers(attrs, "high"))
    require(all(p >= 0 for p in pads), "a gradient of a convolution that crops")


def _conv_input(types: Sequence[Type], attrs: Attributes) -> Type:
    """The gradient of ``conv`` with respect to its input: g (N, out..., O), w -> (N, in..., C)."""
    g, w = types
    space = integers(attrs, "extents")
    _padded(attrs)
    require(len(g.shape) == len(w.shape) == len(space) + 2, "gradient of another rank")
    shape = (g.shape[0], *space, w.shape[-2] * integer(attrs, "groups"))
    require(conv_shape(shape, w.shape, attrs) == g.shape, f"gradient of shape {g.shape}")
    return product_type(g, w, shape)


def _conv_kernel(types: Sequence[Type], attrs: Attributes) -> Type:
    """The gradient of ``conv`` with respect to its kernel: x, g -> (window..., C/groups, O)."""
    x, g = types
    window, groups = integers(attrs, "extents"), integer(attrs, "groups")
    _padded(attrs)
    require(len(g.shape) == len(x.shape) == len(window) + 2, "gradient of another rank")
    require(x.shape[0] > 0, "a sum over the batch axis")
    require(groups > 0 and x.shape[-1] % groups == 0, f"{x.shape[-1]} channels, {groups} groups")
    shape = (*window, x.shape[-1] // groups, g.shape[-1])
    require(conv_shape(x.shape, shape, attrs) == g.shape, f"gradient of shape {g.shape}")
    return product_type(x, g, shape)


GRADIENT_OPERATIONS = (
    Operation("round", 1, _round, ints=("shift",)),
    Operation("gate", 2, _gate, ints=("shift",)),
    Operation("rectify", 1, _rectify, ints=("shift", "low", "bits")),
    Operation("rectified", 1, _part(Form.SHARE)),
    Operation("active", 1, _part(Form.BIT)),
    Operation("conv_input", 2, _conv_input, ints=("groups",), tuples=(*CONV_TUPLES, "extents")),
    Operation("conv_kernel", 2, _conv_kernel, ints=("groups",), tuples=(*CONV_TUPLES, "extents")),
)
