"""What the rules of the operation table check with, and the limits of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from tercet.errors import ProgramError
from tercet.program.program import Attribute
from tercet.program.types import Form, Shape, Type

Attributes: TypeAlias = Mapping[str, Attribute]
Rule: TypeAlias = Callable[[Sequence[Type], Attributes], Type]

#: Largest number of fractional bits of a product; |x| < 2^(62 - scale) must hold at a truncation.
MAX_SCALE = 48
#: Most fractional bits of what is multiplied by public numbers before its truncation.
MAX_PENDING = 58
#: Bits of the ring that a truncation or a comparison may use: |x| < 2^62.
RANGE_BITS = 62
MAX_RANK = 8
#: Elements of one value, a row of the batch: bounds what a program can make a worker allocate.
MAX_ELEMENTS = 1 << 27
#: Largest stride, dilation, padding or number of groups of a convolution.
MAX_STEP = 1 << 16
#: Most elements of a pooling window: they are visited one by one.
MAX_WINDOW = 1 << 14


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


def require(condition: bool, message: str) -> None:
    """Raise ``message`` unless ``condition`` holds."""
    if not condition:
        raise ProgramError(message, "The program is malformed: trace the model again")


def integers(attrs: Attributes, name: str) -> tuple[int, ...]:
    """Return an attribute of several integers."""
    return cast("tuple[int, ...]", attrs[name])


def integer(attrs: Attributes, name: str) -> int:
    """Return an attribute of one integer."""
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
    require(
        all(x == y or 1 in (x, y) for x, y in zip(left, right, strict=True)),
        f"shapes {a} and {b} do not broadcast",
    )
    return tuple(y if x == 1 else x for x, y in zip(left, right, strict=True))


def distinct_axes(attrs: Attributes, rank: int, name: str = "axes") -> tuple[int, ...]:
    """Return an attribute of distinct axes."""
    axes = integers(attrs, name)
    require(
        len(set(axes)) == len(axes) and all(0 <= a < rank for a in axes),
        f"{name} {axes} are not distinct axes of rank {rank}",
    )
    return axes


def no_bits(types: Sequence[Type]) -> None:
    """Require numbers."""
    require(
        all(t.form not in (Form.BIT, Form.RECTIFIED) for t in types),
        "a bit where a number is expected",
    )


def join(types: Sequence[Type]) -> Form:
    """Return the form of what is made of several."""
    forms = {t.form for t in types}
    for form in (Form.BIT, Form.PARTIAL, Form.SHARE):
        if form in forms:
            return form
    return Form.PUBLIC


def widest_window(low: int) -> int:
    """Return the most bits of a comparison from bit ``low`` on: up to bit 62, at most 62."""
    return min(RANGE_BITS, RANGE_BITS + 1 - low)


def check_bits(attrs: Attributes, low: int = 0) -> None:
    """Check the width of a comparison from bit ``low`` on."""
    bits = integer(attrs, "bits")
    require(8 <= bits <= widest_window(low), f"comparison on {bits} bits from bit {low}")


def shares(types: Sequence[Type]) -> None:
    """Require shares."""
    require(all(t.form is Form.SHARE for t in types), "an argument that is not a share")
