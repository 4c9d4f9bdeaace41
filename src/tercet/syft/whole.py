"""Whole numbers and shapes as other languages send them: R's 3 arrives as 3.0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from tercet.errors import InputError


def whole(value: Any, what: str) -> int:
    """Return a whole number of at least 1, given as an integer or a whole float.

    Raises:
        InputError: for anything else; names ``what``.
    """
    # A bool is an int to Python, but nobody means True when they ask for one request.
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if number >= 1 and number.is_integer():
            return int(number)
    raise InputError(f"{what} is {value!r}", "Give a whole number of at least 1")


def check_shape(given: Any, actual: Sequence[int], what: str) -> None:
    """Check a shape that a caller expects against the model's, whose first extent is the rows.

    Args:
        given: a list, tuple or vector of extents; the first may be any number of rows, ``None``
            or -1.
        actual: the model's shape.
        what: for the message.

    Raises:
        InputError: if they differ.
    """
    wanted = "(rows, " + ", ".join(map(str, actual[1:])) + ")"
    wrong = InputError(
        f"the {what} shape is {given!r}, but the model's is {wanted}",
        "Give the model's shape; any number of rows, or None, may stand first",
    )
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise wrong
    extents = list(given)
    if len(extents) != len(actual):
        raise wrong
    if extents[0] is not None and extents[0] != -1:
        whole(extents[0], f"the first extent of the {what} shape")
    if [whole(e, f"an extent of the {what} shape") for e in extents[1:]] != list(actual[1:]):
        raise wrong
