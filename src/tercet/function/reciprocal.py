"""1 / x for x in a known positive range."""

from __future__ import annotations

from typing import cast

from tercet.function.fixed import add_constant, constant_minus, fill, ring_constant, times
from tercet.protocol.base import Protocol, Share, subtract
from tercet.protocol.rounds import Steps, together

# Start of the iteration on [1/2, 1]: 2.9142 - 2 c has relative error below 0.0858.
_START = 2.9142


def reciprocal(protocol: Protocol, x: Share, scale: int, highest: float, at: str) -> Steps[Share]:
    """Return 1 / x with ``scale`` fractional bits, for 1 - 2^-10 <= x <= ``highest``.

    x is scaled into [1/2, 1) by comparing it with the powers of two up to ``highest``, then
    Goldschmidt's iteration runs three steps (Goldschmidt 1964; error 0.0858^8 = 3e-9).
    Error: rounding below 16 units of the last place, relative to a result of at most 1.
    """
    powers: list[int] = []
    while 2.0 ** (len(powers) + 1) <= highest:
        powers.append(len(powers) + 1)
    factor = fill(protocol, 0.5, scale, x.shape)
    if powers:
        width = scale + len(powers) + 3
        below = yield from together(
            *(
                protocol.negative(
                    add_constant(protocol, x, -(2.0**j), scale), 0, width, f"{at}/cmp/{j}"
                )
                for j in powers
            )
        )
        steps = yield from together(
            *(
                protocol.select(
                    protocol.bit_not(b),
                    fill(protocol, 2.0 ** -(j + 1), scale, x.shape),
                    f"{at}/step/{j}",
                )
                for j, b in zip(powers, below, strict=True)
            )
        )
        for step in steps:
            factor = cast("Share", subtract(protocol, factor, step))
    c = yield from times(protocol, x, factor, scale, f"{at}/normalise")
    y = add_constant(protocol, protocol.map(lambda a: a * ring_constant(-2.0, 0), c), _START, scale)
    error = constant_minus(
        protocol, 1.0, (yield from times(protocol, c, y, scale, f"{at}/error")), scale
    )
    for step_number in range(3):
        grow = add_constant(protocol, error, 1.0, scale)
        if step_number == 2:
            y = yield from times(protocol, y, grow, scale, f"{at}/grow/{step_number}")
        else:
            y, error = yield from together(
                times(protocol, y, grow, scale, f"{at}/grow/{step_number}"),
                times(protocol, error, error, scale, f"{at}/square/{step_number}"),
            )
    return (yield from times(protocol, y, factor, scale, f"{at}/rescale"))
