"""What a row of the ATen table is, and how images pass through it.

PyTorch has channels in front of space (N, C, ...), the language of Tercet behind. A convolution
leaves an ``Image``, whose array is channels-last, and what works on each element passes it on as
one; only what must see the axes as PyTorch has them gets a transposed copy. So a chain of
convolution, normalisation, activation and pooling becomes the very program that the same Keras
model becomes, and every pass applies to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from tercet.frontend.foreign import Foreign

#: A value of the ATen graph: an array, an image, a number, a list of them, ``None``.
Item: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class Image:
    """A value that PyTorch sees as (N, C, ...): ``array`` has shape (N, ..., C)."""

    array: Foreign

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape that PyTorch sees."""
        rows, *space, channels = self.array.shape
        return (rows, channels, *space)

    @property
    def dtype(self) -> Foreign:
        """Return the dtype of the numbers."""
        return self.array.dtype


class Layout(Enum):
    """How an operation takes images."""

    PLAIN = "plain"  # as arrays, in PyTorch's order of axes
    ELEMENTS = "elements"  # element by element: in any order that is the same for all operands
    IMAGE = "image"  # the rule tells arrays and images apart by itself


@dataclass(frozen=True)
class Operation:
    """One row: a function of JAX with the signature of the ATen operation, and its layout."""

    function: Callable[..., Item]
    layout: Layout = Layout.PLAIN

    def __call__(self, args: Sequence[Item], options: Mapping[str, Item]) -> Item:
        """Apply the operation."""
        if self.layout is Layout.IMAGE:
            return self.function(*args, **options)
        if self.layout is Layout.ELEMENTS:
            rank = max((len(a.shape) for a in args if isinstance(a, Image)), default=0)
            widest = max((len(a.shape) for a in args if hasattr(a, "shape")), default=0)
            if rank and rank == widest:
                return _image(self.function(*(_last(a, rank) for a in args), **options))
        return self.function(*map(plain, args), **{k: plain(v) for k, v in options.items()})


class Refused(Exception):
    """An operation in a form that has no rule; the text goes on after its name."""


def elements(function: Callable[..., Item]) -> Operation:
    """Return a row for what works on each element."""
    return Operation(function, Layout.ELEMENTS)


def images(function: Callable[..., Item]) -> Operation:
    """Return a row for what takes images."""
    return Operation(function, Layout.IMAGE)


def plain(value: Item) -> Item:
    """Return ``value`` with all images in PyTorch's order of axes."""
    import jax.numpy as jnp

    if isinstance(value, Image):
        return jnp.moveaxis(value.array, -1, 1)
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    return value


def channels_last(value: Item, rank: int) -> Foreign:
    """Return the array of an image of ``rank`` axes, channels last."""
    import jax.numpy as jnp

    if isinstance(value, Image):
        return value.array
    padded = jnp.reshape(value, (1,) * (rank - value.ndim) + value.shape)
    return jnp.moveaxis(padded, 1, -1)


def _last(value: Item, rank: int) -> Item:
    if isinstance(value, Image) or (hasattr(value, "ndim") and value.ndim):
        return channels_last(value, rank)
    return value


def _image(value: Item) -> Item:
    return tuple(map(Image, value)) if isinstance(value, tuple) else Image(value)
