"""The context in which the rules work: arithmetic on values and the registration of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.hints import describe
from tercet.frontend.values import Array, Known, Secret, Taint, Value, derive
from tercet.program.builder import Builder
from tercet.program.checks import MAX_SCALE, RANGE_BITS
from tercet.program.functions import FUNCTION_SCALES
from tercet.program.program import Attribute, Role
from tercet.program.types import Form

#: Relative error of a public factor is at most 2^-RELATIVE_BITS.
RELATIVE_BITS = 20
#: Longer names of layers are cut at the front: the language limits names.
NAME_LENGTH = 150
#: Extra fractional bits of a public array, which costs nothing: nobody shares it.
PUBLIC_EXTRA_BITS = 8


@dataclass
class Lowering:
    """Lowers values to a program under construction.

    ``kinds`` maps the label of a layer to its class, for messages only, as ``line`` is, the place
    in the user's code. ``emitted`` names the operations of all instructions so far.
    """

    scale: int
    kinds: dict[str, str] = field(default_factory=dict)
    canonical: Callable[[str], str] = str
    builder: Builder = field(init=False)
    arrays: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    source: str = ""
    line: str = ""
    emitted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.builder = Builder(self.scale)
        self._registered: dict[tuple[str, ...], int] = {}

    # --- instructions -----------------------------------------------------------------------

    def emit(self, op: str, *args: int, **attrs: Attribute) -> Secret:
        """Append an instruction and return its value."""
        self.builder.source = self.source
        self.emitted.append(op)
        # Frameworks mix in NumPy integers, which have no wire form.
        plain = {
            k: tuple(map(int, v)) if isinstance(v, tuple) else int(v) for k, v in attrs.items()
        }
        handle = self.builder.emit(op, *args, **plain)
        kind = self.builder.type_of(handle)
        return Secret(handle, kind.shape, kind.form is Form.BIT)

    def place(self) -> str:
        """Return the layer that is being lowered, for messages."""
        where = f" at {self.line}" if self.line else ""
        if not self.source:
            return f"The model{where}"
        kind = self.kinds.get(self.source, "")
        return f"Layer {self.source!r}" + (f" ({kind})" if kind else "") + where

    def unsupported(self, primitive: str, detail: str = "") -> UnsupportedOperation:
        """Return the error that names the layer, the operation and what works instead."""
        name, remedy = describe(primitive)
        more = f" {detail}" if detail else ""
        return UnsupportedOperation(
            f"{self.place()} uses {name}{more}, which is not supported yet", remedy
        )

    def out_of_range(self, value: Known, what: str) -> ModelError:
        """Return the error for a known value that fixed point cannot hold."""
        if value.taint is Taint.MODEL:
            return ModelError(
                f"{self.place()}: {value.origin or 'a weight'} holds {what}, out of the "
                "fixed-point range",
                "Train or load the model again, or rescale its weights",
            )
        return UnsupportedOperation(
            f"{self.place()} uses a constant with {what}, out of the fixed-point range",
            "Mask with a number such as -1e4 instead",
        )

    # --- weights and public arrays ----------------------------------------------------------

    def register(self, value: Known, *, secret: bool = False, scale: int | None = None) -> int:
        """Return the handle of the input that holds the collapsed array of ``value``.

        A value that depends on the model becomes a weight, any other one public (unless
        ``secret`` asks for a share). One value is registered once however often it is used.
        """
        role = Role.WEIGHT if secret or value.taint is Taint.MODEL else Role.PUBLIC
        scale = self.scale if scale is None else scale
        key = (role.value, value.key, repr(value.array.shape), str(scale))
        if key in self._registered:
            return self._registered[key]
        stem = self.canonical(value.origin or f"{self.source or 'model'}/{role.value}")
        stem = stem[-NAME_LENGTH:]
        name, count = stem, 1
        while name in self.arrays:
            count += 1
            name = f"{stem}_{count}"
        array = np.asarray(value.array, np.float64)
        limit = 2.0 ** (RANGE_BITS - 2 * self.scale)
        if not np.isfinite(array).all():
            raise self.out_of_range(value, "NaN or infinity")
        if array.size and np.abs(array).max() >= limit:
            raise self.out_of_range(value, f"numbers of magnitude {limit:g} or more")
        self.arrays[name] = np.array(array, order="C")
        handle = self.builder.input(name, role, array.shape, scale)
        self._registered[key] = handle
        return handle

    def share(self, value: Value) -> Secret:
        """Return ``value`` as a share of its whole shape."""
        if isinstance(value, Secret):
            return value
        handle = self.register(value, secret=True)
        return self.broadcast(Secret(handle, value.array.shape), value.shape)

    def broadcast(self, x: Secret, shape: tuple[int, ...]) -> Secret:
        """Return ``x`` repeated to ``shape``."""
        return x if x.shape == shape else self.emit("broadcast", x.handle, shape=shape)

    def reshape(self, x: Secret, shape: tuple[int, ...]) -> Secret:
        """Return ``x`` in another shape."""
        return x if x.shape == shape else self.emit("reshape", x.handle, shape=shape)

    def transpose(self, x: Secret, axes: tuple[int, ...]) -> Secret:
        """Return ``x`` with permuted axes."""
        if axes == tuple(range(len(axes))):
            return x
        return self.emit("transpose", x.handle, axes=axes)

    # --- arithmetic -------------------------------------------------------------------------

    def fixed(self, number: float, scale: int | None = None) -> int:
        """Return ``number`` in fixed point."""
        scale = self.scale if scale is None else scale
        if not math.isfinite(number) or abs(number) >= 2.0 ** (RANGE_BITS - 1 - scale):
            raise UnsupportedOperation(
                f"{self.place()} uses the constant {number:g}, out of the fixed-point range",
                f"Keep constants below 2^{RANGE_BITS - 1 - scale}; a mask needs no more than 1e4",
            )
        encoded: int = round(Fraction(number) * 2**scale)
        return encoded

    def neg(self, x: Value) -> Value:
        """Return -x."""
        if isinstance(x, Known):
            return derive("neg", -x.array, x.shape, x)
        return self.negated(x)

    def negated(self, x: Secret) -> Secret:
        """Return -x."""
        return self.emit("neg", x.handle)

    def add(self, x: Value, y: Value) -> Value:
        """Return x + y."""
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(x, Known):
            assert isinstance(y, Known)
            return self._known("add", np.add, x, y)
        if isinstance(y, Secret):
            return self.emit("add", x.handle, y.handle)
        if y.scalar:
            value = self.fixed(y.number)
            return self.emit("add_const", x.handle, value=value) if value else x
        return self.emit("add", x.handle, self.register(_unmasked(_trim(y))))

    def sub(self, x: Value, y: Value) -> Value:
        """Return x - y."""
        if isinstance(x, Known) and isinstance(y, Known):
            return self._known("sub", np.subtract, x, y)
        if isinstance(y, Known):
            if y.scalar:
                return self.add(x, self.neg(y))
            assert isinstance(x, Secret)
            return self.emit("sub", x.handle, self.register(_trim(y)))
        if isinstance(x, Known):
            return self.add(self.neg(y), x)
        return self.emit("sub", x.handle, y.handle)

    def mul(self, x: Value, y: Value) -> Value:
        """Return x * y, truncated to the scale of the program."""
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(x, Known):
            assert isinstance(y, Known)
            return self._known("mul", np.multiply, x, y)
        if isinstance(y, Secret):
            return self.truncate(self.emit("mul", x.handle, y.handle), self.scale)
        if y.scalar:
            return self.times(x, y.number)
        y, scale = _trim(y), self.product_scale(y)
        return self.truncate(self.emit("mul", x.handle, self.register(y, scale=scale)), scale)

    def product_scale(self, factor: Known) -> int:
        """Return the fractional bits with which a known factor is registered.

        Only a public factor may choose: bits that followed from the numbers of a weight would
        tell something about it.
        """
        if factor.taint is Taint.MODEL:
            return self.scale
        array = factor.array.astype(np.float64)
        if np.array_equal(array, np.round(array)):
            return 0
        return min(self.scale + PUBLIC_EXTRA_BITS, MAX_SCALE - self.scale)

    def times(self, x: Secret, factor: float) -> Secret:
        """Return ``x`` times a public number."""
        if not math.isfinite(factor):
            self.fixed(factor)
        if factor in (1.0, -1.0):
            return x if factor > 0 else self.emit("neg", x.handle)
        most = MAX_SCALE - self.scale
        exact = Fraction(factor)
        bits = 0
        while bits < most and (
            abs(round(exact * 2**bits) - exact * 2**bits) * 2**RELATIVE_BITS > abs(exact) * 2**bits
        ):
            bits += 1
        multiplier = round(exact * 2**bits)
        if abs(multiplier) >= 1 << MAX_SCALE:
            self.fixed(math.inf)
        return self.truncate(self.emit("scale", x.handle, multiplier=multiplier, bits=bits), bits)

    def truncate(self, x: Secret, shift: int) -> Secret:
        """Return ``x`` with ``shift`` fractional bits fewer."""
        return self.emit("truncate", x.handle, shift=shift) if shift else x

    def relu(self, x: Value) -> Value:
        """Return max(x, 0)."""
        if isinstance(x, Known):
            return derive("relu", np.maximum(x.array, 0), x.shape, x)
        return self.emit("relu", x.handle, shift=0, bits=RANGE_BITS)

    def maximum(self, x: Value, y: Value) -> Value:
        """Return the larger of x and y."""
        if isinstance(x, Secret) and isinstance(y, Secret):
            return self.emit("maximum", x.handle, y.handle, bits=RANGE_BITS)
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(y, Known) and y.scalar and y.number == -math.inf:
            return x
        return self.add(self.relu(self.sub(x, y)), y)

    def minimum(self, x: Value, y: Value) -> Value:
        """Return the smaller of x and y."""
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(y, Known) and y.scalar and y.number == math.inf:
            return x
        return self.sub(x, self.relu(self.sub(x, y)))

    # --- functions --------------------------------------------------------------------------

    def function(self, op: str, x: Secret, **attrs: Attribute) -> Secret:
        """Return a function of ``x`` that has a contract."""
        if self.scale not in FUNCTION_SCALES:
            raise UnsupportedOperation(
                f"{self.place()} uses {op} with {self.scale} fractional bits",
                f"Use {FUNCTION_SCALES[0]} to {FUNCTION_SCALES[-1]} fractional bits",
            )
        return self.emit(op, x.handle, bits=RANGE_BITS, **attrs)

    def divide(self, x: Secret, y: Secret, signed: bool) -> Secret:
        """Return x / y."""
        return self.emit("divide", x.handle, y.handle, signed=int(signed), bits=RANGE_BITS)

    def narrow(self, x: Secret) -> Secret:
        """Return what ``x`` repeats along some axes, which NumPy broadcasts by itself."""
        if x.handle >= 0 and self.builder.instruction(x.handle).op == "broadcast":
            (source,) = self.builder.instruction(x.handle).args
            return Secret(source, self.builder.type_of(source).shape)
        return x

    def is_input(self, x: Secret) -> bool:
        """Return whether ``x`` is the client's input, at most moved about."""
        handle = x.handle
        while handle >= 0 and self.builder.instruction(handle).op in _MOVES:
            (handle,) = self.builder.instruction(handle).args
        return handle < 0

    def is_positive(self, x: Secret) -> bool:
        """Return whether the operations that made ``x`` cannot make anything below 0."""
        return x.handle >= 0 and _positive(self.builder, x.handle)

    # --- bits -------------------------------------------------------------------------------

    def negative(self, x: Value) -> Secret:
        """Return the bit x < 0."""
        assert isinstance(x, Secret)
        return self.emit("negative", x.handle, shift=0, bits=RANGE_BITS)

    def number(self, bit: Secret) -> Secret:
        """Return 1 where ``bit`` is set, else 0."""
        one = self.share(derive("ones", np.ones((1,) * len(bit.shape)), bit.shape))
        return self.emit("select", bit.handle, one.handle)

    def invert(self, bit: Secret) -> Secret:
        """Return the other truth value."""
        if not bit.bit:
            other = self.add(self.neg(bit), derive("one", np.ones(()), ()))
            assert isinstance(other, Secret)
            return replace(other, truth=True)
        return self.emit("bit_not", bit.handle)

    def select(self, bit: Secret, other: Value, chosen: Value) -> Value:
        """Return ``chosen`` where ``bit`` (or a truth value) is set, else ``other``."""
        if not bit.bit:
            return self.add(self.mul(bit, self.sub(chosen, other)), other)
        difference = self.share(self.sub(chosen, other))
        difference = self.broadcast(difference, bit.shape)
        return self.add(self.emit("select", bit.handle, difference.handle), other)

    @staticmethod
    def _known(name: str, function: Callable[[Array, Array], Array], x: Known, y: Known) -> Known:
        shape = np.broadcast_shapes(x.shape, y.shape)
        return derive(name, np.asarray(function(x.array, y.array)), shape, x, y)


_MOVES = frozenset({"reshape", "broadcast", "transpose", "slice", "shift_left"})
_KEEPS_SIGN = frozenset({"sum", "reshape", "broadcast", "transpose", "slice", "window_sum", "add"})
_POSITIVE = frozenset({"abs", "exp", "relu", "rsqrt", "sigmoid", "softmax", "softplus", "sqrt"})


def _positive(builder: Builder, handle: int) -> bool:
    """Return whether a handle is positive but for rounding, by its last few instructions."""
    if handle < 0:
        return False
    made = builder.instruction(handle)
    if made.op == "add_const":
        value = made.attrs["value"]
        return isinstance(value, int) and value >= 0 and _positive(builder, made.args[0])
    if made.op in _KEEPS_SIGN:
        return all(_positive(builder, a) for a in made.args)
    return made.op in _POSITIVE


#: Masks add a number such as -1e9 in front of a softmax: this is far enough below.
_MASKED = -(2.0**13)


def _unmasked(value: Known) -> Known:
    # Of a stored array only what no weight can be is taken for a mask.
    low = np.isneginf(value.array) if value.taint is Taint.MODEL else value.array < -1e8
    if not low.any():
        return value
    array = np.where(low, _MASKED, value.array)
    return Known(array, value.shape, value.taint, f"mask {value.key}", value.origin)


def _trim(value: Known) -> Known:
    """Drop leading extents of 1, which broadcasting restores: a bias keeps its own shape."""
    shape = value.array.shape
    while shape and shape[0] == 1:
        shape = shape[1:]
    if shape == value.array.shape:
        return value
    return Known(value.array.reshape(shape), shape, value.taint, value.key, value.origin)
