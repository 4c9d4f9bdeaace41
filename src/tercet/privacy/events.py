"""What was released: the events that accountants compose, as they stand in a ledger."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from tercet.errors import InputError


class Relation(StrEnum):
    """Which two data sets must look alike."""

    ADD_OR_REMOVE = "add-or-remove-one"
    """One has a record (an example, or a participant) more than the other."""
    REPLACE = "replace-one"
    """One record differs; a sum then moves by twice the clipping norm."""


class Sampler(StrEnum):
    """How the records of a round are chosen."""

    POISSON = "Poisson"
    """Each record with the same probability, independently, and nobody else learns which."""
    NONE = "none"
    """All records, or a choice that the adversary knows: no amplification."""


class GaussianSum(msgspec.Struct, frozen=True, tag="gaussian", forbid_unknown_fields=True):
    """Sums of vectors of L2 norm at most C, each with Gaussian noise of deviation z C.

    Attributes:
        noise_multiplier: z.
        count: number of sums (steps, rounds).
        sampling_rate: probability of a record to be in a sum, by Poisson sampling; 1 is everybody.
    """

    noise_multiplier: float
    count: int = 1
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, "noise multiplier")
        _check_rounds(self.count, self.sampling_rate)


class IntegerSum(msgspec.Struct, frozen=True, tag="integer", forbid_unknown_fields=True):
    """Sums of integer vectors, each with independent discrete Gaussian shares.

    Attributes:
        share_deviation: sigma of one share (see ``tercet.crypto.discrete_gaussian``), in units of
            the integers.
        shares: how many shares the adversary does not know. Of three workers' shares it is two:
            one worker may collude with the recipient.
        sensitivity: bound of the L2 norm of one contribution, in the same units, after rounding.
        dimension: length of the vectors.
        count, sampling_rate: as in ``GaussianSum``.
    """

    share_deviation: float
    sensitivity: float
    dimension: int
    shares: int = 2
    count: int = 1
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.share_deviation, "deviation of a share of the noise")
        _check(self.sensitivity, "sensitivity")
        _check(self.dimension, "dimension")
        _check(self.shares, "number of shares")
        _check_rounds(self.count, self.sampling_rate)


Event = GaussianSum | IntegerSum


def sampler_of(event: Event) -> Sampler:
    """Name the sampler of an event."""
    return Sampler.NONE if event.sampling_rate == 1 else Sampler.POISSON


def rounded_sensitivity(clip_norm: float, fraction_bits: int, dimension: int) -> float:
    """Bound the L2 norm of a clipped vector after rounding to the nearest multiple of 2^-f.

    Args:
        clip_norm: bound of the L2 norm before rounding.
        fraction_bits: f.
        dimension: length of the vector.

    Returns:
        The bound in units of 2^-f: each coordinate moves by half a unit at most.
    """
    return math.ldexp(clip_norm, fraction_bits) + math.sqrt(dimension) / 2


def _check(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"the {what} is {value}", "Give a finite number above zero")


def _check_rounds(count: int, rate: float) -> None:
    _check(count, "number of rounds")
    if not 0 < rate <= 1:
        raise InputError(f"the sampling rate is {rate}", "Give a probability: above 0, at most 1")
