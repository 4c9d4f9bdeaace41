"""Truncations move below the linear operations that follow them.

A truncation costs two rounds and 14 bytes an element. Below an addition of two products it is
needed once instead of twice; below a pooling it touches a quarter of the elements; below the
scale of an average pool it joins that one's truncation; and right above a ReLU it disappears into
it (``fuse_relu``).

The pass goes forward once and keeps some values *deferred*: computed without their last
truncation, which is due later. What is added to a deferred value is lifted to its scale: a weight
or public array is declared again with more fractional bits, anything else shifted left.

Range: a value before its truncation must stay below 2^62. The stated assumption is that every
value that the model computes is below ``RANGE_LOG2`` bits in real terms, |x| < 2^14. Hence a
scale of up to ``MAX_SCALE`` = 62 - 14 bits fits, and a sum of n values sinks if
scale + 14 + log2 n <= 62; otherwise the truncation stays above it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from tercet.program.checks import MAX_SCALE, RANGE_BITS, multiply_extents
from tercet.program.functions import MAX_RSQRT_SCALE
from tercet.program.passes.rewrite import Array, Arrays, Rewrite, count_uses
from tercet.program.program import Instruction, Program, Role
from tercet.program.types import Form
from tercet.ring.fixed import RANGE_LOG2


def sink_truncations(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with truncations as late as pays; results differ by rounding only."""
    return _Sinker(program, arrays).run()


@dataclass
class _Deferred:
    """A value before its truncation: its handle, the shift that is due and the layer that owes it.

    ``early`` makes the truncated value by another way, with the truncation further up where the
    values are fewer.
    """

    handle: int
    shift: int
    source: str
    early: Callable[[], int] | None = None


class _Sinker:
    def __init__(self, program: Program, arrays: Arrays) -> None:
        self.rewrite = Rewrite(program, arrays)
        self.deferred: dict[int, _Deferred] = {}
        self.uses = count_uses(program)
        self.outputs = set(program.outputs)

    def run(self) -> tuple[Program, dict[str, Array]]:
        for number, instruction in self.rewrite.numbered():
            result = self._lower(instruction)
            if isinstance(result, _Deferred):
                self.deferred[number] = result
                if self.uses[number] != 1 or number in self.outputs:
                    self.settled(number)
            else:
                self.rewrite.values[number] = result
        return self.rewrite.finish()

    # --- deferred values --------------------------------------------------------------------

    def settled(self, number: int) -> int:
        """Return the handle of the value, truncated where that is cheapest."""
        if number not in self.rewrite.values:
            value = self.deferred[number]
            self.rewrite.values[number] = value.early() if value.early else self.truncated(value)
        return self.rewrite.values[number]

    def truncated(self, value: _Deferred) -> int:
        """Return the handle of the value, truncated where it stands."""
        return self.rewrite.emit(value.source, "truncate", value.handle, shift=value.shift)

    def pending(self, number: int) -> _Deferred | None:
        """Return the deferred form of a value that has not been settled."""
        return None if number in self.rewrite.values else self.deferred[number]

    def plain(self, instruction: Instruction) -> int:
        """Emit ``instruction`` on settled arguments."""
        return self.rewrite.again(instruction, *(self.settled(a) for a in instruction.args))

    # --- rules ------------------------------------------------------------------------------

    def _lower(self, instruction: Instruction) -> int | _Deferred:
        if instruction.op == "truncate":
            return self._truncate(instruction)
        waiting = [self.pending(a) for a in instruction.args]
        first = waiting[0] if waiting else None
        if instruction.op in ("relu", "negative") and first is not None:
            # Right above a comparison the truncation costs least, even where values are more.
            return self.rewrite.again(instruction, self.truncated(first))
        if instruction.op == "rsqrt" and first is not None:
            return self._root(instruction, first)
        if instruction.op in ("add", "sub") and any(waiting):
            return self._add(instruction, waiting)
        if instruction.op == "concat" and all(waiting):
            return self._concat(instruction, [w for w in waiting if w is not None])
        if first is not None and self._passes(instruction, first):
            return self._through(instruction, first)
        return self.plain(instruction)

    def _truncate(self, instruction: Instruction) -> _Deferred:
        (arg,), shift = instruction.args, instruction.attrs["shift"]
        assert isinstance(shift, int)
        value = self.pending(arg)
        if value is None:
            return _Deferred(self.rewrite.values[arg], shift, instruction.source)
        return _Deferred(value.handle, value.shift + shift, value.source)

    def _root(self, instruction: Instruction, value: _Deferred) -> int:
        """Give a root the bits that its argument, as a rule a small variance, has still got."""
        kind = self.rewrite.type_of(value.handle)
        shift = max(kind.scale - MAX_RSQRT_SCALE, 0)
        handle = value.handle
        if shift > 0:
            handle = self.rewrite.emit(value.source, "truncate", handle, shift=shift)
        elif kind.form is not Form.SHARE:
            handle = self.rewrite.emit(value.source, "reshare", handle)
        return self.rewrite.again(instruction, handle)

    def _passes(self, instruction: Instruction, value: _Deferred) -> bool:
        """Return whether a truncation may move below the unary ``instruction``."""
        kind, attrs = self.rewrite.type_of(value.handle), instruction.attrs
        if instruction.op in _MOVES:
            return True
        if instruction.op in ("sum", "window_sum"):
            if instruction.op == "sum":
                axes = attrs["axes"]
                assert isinstance(axes, tuple)
                count = prod(kind.shape[a] for a in axes)
            else:
                window = attrs["window"]
                assert isinstance(window, tuple)
                count = prod(window)
            return kind.scale + RANGE_LOG2 + (count - 1).bit_length() <= RANGE_BITS
        if instruction.op in ("scale", "shift_left"):
            bits = attrs["bits"]
            assert isinstance(bits, int)
            return kind.scale + bits <= MAX_SCALE
        if instruction.op == "add_const":
            constant = attrs["value"]
            assert isinstance(constant, int)
            return abs(constant) << value.shift < 1 << RANGE_BITS
        return False

    def _through(self, instruction: Instruction, value: _Deferred) -> _Deferred:
        if instruction.op == "add_const":
            constant = instruction.attrs["value"]
            assert isinstance(constant, int)
            handle = self.rewrite.emit(
                instruction.source, "add_const", value.handle, value=constant << value.shift
            )
        else:
            handle = self.rewrite.again(instruction, value.handle)
        late = self._size(handle) <= self._size(value.handle)
        early = self._early(instruction, [value], late)
        return _Deferred(handle, value.shift, value.source, early)

    def _add(self, instruction: Instruction, waiting: list[_Deferred | None]) -> _Deferred:
        shift = max(w.shift for w in waiting if w is not None)
        lifted = [
            self._lift(self.rewrite.values[a], shift, instruction.source)
            if w is None
            else self._lift(w.handle, shift - w.shift, instruction.source)
            for a, w in zip(instruction.args, waiting, strict=True)
        ]
        handle = self.rewrite.again(instruction, *lifted)
        owing = [w for w in waiting if w is not None]
        above = sum(self._size(w.handle) for w in owing)
        early = self._early(instruction, owing, self._size(handle) <= above)
        return _Deferred(handle, shift, owing[0].source, early)

    def _concat(self, instruction: Instruction, waiting: list[_Deferred]) -> int | _Deferred:
        kinds = [self.rewrite.type_of(w.handle) for w in waiting]
        alike = {(w.shift, k.form, k.scale) for w, k in zip(waiting, kinds, strict=True)}
        if len(alike) != 1:
            return self.plain(instruction)
        handle = self.rewrite.again(instruction, *(w.handle for w in waiting))
        early = self._early(instruction, waiting, True)
        return _Deferred(handle, waiting[0].shift, waiting[0].source, early)

    def _early(
        self, instruction: Instruction, owing: list[_Deferred], late: bool
    ) -> Callable[[], int] | None:
        """Return how to truncate above ``instruction``, unless ``late`` (below it) is as cheap."""
        if late and not any(w.early for w in owing):
            return None
        return lambda: self.plain(instruction)

    def _lift(self, handle: int, bits: int, source: str) -> int:
        """Return the value of ``handle`` with ``bits`` more fractional bits.

        An array that the owner holds is declared again at the higher scale, which keeps more of
        it; it fits there, since all values are below 2^14.
        """
        if bits == 0:
            return handle
        scale, known = self.rewrite.type_of(handle).scale + bits, self.rewrite.declared(handle)
        if known is not None and known[1] is not Role.INPUT:
            name, role = known
            return self.rewrite.declare(f"{name}@{scale}", role, self.rewrite.arrays[name], scale)
        return self.rewrite.emit(source, "shift_left", handle, bits=bits)

    def _size(self, handle: int) -> int:
        """Return the number of elements for a batch of one."""
        return multiply_extents(self.rewrite.type_of(handle).shape)[0]


#: Operations that move elements or change their sign, and so commute with truncation.
_MOVES = frozenset({"reshape", "transpose", "broadcast", "slice", "pad", "reverse", "neg"})
