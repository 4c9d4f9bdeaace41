"""Fused local steps of the replicated protocol, each a single pass of the extension.

Each docstring gives the formula; ``oracle`` has the same in plain Python. As in ``kernels``, an
array of another dtype than ``uint64`` raises ``TypeError``; shapes that do not fit, ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tercet.ring import _native
from tercet.ring.kernels import Words, words_array

_NONE = np.empty(0, np.uint64)


def truncate_lend(
    u: Words, shift: int, plane: Words | None, masks: Words, low_masks: Words
) -> tuple[Words, Words]:
    """What worker 0 lends in a truncation, less the masks.

    With u' = u + 2**62 and a its top bit, U = (u' >> shift) - 2**(64 - shift) a - 2**(62 - shift);
    without a shift, U = u. t is 0 or 1.

    Args:
        u: shape (n,).
        shift: 0 to 62.
        plane: the bits t as a plane, shape (ceil(n / 64),), if t U is wanted.
        masks: shape (rows, n). Rows: U, t U, t; U alone without a plane; t U and t alone, without a
            shift only.
        low_masks: `shift` bits for each of n elements, and again n with a plane: packed as by
            `pack_bits`, in ceil(bits / 64) words.

    Returns:
        U, t U and t less `masks`, of the same shape; a, and t a with a plane, less the values that
        `low_masks` holds, packed like them with zeros in the unused bits.

    Raises:
        ValueError: if the shapes do not fit.
    """
    masks, low_masks = words_array(masks, "masks"), words_array(low_masks, "low_masks")
    lent, low = np.empty_like(masks), np.empty_like(low_masks)
    bits = _NONE if plane is None else words_array(plane, "plane")
    _native.truncate_lend(words_array(u, "u"), shift, bits, masks, low_masks, lent, low)
    return lent, low


class Applied(NamedTuple):
    """What `truncate_apply` computes.

    `message` is masked and goes to worker 0: n words of r y with a plane, then a b in `shift` bits
    an element. The others are summands of workers 1 and 2, `multiple_third` that of r y, empty
    without a plane; the returned and the third one of y: `copy` and v without a shift.
    """

    message: Words
    multiple_third: Words
    value: Words
    third: Words


def truncate_apply(
    v: Words,
    shift: int,
    plane: Words | None,
    copy: Words,
    lent: Words,
    low: Words,
    mask: Words,
    other_mask: Words,
) -> Applied:
    """What worker 1 or 2 computes from its copies of what worker 0 lent.

    With b the top bit of v, V = (v >> shift) - 2**(64 - shift) b; without a shift, V = v. q is 0 or
    1. The returned summand of r y is a copy of

        tU (1 - 2q) + q U + t V (1 - 2q) + 2**(64 - shift) (t a . b (1 - 2q) + a . q b)

    plus `mask`, the third one q V less both masks; the returned summand of y is a copy of U +
    2**(64 - shift) a b plus the mask, the third one V less both masks.

    Args:
        v: shape (n,).
        shift: 0 to 62.
        plane: the bits q as a plane, shape (ceil(n / 64),), if r y is wanted.
        copy: of U, shape (n,).
        lent: copies of what `truncate_lend` returns.
        low: likewise.
        mask: this worker's mask, shaped like `Applied.message`, bits of a packed value included.
        other_mask: that of the other one of workers 1 and 2.

    Raises:
        ValueError: if the shapes do not fit.
    """
    v, copy, mask = words_array(v, "v"), words_array(copy, "copy"), words_array(mask, "mask")
    message = np.empty_like(mask)
    # One array for three: NumPy asks for huge pages for the largest arrays only.
    multiple_third, value, third = np.empty((3, v.size), np.uint64)
    if plane is None:
        multiple_third = _NONE
    if not shift:
        value = third = _NONE
    _native.truncate_apply(
        v,
        shift,
        _NONE if plane is None else words_array(plane, "plane"),
        copy,
        words_array(lent, "lent"),
        words_array(low, "low"),
        mask,
        words_array(other_mask, "other_mask"),
        message,
        multiple_third,
        value,
        third,
    )
    if not shift:
        value, third = copy, v
    return Applied(message, multiple_third, value, third)


def add_carries(x: Words, low: Words, shift: int) -> Words:
    """Returns x + 2**(64 - shift) c.

    Args:
        x: shape (n,).
        low: c in `shift` bits an element, packed in ceil(n * shift / 64) words.
        shift: 1 to 62.

    Raises:
        ValueError: if the shapes do not fit.
    """
    x = words_array(x, "x")
    out = np.empty_like(x)
    _native.add_carries(x, words_array(low, "low"), shift, out)
    return out


def choose(plane: Words, x: Words, multiple: Words) -> Words:
    """Returns `multiple` where the bit of the plane is one, x - `multiple` where it is zero.

    Args:
        plane: shape (ceil(n / 64),).
        x: shape (n,).
        multiple: shape (n,).

    Raises:
        ValueError: if the shapes do not fit.
    """
    x = words_array(x, "x")
    out = np.empty_like(x)
    _native.choose(words_array(plane, "plane"), x, words_array(multiple, "multiple"), out)
    return out


def lend_leaves(planes: Words, leaves: Sequence[tuple[int, int]], masks: Words) -> Words:
    """The monomials of leaves of a carry tree, masked.

    Args:
        planes: shape (bits or more, width).
        leaves: pairs of a size, 1 to 7, and a number of leaves of that size, from bit 0 up.
        masks: shape (M, width). For each pair, for each non-empty subset of `range(size)`, smaller
            ones first and then in lexicographic order, a row for each leaf.

    Returns:
        For each row the AND of the subset's bits of the leaf, xor the mask.

    Raises:
        ValueError: if the shapes do not fit.
    """
    masks = words_array(masks, "masks")
    out = np.empty_like(masks)
    _native.lend_leaves(words_array(planes, "planes"), list(leaves), masks, out)
    return out


def answer_leaves(
    planes: Words, leaves: Sequence[tuple[int, int]], lent: Words, mask: Words, other_mask: Words
) -> tuple[Words, Words]:
    """What worker 1 or 2 computes from its copies u_S of the monomials of a carry tree's leaves.

    For a leaf with bits v_j, with i = min S:

        P = XOR_S u_S v_{not S},   G = XOR_S u_S v_i AND_{j > i, j not in S} v_j

    Args:
        planes: shape (bits or more, width).
        leaves: as for `lend_leaves`.
        lent: copies of what `lend_leaves` returns.
        mask: this worker's mask, shape (2 * number of leaves - 1, width): a row for G of each leaf,
            then for P of each but the lowest.
        other_mask: that of the other one of workers 1 and 2.

    Returns:
        The rows G and P xor `mask`; the third summands: both masks, xor the AND of all v_j for P.

    Raises:
        ValueError: if the shapes do not fit.
    """
    mask = words_array(mask, "mask")
    answer, third = np.empty_like(mask), np.empty_like(mask)
    _native.answer_leaves(
        words_array(planes, "planes"),
        list(leaves),
        words_array(lent, "lent"),
        mask,
        words_array(other_mask, "other_mask"),
        answer,
        third,
    )
    return answer, third
