"""The sign of a truncated split value: a carry tree on bit-sliced shares.

The sign of (u >> s) + (v >> s) on a window of k bits is the xor of the two top bits and of the
carry out of the k - 1 bits below. Leaves of several bits get their generate G and propagate P
directly: with u_S the product of worker 0's bits in S,

    P = XOR_S u_S v_{not S},   G = XOR_S u_S v_i prod_{j > i, j not in S} v_j,  i = min S,

sums of products of something of worker 0 with something of the pair (``lend``, over GF(2)). Above
them stands a binary prefix tree, (G, P) = (G_h xor P_h G_l, P_h P_l), which keeps the carry only.
Rounds: 2 for the leaves, 1 a level; the last level opens its result, hidden by r, or reshares it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from tercet.protocol.base import Words
from tercet.protocol.replicated.groups import Tree, carry_tree
from tercet.protocol.replicated.party import Party
from tercet.protocol.replicated.select import flipped, open_bits
from tercet.protocol.replicated.split import Split
from tercet.protocol.rounds import Round, Steps, words
from tercet.ring import kernels, steps

Pair: TypeAlias = tuple[Words, Words]


class _Top(NamedTuple):
    """What remains of the tree: an AND to be done and what is to be added to it."""

    left: Pair
    right: Pair
    addend: Words


def sign_opened(
    party: Party, split: Split, shift: int, bits: int, plane: Words, at: str
) -> Steps[Words]:
    """Return the opened plane sign xor r, with ``plane`` this worker's half of r."""
    top = yield from _carry(party, split, shift, bits, at)
    summand = _and_summand(party, top.left, top.right) ^ flipped(party, top.addend, plane)
    return (yield from open_bits(party, summand, at))


def sign_shared(party: Party, split: Split, shift: int, bits: int, at: str) -> Steps[Pair]:
    """Return the sign as a boolean sharing."""
    top = yield from _carry(party, split, shift, bits, at)
    summand = _and_summand(party, top.left, top.right) ^ top.addend
    return (yield from _resend(party, summand, "sign", at))


def and_gate(party: Party, x: Pair, y: Pair, label: str, at: str) -> Steps[Pair]:
    """Return x AND y: one round, three bits an element."""
    return (yield from _resend(party, _and_summand(party, x, y), label, at))


def _and_summand(party: Party, x: Pair, y: Pair) -> Words:
    (a, b), (c, d) = x, y
    result: Words = (a & (c ^ d)) ^ (b & c)
    return result


def _resend(party: Party, summand: Words, label: str, at: str) -> Steps[Pair]:
    mine = summand ^ party.zero_bits(label, at, summand.size).reshape(summand.shape)
    received = yield Round(to_prev=[mine], from_next=mine.nbytes)
    return mine, words(received.from_next, *mine.shape)


def _carry(party: Party, split: Split, shift: int, bits: int, at: str) -> Steps[_Top]:
    """Run the tree down to its last AND; the addend carries G_h and the two top bits."""
    tree = carry_tree(bits, split.size)
    if party.index == 0:
        planes = kernels.bit_planes(split.known, shift, bits)
        generate, propagate = yield from _lend_leaves(party, tree, planes, at)
    else:
        width = -(-split.size // 64)
        lent = yield from _take_leaves(party, tree, width, at)
        planes = kernels.bit_planes(split.known, shift, bits)
        generate, propagate = yield from _return_leaves(party, tree, planes, lent, at)
    nodes, level = tree.leaves, 0
    # propagate[j] belongs to node j + 1: the lowest node needs none.
    while nodes > 2:
        nodes //= 2
        high = tuple(p[0::2] for p in propagate)
        left = tuple(np.concatenate((h, h[1:])) for h in high)
        right = tuple(
            np.concatenate((g[0::2], p[1::2])) for g, p in zip(generate, propagate, strict=True)
        )
        product = yield from and_gate(
            party, (left[0], left[1]), (right[0], right[1]), f"level {level}", at
        )
        generate = (
            generate[0][1::2] ^ product[0][:nodes],
            generate[1][1::2] ^ product[1][:nodes],
        )
        propagate = (product[0][nodes:], product[1][nodes:])
        level += 1
    addend = generate[0][1]
    if party.index != 2:
        addend = addend ^ planes[bits - 1]  # top bits of u at worker 0, of v at worker 1
    return _Top((propagate[0][0], propagate[1][0]), (generate[0][0], generate[1][0]), addend)


def _lend_leaves(party: Party, tree: Tree, planes: Words, at: str) -> Steps[tuple[Pair, Pair]]:
    width = planes.shape[1]
    masks = party.of_lender("leaves", at, tree.monomials * width).reshape(tree.monomials, width)
    lent = steps.lend_leaves(planes, tree.sizes, masks)
    yield Round(to_prev=[lent])
    rows = 2 * tree.leaves - 1
    received = yield Round(from_next=8 * rows * width, from_prev=8 * rows * width)
    one, two = words(received.from_next, rows, width), words(received.from_prev, rows, width)
    leaves = tree.leaves
    return (two[:leaves], one[:leaves]), (two[leaves:], one[leaves:])


def _take_leaves(party: Party, tree: Tree, width: int, at: str) -> Steps[Words]:
    shape = (tree.monomials, width)
    if party.index == 1:
        yield Round()
        return party.of_lender("leaves", at, tree.monomials * width).reshape(shape)
    received = yield Round(from_next=8 * tree.monomials * width)
    return words(received.from_next, *shape)


def _return_leaves(
    party: Party, tree: Tree, planes: Words, lent: Words, at: str
) -> Steps[tuple[Pair, Pair]]:
    leaves, width = tree.leaves, planes.shape[1]
    rows = 2 * leaves - 1
    masks = [
        party.of_pair(label, at, rows * width).reshape(rows, width)
        for label in ("leaves one", "leaves two")
    ]
    answer, third = steps.answer_leaves(
        planes, tree.sizes, lent, masks[party.index - 1], masks[2 - party.index]
    )
    yield Round(to_prev=[answer]) if party.index == 1 else Round(to_next=[answer])
    if party.index == 1:
        return (answer[:leaves], third[:leaves]), (answer[leaves:], third[leaves:])
    return (third[:leaves], answer[:leaves]), (third[leaves:], answer[leaves:])
