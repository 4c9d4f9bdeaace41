"""Lowering a training step: values keep their fractional bits until somebody needs fewer.

The lowering of a prediction truncates every product at once and leaves it to passes to move the
truncations. A step has gradients, whose small numbers a truncation would cost, and weights with
more fractional bits than activations. So here a product stays as it is, a bias, a sum or a factor
is applied to it at its scale, and whatever takes plain shares (another product, a comparison, a
function) has it rounded first, once for all who need it. Roundings are unbiased (``round``), since
gradients are sums of many of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from tercet.frontend.graph import Graph, Var
from tercet.frontend.lowering import RELATIVE_BITS, Lowering
from tercet.frontend.origins import Origins
from tercet.frontend.scales import (
    COMPARED_SCALE,
    FINE_SCALE,
    GRADIENT_SCALE,
    NARROW_SCALE,
    PRODUCT_SCALE,
    ROOT_SCALE,
    STATE_SCALE,
    VALUE_SCALE,
    WEIGHTED_SCALE,
)
from tercet.frontend.values import Known, Secret, Value, public
from tercet.program.checks import MAX_PENDING, RANGE_BITS, widest_window
from tercet.program.program import Attribute, Role
from tercet.program.training import StepInput
from tercet.program.types import Form

#: Comparisons and functions take values below 2^14, as inputs and weights are.
WINDOW = 31
_WIDE_WINDOW = 48
#: Bits of a value below 2^14 before the point, and its sign.
_WHOLE_BITS = 15
_FINE = frozenset({"softmax", "log_softmax", "sigmoid"})
#: Differences of values below 2^14, and twice that: what is multiplied by a number of the step.
_VALUE_BITS = 16
_LINEAR = frozenset(
    {
        "reshape", "transpose", "broadcast", "slice", "pad", "reverse", "neg", "sum", "window_sum",
        "cumsum", "shift_left", "scale", "add_const", "round", "gate", "rectify", "negative",
        "rectified", "active", "bit_not", "bit_and", "reshare",
    }
)  # fmt: skip
_PRODUCTS = frozenset({"mul", "matmul", "conv", "conv_input", "conv_kernel"})
_ALIGNED = frozenset({"add", "sub", "concat"})


@dataclass
class StepLowering(Lowering):
    """Lowers the values of a step; see the module."""

    step_inputs: list[StepInput] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rounded: dict[tuple[int, int], Secret] = {}
        # Base-2 logarithms of the largest magnitude of each number that a step brings.
        self._magnitudes: dict[int, int] = {}
        self._zero: Secret | None = None
        self.origins = Origins(self.builder)

    # --- scales -----------------------------------------------------------------------------

    def scale_of(self, x: Secret) -> int:
        """Return the fractional bits of ``x``."""
        return self.builder.type_of(x.handle).scale

    def form_of(self, x: Secret) -> Form:
        """Return the form of ``x``."""
        return self.builder.type_of(x.handle).form

    def wrap(self, handle: int) -> Secret:
        """Return the value of a handle."""
        kind = self.builder.type_of(handle)
        return Secret(handle, kind.shape, kind.form is Form.BIT)

    def to_scale(self, x: Secret, scale: int) -> Secret:
        """Return ``x`` as a share with ``scale`` fractional bits, rounded if it has more."""
        key = (x.handle, scale)
        if key not in self._rounded:
            self._rounded[key] = self._to_scale(x, scale)
        return self._rounded[key]

    def _to_scale(self, x: Secret, scale: int) -> Secret:
        excess = self.scale_of(x) - scale
        if x.handle >= 0 and self.builder.instruction(x.handle).op == "broadcast":
            made = self.builder.instruction(x.handle)
            source = self.to_scale(self.wrap(made.args[0]), scale)
            return self.broadcast(source, x.shape)
        if excess > 0:
            return self.emit("round", x.handle, shift=excess)
        if excess < 0:
            x = self.emit("shift_left", x.handle, bits=-excess)
        if self.form_of(x) is Form.PARTIAL:
            x = self.emit("reshare", x.handle)
        return x

    def relabel(self, x: Secret, bits: int) -> Secret:
        """Return ``x`` times 2^-bits, exact and free."""
        if bits < 0:
            return self.emit("scale", x.handle, multiplier=1 << -bits, bits=0)
        if self.scale_of(x) + bits > MAX_PENDING:
            x = self.to_scale(x, self.scale)
        return self.emit("scale", x.handle, multiplier=1, bits=bits) if bits else x

    def settle(self, x: Secret) -> Secret:
        """Return ``x`` as a share at the program's scale."""
        if x.bit or self.form_of(x) is Form.PUBLIC:
            return x
        return self.to_scale(x, self.scale)

    def _natural_scale(self, x: Secret, beside: Secret | None = None) -> int:
        """Return the bits that ``x`` is rounded to, for a product with the secret ``beside``."""
        plain = beside is not None and not self.origins.is_weight(beside.handle)
        if self.origins.is_weight(x.handle):
            return STATE_SCALE if plain or beside is None else self.scale
        if plain or self.origins.is_cotangent(x.handle):
            return self.scale
        return VALUE_SCALE

    # --- instructions -----------------------------------------------------------------------

    def emit(self, op: str, *args: int, **attrs: Attribute) -> Secret:
        """Append an instruction, its arguments brought into the form that it takes."""
        if op == "select":
            bit, x = args
            return self._gate(bit, self.wrap(x))
        if op in _PRODUCTS:
            args = self._factors(args)
        elif op in _ALIGNED:
            args = self._aligned(args)
        elif op == "rsqrt":
            args = (self._variance(self.wrap(args[0])).handle,)
            attrs["bits"] = _WIDE_WINDOW
        elif op in _FINE and self.scale_of(self.wrap(args[0])) >= FINE_SCALE:
            args = (self.to_scale(self.wrap(args[0]), FINE_SCALE).handle,)
            attrs["bits"] = WINDOW + FINE_SCALE - self.scale
        elif op not in _LINEAR:
            args = tuple(self.settle(self.wrap(a)).handle for a in args)
            bits = attrs.get("bits")
            if isinstance(bits, int):
                attrs["bits"] = min(bits, WINDOW)
        return super().emit(op, *args, **attrs)

    def _gate(self, bit: int, x: Secret) -> Secret:
        if self.form_of(x) is Form.PUBLIC:
            x = self.add_zero(x)
        gated = self.origins.is_cotangent(bit) or self.origins.is_cotangent(x.handle)
        scale = self.scale if gated else VALUE_SCALE
        return super().emit("gate", bit, x.handle, shift=max(self.scale_of(x) - scale, 0))

    def _variance(self, x: Secret) -> Secret:
        """Return ``x`` with many fractional bits, if it has them: a variance may be small."""
        scale = self.scale_of(x)
        return self.to_scale(x, ROOT_SCALE if scale > NARROW_SCALE else self.scale)

    def _factors(self, args: Sequence[int]) -> tuple[int, ...]:
        values = [self.wrap(a) for a in args]
        secrets = [self.form_of(v) is not Form.PUBLIC for v in values]
        others = values[::-1] if all(secrets) else [None, None]
        natural = [self._natural_scale(v, o) for v, o in zip(values, others, strict=True)]
        if all(secrets):
            values = [
                self.to_scale(v, n) if self.form_of(v) is Form.PARTIAL else v
                for v, n in zip(values, natural, strict=True)
            ]
        # A number of the step may be large: beside it, a value below 2^16 must have room.
        room = [RANGE_BITS - _VALUE_BITS - self._magnitudes.get(v.handle, 0) for v in values]
        known = any(v.handle in self._magnitudes for v in values)
        limit = self._limit(values) if all(secrets) else min(room) if known else MAX_PENDING
        while (total := sum(map(self.scale_of, values))) > limit:
            first = max(range(2), key=lambda n: (secrets[n], self.scale_of(values[n])))
            scale = max(self.scale, self.scale_of(values[first]) - (total - limit))
            lower = self.to_scale(values[first], scale if known else natural[first])
            if lower.handle == values[first].handle:
                raise self.unsupported("a product", "of too many fractional bits")
            values[first] = lower
        return tuple(v.handle for v in values)

    def _limit(self, values: Sequence[Secret]) -> int:
        """Return the most fractional bits of a product of two secrets."""
        weights = sum(self.origins.is_weight(v.handle) for v in values)
        if weights == 1:
            return WEIGHTED_SCALE
        known = any(self.origins.is_cotangent(v.handle) for v in values)
        return GRADIENT_SCALE if known else PRODUCT_SCALE

    def _aligned(self, args: Sequence[int]) -> tuple[int, ...]:
        values = [self.wrap(a) for a in args]
        scale = max(map(self.scale_of, values))
        if scale > WEIGHTED_SCALE and any(self.scale_of(v) < scale for v in values):
            values = [
                self.to_scale(v, min(self.scale_of(v), self._natural_scale(v))) for v in values
            ]
            scale = max(map(self.scale_of, values))
        values = [self._lifted(v, scale - self.scale_of(v)) for v in values]
        return tuple(v.handle for v in values)

    def _lifted(self, x: Secret, bits: int) -> Secret:
        return super().emit("shift_left", x.handle, bits=bits) if bits else x

    def truncate(self, x: Secret, shift: int) -> Secret:
        """Leave ``x`` as it is: whoever needs it rounded has it rounded."""
        return x

    # --- public numbers ---------------------------------------------------------------------

    def step_input(self, derivation: StepInput, shape: tuple[int, ...], scale: int) -> Secret:
        """Return a public number of the step."""
        self.step_inputs.append(derivation)
        handle = self.builder.input(derivation.name, Role.STEP, shape, scale)
        largest = max(map(abs, derivation.values), default=1.0 / (derivation.keep or 1.0))
        self._magnitudes[handle] = max(0, math.frexp(largest)[1])
        return self.wrap(handle)

    def add_zero(self, x: Secret) -> Secret:
        """Return a public value as a share."""
        zero = self._zeros(len(x.shape))
        return self.emit("add", zero.handle, x.handle)

    def share(self, value: Value) -> Secret:
        """Return ``value`` as a share of its whole shape."""
        if isinstance(value, Secret):
            return value
        zero = self.broadcast(self._zeros(len(value.shape)), value.shape)
        shared = self.add(zero, value)
        assert isinstance(shared, Secret)
        return shared

    def _zeros(self, rank: int) -> Secret:
        """Return a shared zero of extents 1: the language has no other shares of constants."""
        if self._zero is None:
            flat = self.reshape(self.wrap(-1), (math.prod(self.wrap(-1).shape),))
            one = self.emit("slice", flat.handle, start=(0,), limit=(1,), stride=(1,))
            zero = self.emit("scale", one.handle, multiplier=0, bits=0)
            self._zero = zero
        return self.reshape(self._zero, (1,) * rank)

    def register(self, value: Known, *, secret: bool = False, scale: int | None = None) -> int:
        """Return the input that holds a public array."""
        assert not secret
        return super().register(value, scale=scale)

    # --- arithmetic -------------------------------------------------------------------------

    def add(self, x: Value, y: Value) -> Value:
        """Return x + y at the larger scale."""
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(x, Known) or isinstance(y, Secret):
            return super().add(x, y)
        if y.scalar:
            value = self.fixed(y.number, self.scale_of(x))
            return self.emit("add_const", x.handle, value=value) if value else x
        return self.emit("add", x.handle, self.register(y, scale=self.scale_of(x)))

    def add_small(self, x: Secret, y: Secret) -> Secret:
        """Return x + y, which stay below 2^(62 - scale): updates do at any scale there is."""
        scale = max(self.scale_of(x), self.scale_of(y))
        a, b = (self._lifted(v, scale - self.scale_of(v)) for v in (x, y))
        return self.emit("add", a.handle, b.handle)

    def sub(self, x: Value, y: Value) -> Value:
        """Return x - y at the larger scale."""
        if isinstance(y, Known):
            return self.add(x, self.neg(y))
        return super().sub(x, y)

    def mul(self, x: Value, y: Value) -> Value:
        """Return x * y."""
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(x, Secret) and isinstance(y, Secret):
            return self.emit("mul", x.handle, y.handle)
        return super().mul(x, y)

    def times(self, x: Secret, factor: float, relative: int = RELATIVE_BITS) -> Secret:
        """Return ``x`` times a public number, exact to 2^-relative of it."""
        if factor in (1.0, -1.0):
            return super().times(x, factor)
        if factor == 0.0 or not math.isfinite(factor):
            return self.emit("scale", x.handle, multiplier=self.fixed(factor, 0), bits=0)
        multiplier, bits = approximate(factor, relative)
        if self.scale_of(x) + bits > (MAX_PENDING if relative < RELATIVE_BITS else WEIGHTED_SCALE):
            x = self.to_scale(x, min(self.scale_of(x), self._natural_scale(x)))
        return self.emit("scale", x.handle, multiplier=multiplier, bits=bits)

    def negative(self, x: Value) -> Secret:
        """Return the bit x < 0; that of an exact 0 is 0."""
        assert isinstance(x, Secret)
        low, bits = self._compared(x)
        # A truncation is up to one unit too low.
        raised = self.emit("add_const", x.handle, value=1 << low) if low else x
        return self.emit("negative", raised.handle, shift=low, bits=bits)

    def rectify(self, x: Secret) -> tuple[Secret, Secret]:
        """Return max(x, 0), to ``VALUE_SCALE`` bits, and the bit x > 0, from ``COMPARED_SCALE``.

        One unit of the product is taken off before, so that the bit of an exact 0 is 0: that is
        the gradient of every framework, and a patch of background with a bias of 0 has it.
        """
        low, bits = self._compared(x)
        shift = max(self.scale_of(x) - VALUE_SCALE, 0)
        below = self.emit("add_const", x.handle, value=-1)
        both = self.emit("rectify", below.handle, shift=shift, low=low, bits=bits)
        return self.emit("rectified", both.handle), self.emit("active", both.handle)

    def _compared(self, x: Secret) -> tuple[int, int]:
        """Return the lowest bit and the number of bits that tell the sign of ``x``."""
        scale = self.scale_of(x)
        low = max(scale - COMPARED_SCALE, 0)
        return low, min(_WHOLE_BITS + scale - low, widest_window(low))


def approximate(factor: float, relative: int) -> tuple[int, int]:
    """Return (multiplier, bits): multiplier / 2^bits is ``factor`` but for 2^-relative of it."""
    exact, bits = Fraction(factor), 0
    while bits < RANGE_BITS - WINDOW + 1 and (
        abs(round(exact * 2**bits) - exact * 2**bits) * 2**relative > abs(exact) * 2**bits
    ):
        bits += 1
    return round(exact * 2**bits), bits


def lower_graph(low: StepLowering, graph: Graph, arguments: Sequence[Value]) -> list[Value]:
    """Lower every node of ``graph`` on ``arguments`` and return its results."""
    from tercet.frontend.jax import apply
    from tercet.frontend.rules import RULES
    from tercet.frontend.rules.step import STEP_RULES

    scope: dict[int, Value] = {v.number: a for v, a in zip(graph.arguments, arguments, strict=True)}
    scope.update({v.number: public(np.asarray(c)) for v, c in graph.constants})
    own = STEP_RULES.keys() - RULES.keys()  # what JAX cannot evaluate, whatever is known
    for given in graph.nodes:
        node = replace(given, primitive=None) if given.name in own else given
        args = [scope[i.number] if isinstance(i, Var) else public(i.value) for i in node.inputs]
        results = apply(low, node, args, STEP_RULES)
        scope.update({o.number: r for o, r in zip(node.outputs, results, strict=True)})
    return [scope[r.number] if isinstance(r, Var) else public(r.value) for r in graph.results]
