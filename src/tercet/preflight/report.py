"""The report on a model: what ``tercet check`` prints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import log2

import msgspec


class Verdict(StrEnum):
    """Whether a layer runs."""

    SUPPORTED = "supported"
    APPROXIMATED = "approximated"
    REFUSED = "not supported"


@dataclass(frozen=True)
class Network:
    """Links between the workers: seconds one way and bits a second of each."""

    name: str
    delay: float
    bandwidth: float

    def seconds(self, sent: int, rounds: int) -> float:
        """Return the time of ``sent`` bytes over all links in ``rounds`` rounds."""
        return rounds * self.delay + sent / 3 * 8 / self.bandwidth


LAN = Network("LAN", 0.25e-3, 1e9)
WAN = Network("WAN", 20e-3, 100e6)


class Operation(msgspec.Struct, frozen=True):
    """One operation on secret values, as often as it stands at one place of a layer.

    Attributes:
        name: a primitive of JAX or an operation of PyTorch.
        place: file and line of the user's own code, if it is known.
        verdict: whether it runs.
        functions: the functions by which it is approximated.
        error: their stated error.
        reason: why it is not supported.
        remedy: what to use instead.
        count: how often it stands there.
    """

    name: str
    place: str
    verdict: Verdict
    functions: tuple[str, ...] = ()
    error: str = ""
    reason: str = ""
    remedy: str = ""
    count: int = 1


class Layer(msgspec.Struct, frozen=True):
    """One layer of the report.

    Attributes:
        name: the layer's name.
        kind: its class.
        verdict: whether it runs.
        functions: the functions by which it is approximated.
        error: their stated error.
        reason: why it is not supported.
        remedy: what to use instead.
        bytes: payload between the workers.
        rounds: of a slice.
        share: its part of the estimated time on a LAN, 0 to 1.
        largest: the largest absolute value on the sample, if there is one.
        warning: what may overflow or saturate.
        operations: what it does with secret values, in order.
    """

    name: str
    kind: str
    verdict: Verdict
    functions: tuple[str, ...] = ()
    error: str = ""
    reason: str = ""
    remedy: str = ""
    bytes: int = 0
    rounds: int = 0
    share: float = 0.0
    largest: float | None = None
    warning: str = ""
    operations: tuple[Operation, ...] = ()


class Preflight(msgspec.Struct, frozen=True):
    """The whole report.

    Attributes:
        supported: whether the model can be shared.
        error: what stands against it as a whole, if no single layer does.
        batch: rows of the request that was costed.
        scale: fractional bits that were checked.
        proposed_scale: fractional bits at which every value of the sample fits with its margin;
            ``None`` without a sample, or if there are none.
        layers: the layers, in order.
        bytes: payload between the workers, ``None`` if the model does not run; as the next four.
        rounds: of a slice.
        lan_seconds: estimate for 0.25 ms one way and 1 Gbit/s.
        wan_seconds: estimate for 20 ms one way and 100 Mbit/s.
        compute_seconds: of these, products of matrices on one core of each worker.
    """

    supported: bool
    error: str
    batch: int
    scale: int
    proposed_scale: int | None
    layers: tuple[Layer, ...]
    bytes: int | None = None
    rounds: int | None = None
    lan_seconds: float | None = None
    wan_seconds: float | None = None
    compute_seconds: float | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may overflow or saturate, by the names of the layers."""
        return tuple(f"{x.name}: {x.warning}" for x in self.layers if x.warning)


def decimals(seconds: float) -> str:
    """Return a time with two significant digits."""
    if seconds <= 0:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1e3:.{max(0, 1 - int(log2(seconds * 1e3) // 3.32))}f} ms"
    return f"{seconds:.1f} s"
