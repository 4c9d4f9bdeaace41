"""The gradients of a private step: each row's clipped, their sum with noise of every worker.

One forward and one backward pass give the input of each layer with weights and the cotangents of
its outputs; ``row_gradients`` makes of them n, the squared norm of each row's gradient over all
layers, and the clipped sums:

    c = min(1, target / root of n),  gradient = sum of c times those of the rows, + noise,

on the grid of ``program.private``. Every rounding of n is upwards. A row counts as zero if its
norm is ``LIMIT`` units or more, if its inputs are so large that roundings could use up what
``target`` leaves of C (``REACH``), and if it pads a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.frontend.derivatives import Convolution
from tercet.frontend.differentiable import Forward
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph, Node, Operand, drop_dead, flatten
from tercet.frontend.losses import Loss
from tercet.frontend.private_layers import PrivateLayer, private_layers
from tercet.frontend.row_gradients import Counted, RowGradients, row_gradients
from tercet.frontend.row_limits import bounded, small_enough
from tercet.frontend.row_operands import (
    COTANGENT_SCALE,
    FACTOR_SCALE,
    INPUT_SCALE,
    added,
    halvings,
    indicator,
    raised,
    raw,
)
from tercet.frontend.step import StepLowering, lower_graph
from tercet.frontend.values import Secret, Value
from tercet.program.checks import RANGE_BITS
from tercet.program.private import GRID, TARGET_BITS, PrivateSum
from tercet.program.program import Role
from tercet.program.training import Kind, StepInput

#: A row whose gradient has a larger norm than this, in units of 2^p, counts as zero.
LIMIT = 2**8
#: Fractional bits of n before its root, and of the root's inverse.
_SQUARE, _ROOT = 26, 20
#: Fractional bits of the gradient that the optimizer takes.
_RELEASED = 26
#: Fractional bits of cotangents before their unit is 2^p.
_TRACED = 16


class _Tapped(Forward):
    """Runs a graph and tells the input of each layer with weights; its output has a tap."""

    def __init__(self, graph: Graph, layers: Sequence[PrivateLayer]) -> None:
        super().__init__(graph)
        self._layers = {id(layer.result): (n, layer) for n, layer in enumerate(layers)}
        self.inputs: dict[int, Foreign] = {}
        self.taps: Sequence[Foreign] = ()

    def _apply(self, node: Node, read: Callable[[Operand], Foreign]) -> Sequence[Foreign]:
        results = super()._apply(node, read)
        if node.name == "dot_general" and id(node) in self._layers:
            return [self._tapped(node, read(node.inputs[0]), results[0])]
        return results

    def _convolve(self, node: Node, how: Convolution, x: Foreign, w: Foreign) -> Foreign:
        result = super()._convolve(node, how, x, w)
        return self._tapped(node, x, result) if id(node) in self._layers else result

    def _tapped(self, node: Node, x: Foreign, result: Foreign) -> Foreign:
        number, layer = self._layers[id(node)]
        self.inputs[number] = x
        return _tap(1 << halvings(layer))(result, self.taps[number])


def _tap(times: int) -> Foreign:
    """Return a function that returns its first argument, and whose second one has its cotangent.

    That is multiplied by ``times``.
    """
    import jax

    made = jax.custom_vjp(lambda z, tap: z)
    made.defvjp(lambda z, tap: (z, None), lambda _, change: (change, change * np.float32(times)))
    return made


@dataclass(frozen=True)
class PrivateStep:
    """What is traced of a private step.

    Attributes:
        forward: the model's graph of (variables, x) -> (output, ...).
        loss: its loss.
        names: of the variables.
        privacy: how gradients are clipped.
        rows: rows of a step, the padding among them.
    """

    forward: Graph
    loss: Loss
    names: Sequence[str]
    privacy: PrivateSum
    rows: int

    def gradients(
        self, low: StepLowering, variables: Sequence[Value], x: Secret, y: Secret
    ) -> list[Secret]:
        """Return the noisy sums of clipped gradients by each variable.

        Raises:
            UnsupportedOperation: naming a layer that is not supported.
        """
        layers = private_layers(self.forward, self.names)
        graph = self._graph(layers, [v.shape for v in variables], x.shape, y.shape)
        results = lower_graph(low, graph, [*variables, x, y])
        inputs, cotangents, found = list[Secret](), list[Secret](), list[RowGradients]()
        for n, layer in enumerate(layers):
            low.source = layer.product.source
            inputs.append(bounded(low, low.share(results[n]), INPUT_SCALE))
            d = bounded(low, low.share(results[len(layers) + n]), _TRACED)
            cotangents.append(low.relabel(d, COTANGENT_SCALE - _TRACED))
            found.append(row_gradients(low, layer, inputs[n], cotangents[n]))
        low.source = "clipping"
        small = small_enough(low, layers, inputs, cotangents, [x.coarse for x in found])
        factor, fits = self._factors(low, found, small)
        present = low.step_input(StepInput("present", Kind.PRESENT), (self.rows, 1), 0)
        counted = Counted(present, indicator(low, fits))
        totals: dict[int, Secret] = {}
        for layer, rows in zip(layers, found, strict=True):
            low.source = layer.product.source
            kernel, bias = rows.sums(factor, counted)
            totals[layer.kernel] = low.reshape(kernel, variables[layer.kernel].shape)
            if layer.bias is not None:
                totals[layer.bias] = bias
        return [self._noisy(low, totals[n], name) for n, name in enumerate(self.names)]

    def _graph(
        self,
        layers: Sequence[PrivateLayer],
        shapes: Sequence[tuple[int, ...]],
        *data: tuple[int, ...],
    ) -> Graph:
        """Return the graph of (variables, x, y) -> (inputs of layers, their cotangents)."""
        import jax

        forward = _Tapped(self.forward, layers)
        # Cotangents in units of 2^p keep their bits whatever the norm: see ``program.private``.
        boost = 2.0 ** (COTANGENT_SCALE - _TRACED - self.privacy.exponent)

        def step(*arguments: Foreign) -> list[Foreign]:
            *values, x, y = arguments

            def run(taps: list[Foreign]) -> tuple[Foreign, list[Foreign]]:
                forward.taps = taps
                z, *_ = forward(*values, x)
                return z, [forward.inputs[n] for n in range(len(layers))]

            taps = [jax.numpy.zeros(layer.shape) for layer in layers]
            z, backward, inputs = jax.vjp(run, taps, has_aux=True)
            (cotangents,) = backward(self.loss.slope(z, y) * np.float32(boost))
            return [*inputs, *cotangents]

        avals = [jax.ShapeDtypeStruct(s, np.float32) for s in (*shapes, *data)]
        return drop_dead(flatten(jax.make_jaxpr(step)(*avals)))

    def _factors(
        self, low: StepLowering, layers: Sequence[RowGradients], small: Secret
    ) -> tuple[Secret, Secret]:
        """Return min(1, target / norm) of each row, 0 beyond limits, and which rows are within."""
        n = raised(low, added(low, [layer.square for layer in layers]), _SQUARE)
        n = low.reshape(n, (self.rows, 1))
        reaches = [low.reshape(r, n.shape) for r in (x.reach for x in layers) if r is not None]
        # Comparisons and root on all bits: what is clipped must not depend on a window.
        both = added(low, [n, *reaches])
        below = raw(low, "add_const", both.handle, value=-(LIMIT**2 << _SQUARE))
        fits = raw(low, "negative", below.handle, shift=0, bits=RANGE_BITS)
        fits = raw(low, "bit_and", fits.handle, small.handle)
        edge = self.privacy.target**2 << (_SQUARE - 2 * TARGET_BITS)
        beyond = raw(low, "add_const", n.handle, value=-edge)
        excess = raw(low, "relu", beyond.handle, shift=0, bits=RANGE_BITS)
        larger = raw(low, "add_const", excess.handle, value=edge)
        inverse = raw(low, "rsqrt", larger.handle, scale=_ROOT, bits=RANGE_BITS)
        factor = raw(low, "scale", inverse.handle, multiplier=self.privacy.target, bits=TARGET_BITS)
        excess_bits = _ROOT + TARGET_BITS - FACTOR_SCALE
        return raw(low, "gate", fits.handle, factor.handle, shift=excess_bits), fits

    def _noisy(self, low: StepLowering, total: Secret, name: str) -> Secret:
        """Return the sum with noise, decoded: times 2^p, at the scale for an optimizer."""
        noise = low.wrap(low.builder.input(f"{name}/noise", Role.NOISE, total.shape, GRID))
        masked = low.emit("reshare", raw(low, "add", total.handle, noise.handle).handle)
        return low.relabel(low.to_scale(masked, _RELEASED), -self.privacy.exponent)
