"""Types of the values in a program: shape with a symbolic batch axis, scale and form.

A dimension is an ``int``: ``d >= 0`` is a constant extent, ``-c`` (c > 0) means ``c`` times the
batch size, so that ``(-1, 28, 28, 1)`` is a batch of images and ``(-6, 32)`` six rows an example.
The same code stands for extents among attributes (the target of a reshape, the limit of a slice).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

Shape: TypeAlias = tuple[int, ...]


class Form(StrEnum):
    """How a value is held by the three workers.

    * ``SHARE``: replicated sharing; a summand pair at every worker.
    * ``PARTIAL``: one additive summand a worker, as a product leaves it before its resend. Only
      linear operations, ``truncate``, ``relu``, ``negative`` and ``reshare`` take it.
    * ``BIT``: a boolean sharing, bit-sliced.
    * ``RECTIFIED``: a share and the bit that says where it is positive, as ``rectify`` leaves them;
      ``rectified`` and ``active`` take them apart.
    * ``PUBLIC``: known to all workers.
    """

    SHARE = "share"
    PARTIAL = "partial"
    BIT = "bit"
    RECTIFIED = "rectified"
    PUBLIC = "public"


class Type(msgspec.Struct, frozen=True):
    """Shape, number of fractional bits and form of a value."""

    shape: Shape
    scale: int
    form: Form = Form.SHARE

    def __str__(self) -> str:
        """Readable form, such as ``share<B x 28 x 28 x 1, f16>``."""
        dims = " x ".join(format_dim(d) for d in self.shape) or "scalar"
        return f"{self.form}<{dims}, f{self.scale}>"


def format_dim(dim: int) -> str:
    """Return ``28``, ``B`` or ``6B``."""
    if dim >= 0:
        return str(dim)
    return "B" if dim == -1 else f"{-dim}B"


def bind_dim(dim: int, batch: int) -> int:
    """Return the extent of ``dim`` for a batch of ``batch`` rows."""
    return dim if dim >= 0 else -dim * batch


def bind_shape(shape: Shape, batch: int) -> Shape:
    """Return ``shape`` with its batch multiples replaced by extents."""
    return tuple(bind_dim(d, batch) for d in shape)
