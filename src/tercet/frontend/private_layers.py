"""The layers whose gradient of one row is known: which a forward pass has, and where they look.

A dense layer or a convolution makes each of its outputs as q W of some numbers q of the row: its
input, or what is under the window at a place, summed over the places of an average pool behind
it. The gradient of one row is the sum over places of the outer product of q and the cotangent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.errors import UnsupportedOperation
from tercet.frontend.derivatives import Convolution
from tercet.frontend.differentiable import Folded, Forward, kernel_axes, spatial
from tercet.frontend.graph import Graph, Node, Var

#: What may stand between such layers: each row by itself, number by number ...
_BY_NUMBER = frozenset(
    {
        "add", "sub", "mul", "div", "neg", "max", "min", "abs", "exp", "log", "log1p", "tanh",
        "logistic", "erf", "sqrt", "rsqrt", "square", "integer_pow", "pow", "sign", "copy",
        "convert_element_type", "stop_gradient", "mask", "softplus", "silu", "gelu", "gelu_tanh",
        "mish",
    }
)  # fmt: skip
#: ... over other axes than the first, or over windows of them.
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})
_WINDOWS = frozenset({"reduce_window_sum", "reduce_window_max"})
_KNOWN = "models of Dense, Conv and Depthwise or SeparableConv layers, pools, activations, Dropout"


@dataclass(frozen=True)
class Places:
    """How a convolution and the average pool that is folded into it walk, channels last.

    Attributes:
        how: the convolution alone.
        taps: spatial extents of its kernel.
        channels: of its input.
        fold: the pool; of windows of one place where there is none.
    """

    how: Convolution
    taps: tuple[int, ...]
    channels: int
    fold: Folded

    @property
    def pooled(self) -> int:
        """Places that are summed up by one window of the pool."""
        return math.prod(self.fold.window)

    @property
    def whole(self) -> Convolution:
        """How one convolution walks that makes the numbers of all places, channel by channel."""
        whole = self.fold.whole(self.how)
        return Convolution(whole.strides, whole.padding, whole.spread, self.channels)

    def kernel(self) -> NDArray[np.float64]:
        """Return its kernel of zeros and ones, (*extents, 1, channels taps)."""
        extents = self.fold.extents(self.how, self.taps)
        one = np.zeros((*extents, math.prod(self.taps)))
        for number, tap in enumerate(np.ndindex(*self.taps)):
            for place in np.ndindex(*self.fold.window):
                steps = zip(tap, self.how.spread, place, self.how.strides, strict=True)
                one[(*(t * r + o * s for t, r, o, s in steps), number)] = 1.0
        return np.tile(one, self.channels)[..., None, :]


@dataclass(frozen=True)
class PrivateLayer:
    """A layer with weights.

    Attributes:
        product: its product, a matrix product or a convolution.
        result: what makes its outputs: the product, or the pool that is folded into it.
        places: where it looks; ``None`` for a dense layer.
        kernel, bias: the numbers of its kernel and (or None) of its bias among the variables.
    """

    product: Node
    result: Node
    places: Places | None
    kernel: int
    bias: int | None

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return 1 if self.places is None else self.places.how.groups

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its outputs, rows first and channels last, without biases."""
        shape = self.result.outputs[0].shape
        if self.result is not self.product or self.places is None:
            return shape
        n, c, *space = self.product.params["dimension_numbers"].out_spec
        return tuple(shape[a] for a in (n, *space, c))


def private_layers(graph: Graph, names: Sequence[str]) -> list[PrivateLayer]:
    """Return the layers of a forward pass in which nothing else has weights or mixes rows.

    Args:
        graph: of (variables, x) -> (output, ...).
        names: of the trainable variables, which are the first arguments.

    Raises:
        UnsupportedOperation: naming the layer, if the gradient of a row is not known.
    """
    return _Search(graph, names).run()


class _Search:
    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        self.graph, self.names = graph, names
        self.rows: int = graph.arguments[-1].shape[0]
        # The number of a variable of the model, by that of the graph that has its numbers.
        self.weights = {a.number: k for k, a in enumerate(graph.arguments[: len(names)])}
        self.biases: dict[int, int] = {}
        self.products: dict[int, tuple[Node, int]] = {}
        self.found: dict[int, int | None] = {}
        self.used: Counter[int] = Counter()
        self.reads = Counter(i.number for n in graph.nodes for i in n.inputs if isinstance(i, Var))

    def run(self) -> list[PrivateLayer]:
        for node in self.graph.nodes:
            self._visit(node)
        known = {*self.found, *(b for b in self.found.values() if b is not None)}
        for number, name in enumerate(self.names):
            if self.used[number] != 1 or number not in known:
                raise UnsupportedOperation(
                    f"Weight {name!r} is not that of a dense layer or a convolution used once: "
                    "differential privacy does not support it yet",
                    f"Train with privacy= {_KNOWN}",
                )
        forward = Forward(self.graph)
        pools = [n for n in self.graph.nodes if n.name == "reduce_window_sum"]
        folds = {id(f.conv): (p, f) for p in pools if (f := forward.folded(p)) is not None}
        layers = []
        for product, kernel in self.products.values():
            result, fold = folds.get(id(product), (product, None))
            places = None if product.name == "dot_general" else _places(product, fold)
            layers.append(PrivateLayer(product, result, places, kernel, self.found[kernel]))
        return layers

    def _visit(self, node: Node) -> None:
        numbers = [i.number for i in node.inputs if isinstance(i, Var)]
        mine = [self.weights[n] for n in numbers if n in self.weights]
        output = node.outputs[0]
        if len(mine) == 1 and numbers[-1] in self.weights and _is_product(node, self.rows):
            self.products[output.number] = (node, mine[0])
            self.found[mine[0]] = None
            self.used[mine[0]] += 1
        elif mine and node.name in ("broadcast_in_dim", "reshape"):
            names = self.biases if _is_bias(node) else self.weights
            names[output.number] = mine[0]
            if node.name != "reshape" and names is self.weights:
                raise _refused(node)
        elif node.name == "add" and any(n in self.biases for n in numbers):
            self._add_bias(node, numbers)
        elif mine or any(n in self.biases for n in numbers) or not _keeps_rows(node, self.rows):
            raise _refused(node)

    def _add_bias(self, node: Node, numbers: Sequence[int]) -> None:
        bias = [self.biases[n] for n in numbers if n in self.biases]
        before = [n for n in numbers if n in self.products]
        # A product that something else reads has another cotangent than its bias.
        if len(before) != 1 or len(bias) != 1 or self.reads[before[0]] != 1:
            raise _refused(node)
        product, kernel = self.products[before[0]]
        made = product.outputs[0].shape
        if (
            self.found[kernel] is not None
            or _channels(product) != len(made) - 1
            or node.outputs[0].shape != made  # a bias of more numbers than the layer has outputs
            or self.graph.arguments[bias[0]].shape != made[-1:]
        ):
            raise _refused(node)
        self.found[kernel] = bias[0]
        self.used[bias[0]] += 1


def _is_product(node: Node, rows: int) -> bool:
    """Whether a node is a dense layer or a convolution of an input with rows and a kernel."""
    if len(node.inputs) != 2:
        return False
    x, w = node.inputs
    if not (isinstance(x, Var) and isinstance(w, Var)):
        return False
    if node.name == "dot_general":
        (left, right), batch = node.params["dimension_numbers"]
        plain = (tuple(left), tuple(right), *map(tuple, batch)) == ((1,), (0,), (), ())
        return plain and len(x.shape) == 2 and x.shape[0] == rows and len(w.shape) == 2
    if node.name == "conv_general_dilated":
        numbers = node.params["dimension_numbers"]
        first = (numbers.lhs_spec[0], numbers.out_spec[0]) == (0, 0)
        return first and x.shape[0] == rows and node.params["batch_group_count"] == 1
    return False


def _channels(product: Node) -> int:
    """Return the axis of the channels that a product makes."""
    if product.name == "dot_general":
        return 1
    return int(product.params["dimension_numbers"].out_spec[1])


def _places(conv: Node, fold: Folded | None) -> Places:
    x, w = conv.inputs
    assert isinstance(x, Var) and isinstance(w, Var)
    how, taps = spatial(conv), tuple(w.shape[a] for a in kernel_axes(conv)[:-2])
    one = (1,) * len(taps)
    channels = x.shape[conv.params["dimension_numbers"].lhs_spec[1]]
    return Places(how, taps, channels, fold or Folded(conv, (), one, one))


def _is_bias(node: Node) -> bool:
    (source,), shape = node.inputs, node.outputs[0].shape
    if not isinstance(source, Var) or len(source.shape) != 1:
        return False
    return shape == ((1,) * (len(shape) - 1) + source.shape) and len(shape) > 1


def _keeps_rows(node: Node, rows: int) -> bool:
    """Whether a node computes each row from the same row of its inputs, and constants."""
    name, p, shape = node.name, node.params, node.outputs[0].shape
    if name in _BY_NUMBER:
        return True
    if name in ("softmax", "log_softmax"):
        return tuple(p["axes"]) == (len(shape) - 1,) and len(shape) > 1
    if name in _REDUCTIONS:
        return 0 not in p["axes"]
    if name in _WINDOWS:
        window = (p["window_dimensions"][0], p["window_strides"][0], *p["padding"][0])
        return tuple(map(int, window)) == (1, 1, 0, 0)
    if name == "transpose":
        return int(p["permutation"][0]) == 0
    if name == "concatenate":
        return int(p["dimension"]) != 0
    if name == "pad":
        return tuple(p["padding_config"][0]) == (0, 0, 0)
    (source, *_) = node.inputs or (None,)
    before = getattr(source, "shape", ())
    if name in ("reshape", "squeeze"):
        return shape[:1] == before[:1] == (rows,)
    if name == "broadcast_in_dim":
        # Of a scalar, or along other axes: nothing moves from one row to another.
        same = shape[:1] == before[:1] == (rows,) and int(p["broadcast_dimensions"][0]) == 0
        return before == () or same
    return False


def _refused(node: Node) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"Layer {node.source!r} uses {node.name}, which is not supported with differential privacy "
        "yet: the norm of each row's gradient is known for dense layers and convolutions only",
        f"Train with privacy= {_KNOWN}, or leave privacy= out",
    )
