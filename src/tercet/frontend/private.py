"""The gradients of a private step: each row's clipped, their sum with noise of every worker.

A dense layer's gradient for one row is the outer product of its input a and its cotangent d, so
its squared norm is |a|^2 |d|^2 (|d|^2 more for the bias; Goodfellow, "Efficient Per-Example
Gradient Computations", 2015): no gradient of a single row is ever computed. One forward and one
backward pass give all a and d; then

    n = sum over layers of |d|^2 (|a|^2 + 1),  c = min(1, target / root of n),
    gradient = a^T (c d), on the grid of ``program.private``, + noise.

Every rounding of n is upwards. A row counts as zero if its norm is ``LIMIT`` units or more, if its
inputs are so large that the roundings of c d could use up what ``target`` leaves of C
(``_REACH``), and if it pads a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.errors import UnsupportedOperation
from tercet.frontend.differentiable import Forward
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph, Node, Operand, Var, drop_dead, flatten
from tercet.frontend.losses import Loss
from tercet.frontend.lowering import Lowering
from tercet.frontend.step import StepLowering, lower_graph
from tercet.frontend.values import Secret, Value
from tercet.program.checks import RANGE_BITS
from tercet.program.private import COTANGENT_SCALE, GRID, TARGET_BITS, PrivateSum
from tercet.program.program import Attribute, Role
from tercet.program.training import Kind, StepInput

#: A row whose gradient has a larger norm than this, in units of 2^p, counts as zero.
LIMIT = 2**8
#: Rounding c d moves a row's gradient by 2^-18 root of r, r = sum of (|a|^2 + 1) outputs; r times
#: 2^-_REACH counts beside n towards the square of the limit, so that this stays below 0.012.
_REACH = 7
#: Fractional bits of |a|^2, of |d|^2, of n before its root, and of the factor of a row.
_INPUT, _COTANGENT, _SQUARE, _FACTOR = 10, 20, 26, 22
_ROOT = 20
#: Fractional bits of the gradient that the optimizer takes.
_RELEASED = 26
#: What may stand between dense layers: each row by itself, number by number or over the last axis.
_BY_ROW = frozenset(
    {
        "add", "sub", "mul", "div", "neg", "max", "min", "abs", "exp", "log", "log1p", "tanh",
        "logistic", "erf", "sqrt", "rsqrt", "square", "integer_pow", "pow", "sign", "copy",
        "convert_element_type", "stop_gradient", "mask", "softplus", "silu", "gelu", "gelu_tanh",
        "mish", "softmax", "log_softmax",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Dense:
    """A dense layer: its product, and the numbers of its kernel and (or None) of its bias."""

    product: Node
    kernel: int
    bias: int | None


def dense_layers(graph: Graph, names: Sequence[str]) -> list[Dense]:
    """Return the dense layers of a forward pass that consists of nothing else with weights.

    Args:
        graph: of (variables, x) -> (output, ...).
        names: of the trainable variables, which are the first arguments.

    Raises:
        UnsupportedOperation: naming the layer, if the gradient of a row is not what dense layers
            make of it.
    """
    weights = {a.number: k for k, a in enumerate(graph.arguments[: len(names)])}
    rows = graph.arguments[-1].shape[0]
    biases: dict[int, int] = {}
    products: dict[int, tuple[Node, int]] = {}
    found: dict[int, int | None] = {}
    used: list[int] = []
    for node in graph.nodes:
        numbers = [i.number for i in node.inputs if isinstance(i, Var)]
        mine = [weights[n] for n in numbers if n in weights]
        used += mine
        output = node.outputs[0]
        if _is_dense(node, rows) and len(mine) == 1 and numbers[1] in weights:
            products[output.number] = (node, mine[0])
            found[mine[0]] = None
        elif mine and node.name in ("broadcast_in_dim", "reshape") and _is_bias(node):
            biases[output.number] = mine[0]
        elif node.name == "add" and (bias := [biases[n] for n in numbers if n in biases]):
            before = [products[n] for n in numbers if n in products]
            if len(before) != 1 or found[before[0][1]] is not None:
                raise _refused(node)
            found[before[0][1]] = bias[0]
        elif mine or any(n in biases for n in numbers) or not _keeps_rows(node, rows):
            raise _refused(node)
    known = {*found, *(b for b in found.values() if b is not None)}
    for number, name in enumerate(names):
        if used.count(number) != 1 or number not in known:
            raise UnsupportedOperation(
                f"Weight {name!r} is not that of a dense layer used once: differential privacy "
                "does not support it yet",
                "Train with privacy= models of Dense layers, activations and Dropout",
            )
    return [Dense(node, kernel, found[kernel]) for node, kernel in products.values()]


def _is_dense(node: Node, rows: int) -> bool:
    if node.name != "dot_general":
        return False
    (left, right), batch = node.params["dimension_numbers"]
    x, w = node.inputs
    plain = (tuple(left), tuple(right), *map(tuple, batch)) == ((1,), (0,), (), ())
    if not (isinstance(x, Var) and isinstance(w, Var)):
        return False
    return plain and len(x.shape) == 2 and x.shape[0] == rows and len(w.shape) == 2


def _is_bias(node: Node) -> bool:
    (source,), shape = node.inputs, node.outputs[0].shape
    return isinstance(source, Var) and shape == (1, *source.shape) and len(shape) == 2


def _keeps_rows(node: Node, rows: int) -> bool:
    """Whether a node computes each row from the same row of its inputs, and constants."""
    shape = node.outputs[0].shape
    if node.name in ("softmax", "log_softmax"):
        return tuple(node.params["axes"]) == (len(shape) - 1,) and len(shape) > 1
    if node.name in _BY_ROW:
        return True
    (source, *_) = node.inputs or (None,)
    if node.name == "reshape" and isinstance(source, Var):
        return shape[:1] == source.shape[:1] == (rows,)
    # Of a scalar only: nothing moves from one row to another.
    return node.name == "broadcast_in_dim" and getattr(source, "shape", ()) == ()


def _refused(node: Node) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"Layer {node.source!r} uses {node.name}, which is not supported with differential privacy "
        "yet: the norm of each row's gradient is known for dense layers only",
        "Train with privacy= models of Dense layers, activations and Dropout, or leave it out",
    )


class _Tapped(Forward):
    """Runs a graph and tells the input of each dense layer; its output has a tap."""

    def __init__(self, graph: Graph, layers: Sequence[Dense]) -> None:
        super().__init__(graph)
        self._places = {id(layer.product): n for n, layer in enumerate(layers)}
        self.inputs: dict[int, Foreign] = {}
        self.taps: Sequence[Foreign] = ()

    def _apply(self, node: Node, read: Callable[[Operand], Foreign]) -> Sequence[Foreign]:
        results = super()._apply(node, read)
        place = self._places.get(id(node))
        if place is None:
            return results
        self.inputs[place] = read(node.inputs[0])
        return [_tap()(results[0], self.taps[place])]


def _tap() -> Foreign:
    """Return the function whose second argument has the cotangent of its first, its result."""
    import jax

    made = jax.custom_vjp(lambda z, tap: z)
    made.defvjp(lambda z, tap: (z, None), lambda _, change: (change, change))
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
        layers = dense_layers(self.forward, self.names)
        graph = self._graph(layers, [v.shape for v in variables], x.shape, y.shape)
        results = lower_graph(low, graph, [*variables, x, y])
        low.source = "clipping"
        inputs = [low.settle(low.share(a)) for a in results[: len(layers)]]
        cotangents = [
            low.relabel(low.settle(low.share(d)), COTANGENT_SCALE - low.scale)
            for d in results[len(layers) :]
        ]
        factor = self._factors(low, layers, inputs, cotangents)
        present = low.step_input(StepInput("present", Kind.PRESENT), (self.rows, 1), 0)
        found: dict[int, Secret] = {}
        for layer, a, d in zip(layers, inputs, cotangents, strict=True):
            shrunk = low.to_scale(low.emit("mul", d.handle, factor.handle), COTANGENT_SCALE)
            clipped = low.emit("mul", shrunk.handle, present.handle)
            turned = low.transpose(a, (1, 0))
            found[layer.kernel] = low.emit("matmul", turned.handle, clipped.handle)
            if layer.bias is not None:
                total = low.emit("sum", clipped.handle, axes=(0,))
                found[layer.bias] = low.emit(
                    "shift_left", total.handle, bits=GRID - COTANGENT_SCALE
                )
        return [self._noisy(low, found[n], name) for n, name in enumerate(self.names)]

    def _graph(
        self, layers: Sequence[Dense], shapes: Sequence[tuple[int, ...]], *data: tuple[int, ...]
    ) -> Graph:
        """Return the graph of (variables, x, y) -> (inputs of layers, their cotangents)."""
        import jax

        forward = _Tapped(self.forward, layers)
        # Cotangents in units of 2^p keep their bits whatever the norm: see ``program.private``.
        boost = 2.0 ** (COTANGENT_SCALE - 16 - self.privacy.exponent)

        def step(*arguments: Foreign) -> list[Foreign]:
            *values, x, y = arguments

            def run(taps: list[Foreign]) -> tuple[Foreign, list[Foreign]]:
                forward.taps = taps
                z, *_ = forward(*values, x)
                return z, [forward.inputs[n] for n in range(len(layers))]

            taps = [jax.numpy.zeros(layer.product.outputs[0].shape) for layer in layers]
            z, backward, inputs = jax.vjp(run, taps, has_aux=True)
            (cotangents,) = backward(self.loss.slope(z, y) * np.float32(boost))
            return [*inputs, *cotangents]

        avals = [jax.ShapeDtypeStruct(s, np.float32) for s in (*shapes, *data)]
        return drop_dead(flatten(jax.make_jaxpr(step)(*avals)))

    def _factors(
        self,
        low: StepLowering,
        layers: Sequence[Dense],
        inputs: Sequence[Secret],
        cotangents: Sequence[Secret],
    ) -> Secret:
        """Return min(1, target / norm) of each row, 0 beyond the limit: (rows, 1)."""
        squares, reaches = [], []
        for layer, a, d in zip(layers, inputs, cotangents, strict=True):
            size = _raised(low, _square(low, a), _INPUT, float(layer.bias is not None))
            square = _raised(low, _square(low, d), _COTANGENT)
            squares.append(low.emit("mul", size.handle, square.handle))
            more = _SQUARE - _INPUT
            outputs = d.shape[1] << (more - _REACH)
            reaches.append(low.emit("scale", size.handle, multiplier=outputs, bits=more))
        n = low.reshape(_raised(low, _total(low, squares), _SQUARE), (self.rows, 1))
        reach = low.reshape(_total(low, reaches), (self.rows, 1))
        # Comparisons and root on all bits: what is clipped must not depend on a window.
        both = _raw(low, "add", n.handle, reach.handle)
        below = low.emit("add_const", both.handle, value=-(LIMIT**2 << _SQUARE))
        fits = _raw(low, "negative", below.handle, shift=0, bits=RANGE_BITS)
        edge = self.privacy.target**2 << (_SQUARE - 2 * TARGET_BITS)
        beyond = low.emit("add_const", n.handle, value=-edge)
        excess = _raw(low, "relu", beyond.handle, shift=0, bits=RANGE_BITS)
        larger = low.emit("add_const", excess.handle, value=edge)
        inverse = _raw(low, "rsqrt", larger.handle, scale=_ROOT, bits=RANGE_BITS)
        factor = low.emit("scale", inverse.handle, multiplier=self.privacy.target, bits=TARGET_BITS)
        return _raw(low, "gate", fits.handle, factor.handle, shift=_ROOT + TARGET_BITS - _FACTOR)

    def _noisy(self, low: StepLowering, total: Secret, name: str) -> Secret:
        """Return the sum with noise, decoded: times 2^p, at the scale for an optimizer."""
        noise = low.wrap(low.builder.input(f"{name}/noise", Role.NOISE, total.shape, GRID))
        masked = low.emit("reshare", _raw(low, "add", total.handle, noise.handle).handle)
        return low.relabel(low.to_scale(masked, _RELEASED), -self.privacy.exponent)


def _raw(low: StepLowering, op: str, *args: int, **attrs: Attribute) -> Secret:
    """Append an instruction on its arguments as they are."""
    return Lowering.emit(low, op, *args, **attrs)


def _total(low: StepLowering, values: Sequence[Secret]) -> Secret:
    total, *others = values
    for other in others:
        total = _raw(low, "add", total.handle, other.handle)
    return total


def _square(low: StepLowering, x: Secret) -> Secret:
    """Return the squared norm of each row."""
    return low.emit("sum", low.emit("mul", x.handle, x.handle).handle, axes=(1,))


def _raised(low: StepLowering, x: Secret, scale: int, more: float = 0.0) -> Secret:
    """Return ``x`` + ``more`` rounded to ``scale`` bits, never below what it is exactly."""
    value = 2 + int(more * 2**scale)
    return low.emit("add_const", low.to_scale(x, scale).handle, value=value)
