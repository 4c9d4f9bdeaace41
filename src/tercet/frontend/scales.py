"""Fractional bits in a training step, all in one place.

|x| < 2^62 must hold in the ring, and values reach 2^14: 48 bits are left for a product. Weights
take 24 of them, data and activations 22, and an average pool of four, whose sum is divided by its
label alone, the other two. Cotangents have the program's scale (16): they travel times a factor,
are rounded without a bias, and their sums over a batch need the room.
"""

from __future__ import annotations

from tercet.program.training import DATA_SCALE

#: Activations, as data.
VALUE_SCALE = DATA_SCALE
#: Weights, and slots but mean squares.
STATE_SCALE = 24
#: A product with a weight before it is rounded: leaves 14 bits before the point.
WEIGHTED_SCALE = 48
#: A product of two values of the forward pass: both may be large. And one with a cotangent, whose
#: label counts what it was divided by.
PRODUCT_SCALE, GRADIENT_SCALE = 40, 44
#: What a sign is found from, of a product that has as many bits: fewer values count as 0.
COMPARED_SCALE = 32
#: Probabilities: their errors have a sign, and p - y is summed over many steps.
FINE_SCALE = 20
#: What a root is taken of, if it has more than 24: it reaches 2^16 then.
ROOT_SCALE, NARROW_SCALE = 30, 24
