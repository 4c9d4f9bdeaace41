"""A model's forward pass as a function that JAX differentiates into what the language does well.

The pass is traced once, without gradients; here its graph is run again, node by node, inside the
trace of the step, with some nodes replaced by functions of ours that bring their own gradient:

* max(x, 0), and with it every maximum, minimum, absolute value and max pool, becomes ``rectify``,
  whose bit is kept: its gradient is one product with that bit, not another comparison;
* a convolution gets gradients by patches, without the zeros of a dilated convolution;
* a convolution, its bias and the average pool behind them become one strided convolution with a
  wider kernel: the sums of the pool are taken on the kernel;
* softmax, GELU and their kin stay one operation; their gradients are written out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np

from tercet.errors import UnsupportedOperation
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph, Lit, Node, Operand, Var
from tercet.frontend.matching import Matcher
from tercet.frontend.primitives import bind

#: Below every value of a model: what pads a max pool.
_LOWEST = -(2.0**12)


@cache
def _relu() -> Foreign:
    import jax

    def positive(x: Foreign) -> Foreign:
        return bind("rectify", x)[0]

    def forward(x: Foreign) -> tuple[Foreign, Foreign]:
        y, bit = bind("rectify", x)
        return y, bit

    def backward(bit: Foreign, g: Foreign) -> tuple[Foreign]:
        return (bind("gate", bit, g)[0],)

    function: Foreign = jax.custom_vjp(positive)
    function.defvjp(forward, backward)
    return function


def relu(x: Foreign) -> Foreign:
    """Return max(x, 0); the gradient at 0 is 0."""
    return _relu()(x)


def larger(x: Foreign, y: Foreign) -> Foreign:
    """Return max(x, y); where they are equal the gradient goes to ``y``."""
    return y + relu(x - y)


@cache
def _whole(name: str, slope: Callable[[Foreign, Foreign], Foreign]) -> Foreign:
    """Return a function of one array that stays one operation; ``slope(x, g)`` is its gradient."""
    import jax

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def function(x: Foreign, axes: tuple[int, ...] | None) -> Foreign:
        return bind(name, x, **({} if axes is None else {"axes": axes}))[0]

    def forward(x: Foreign, axes: tuple[int, ...] | None) -> tuple[Foreign, Foreign]:
        y = function(x, axes)
        return y, (y if name == "softmax" else x)

    def backward(axes: tuple[int, ...] | None, kept: Foreign, g: Foreign) -> tuple[Foreign]:
        return (slope(kept, g) if axes is None else slope(kept, (g, axes)),)

    function.defvjp(forward, backward)
    return function


def softmax(x: Foreign, axes: tuple[int, ...]) -> Foreign:
    """Return the softmax over ``axes``."""
    return _whole("softmax", _softmax_slope)(x, axes)


def _softmax_slope(y: Foreign, given: Foreign) -> Foreign:
    g, axes = given
    return y * (g - (y * g).sum(axes, keepdims=True))


def _log_softmax_slope(x: Foreign, given: Foreign) -> Foreign:
    g, axes = given
    return g - softmax(x, axes) * g.sum(axes, keepdims=True)


def _slope_of(function: Callable[[Foreign], Foreign]) -> Callable[[Foreign, Foreign], Foreign]:
    def slope(x: Foreign, g: Foreign) -> Foreign:
        import jax

        return jax.vjp(function, x)[1](g)[0]

    return slope


def _sigmoid(x: Foreign) -> Foreign:
    import jax

    return jax.lax.logistic(x)


def _gelu(x: Foreign) -> Foreign:
    import jax

    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: Foreign) -> Foreign:
    import jax

    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + jax.lax.tanh(inner))


def _mish(x: Foreign) -> Foreign:
    import jax

    return x * jax.lax.tanh(_softplus(x))


def _softplus(x: Foreign) -> Foreign:
    return _whole("softplus", _SLOPES["softplus"])(x, None)


_SLOPES: dict[str, Callable[[Foreign, Foreign], Foreign]] = {
    "softmax": _softmax_slope,
    "log_softmax": _log_softmax_slope,
    "softplus": lambda x, g: _sigmoid(x) * g,
    "silu": _slope_of(lambda x: x * _sigmoid(x)),
    "gelu": _slope_of(_gelu),
    "gelu_tanh": _slope_of(_gelu_tanh),
    "mish": _slope_of(_mish),
}


@dataclass(frozen=True)
class Convolution:
    """Attributes of a convolution, channels last, input not dilated; hashable."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    groups: int

    def __call__(self, x: Foreign, w: Foreign) -> Foreign:
        """Return the convolution of x (N, *spatial, C) with w (*window, C / groups, O)."""
        return _conv()(x, w, self)

    def bind(self, name: str, x: Foreign, y: Foreign, shape: tuple[int, ...]) -> Foreign:
        """Return the result of the convolution or of one of its gradients."""
        params = {f: getattr(self, f) for f in ("strides", "padding", "spread", "groups")}
        return bind(name, x, y, shape=shape, **params)[0]

    def shape(self, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result."""
        space = (
            (d + lo + hi - ((k - 1) * r + 1)) // s + 1
            for d, (lo, hi), k, r, s in zip(
                x[1:-1], self.padding, w[:-2], self.spread, self.strides, strict=True
            )
        )
        return (x[0], *space, w[-1])


@cache
def _conv() -> Foreign:
    import jax

    @partial(jax.custom_vjp, nondiff_argnums=(2,))
    def conv(x: Foreign, w: Foreign, how: Convolution) -> Foreign:
        return how.bind("conv", x, w, how.shape(x.shape, w.shape))

    def forward(x: Foreign, w: Foreign, how: Convolution) -> tuple[Foreign, Foreign]:
        return conv(x, w, how), (x, w)

    def backward(how: Convolution, kept: Foreign, g: Foreign) -> tuple[Foreign, Foreign]:
        x, w = kept
        return how.bind("conv_input", g, w, x.shape), how.bind("conv_kernel", x, g, w.shape)

    conv.defvjp(forward, backward)
    return conv


def _convolution(node: Node, x: Foreign, w: Foreign) -> Foreign:
    """Return what a convolution of JAX computes, in any order of axes."""
    x, w, how = _channels_last(node, x, w)
    n, c, *space = node.params["dimension_numbers"].out_spec
    return how(x, w).transpose(np.argsort((n, *space, c)))


def _channels_last(node: Node, x: Foreign, w: Foreign) -> tuple[Foreign, Foreign, Convolution]:
    import jax

    p, numbers = node.params, node.params["dimension_numbers"]
    rank = len(numbers.lhs_spec) - 2
    if p["batch_group_count"] != 1 or not 1 <= rank <= 3:
        raise UnsupportedOperation(
            f"Layer {node.source!r} uses a convolution over {rank} axes or in batch groups, which "
            "is not supported in training yet",
            "Use a convolution over one to three axes",
        )
    n, c, *space = numbers.lhs_spec
    o, i, *window = numbers.rhs_spec
    x, w = x.transpose((n, *space, c)), w.transpose((*window, i, o))
    padding = tuple((int(a), int(b)) for a, b in p["padding"])
    if any(d != 1 for d in p["lhs_dilation"]) or any(v < 0 for pair in padding for v in pair):
        config = [(a, b, d - 1) for (a, b), d in zip(padding, p["lhs_dilation"], strict=True)]
        x = jax.lax.pad(x, np.float32(0), [(0, 0, 0), *config, (0, 0, 0)])
        padding = ((0, 0),) * rank
    how = Convolution(
        tuple(p["window_strides"]), padding, tuple(p["rhs_dilation"]), p["feature_group_count"]
    )
    return x, w, how


def _tournament(values: list[Foreign]) -> Foreign:
    while len(values) > 1:
        pairs = [larger(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + (values[-1:] if len(values) % 2 else [])
    return values[0]


def _max_pool(node: Node, x: Foreign) -> Foreign:
    import jax

    p = node.params
    if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
        raise UnsupportedOperation(
            f"Layer {node.source!r} uses a dilated max pool, which is not supported in training",
            "Use a max pool without dilation",
        )
    if any(v for pair in p["padding"] for v in pair):
        config = [(a, b, 0) for a, b in p["padding"]]
        x = jax.lax.pad(x, np.float32(_LOWEST), config)
    window, strides, shape = p["window_dimensions"], p["window_strides"], node.outputs[0].shape
    parts = []
    for place in product(*map(range, window)):
        limit = [o + (n - 1) * s + 1 for o, n, s in zip(place, shape, strides, strict=True)]
        parts.append(jax.lax.slice(x, place, limit, strides))
    return _tournament(parts)


def _reduce_max(x: Foreign, axes: tuple[int, ...]) -> Foreign:
    for axis in sorted(axes, reverse=True):
        while x.shape[axis] > 1:
            half = x.shape[axis] // 2
            left, right, rest = (
                x[(slice(None),) * axis + (s,)]
                for s in (slice(half), slice(half, 2 * half), slice(2 * half, None))
            )
            x = larger(left, right)
            if rest.shape[axis]:
                import jax

                x = jax.numpy.concatenate([x, rest], axis)
        x = x.squeeze(axis)
    return x


def _maximum(x: Foreign, y: Foreign) -> Foreign:
    for number, other in ((x, y), (y, x)):
        if isinstance(number, (float, np.ndarray, np.generic)) and np.all(
            np.asarray(number) == -math.inf
        ):
            return other
    return larger(x, y)


class Forward:
    """Runs a graph again with what is replaced; see the module."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._matcher = Matcher(graph)
        self._uses = Counter(i.number for n in graph.nodes for i in n.inputs if isinstance(i, Var))
        self._uses.update(r.number for r in graph.results if isinstance(r, Var))

    def __call__(self, *arguments: Foreign) -> list[Foreign]:
        """Return the results of the graph on ``arguments``."""
        import jax

        scope: dict[int, Foreign] = {v.number: c for v, c in self.graph.constants}
        scope.update(zip((a.number for a in self.graph.arguments), arguments, strict=True))

        def read(operand: Operand) -> Foreign:
            return operand.value if isinstance(operand, Lit) else scope[operand.number]

        for node in self.graph.nodes:
            with jax.named_scope(node.source.replace("/", ".") or "model"):
                results = self._apply(node, read)
            scope.update({o.number: r for o, r in zip(node.outputs, results, strict=True)})
        return [read(r) for r in self.graph.results]

    def _apply(self, node: Node, read: Callable[[Operand], Foreign]) -> Sequence[Foreign]:
        values = [read(i) for i in node.inputs]
        if node.name == "reduce_window_sum" and (pooled := self._pooled(node, read)) is not None:
            return [pooled]
        if node.name in _REPLACED:
            return [_REPLACED[node.name](node, *values)]
        if node.name in _SLOPES:
            axes = node.params.get("axes")
            fixed = None if axes is None else tuple(axes)
            return [_whole(node.name, _SLOPES[node.name])(values[0], fixed)]
        results = node.primitive.bind(*values, **node.params)
        return results if node.primitive.multiple_results else [results]

    def _pooled(self, pool: Node, read: Callable[[Operand], Foreign]) -> Foreign | None:
        """Return conv + bias + pool as one convolution, if that is what stands before ``pool``."""
        import jax

        p, biases, value = pool.params, [], pool.inputs[0]
        window, steps = p["window_dimensions"], p["window_strides"]
        if any(v for pair in p["padding"] for v in pair) or (window[0], window[-1]) != (1, 1):
            return None
        if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
            return None
        while (made := self._matcher.producer(value, "add")) and self._once(value):
            value, bias = made.inputs
            if not isinstance(bias, Var) or any(d != 1 for d in bias.shape[:-1]):
                return None
            biases.append(read(bias))
        conv = self._matcher.producer(value, "conv_general_dilated")
        if conv is None or not self._once(value):
            return None
        rank = len(window)
        numbers = conv.params["dimension_numbers"]
        if numbers.out_spec != (0, rank - 1, *range(1, rank - 1)):
            return None
        x, w, how = _channels_last(conv, *(read(i) for i in conv.inputs))
        inner, stride = window[1:-1], how.strides
        extent = [
            (k - 1) * r + 1 + (n - 1) * s
            for k, r, n, s in zip(w.shape[:-2], how.spread, inner, stride, strict=True)
        ]
        if math.prod(extent) > math.prod(w.shape[:-2]) * math.prod(steps[1:-1]):
            return None
        total = None
        for place in product(*map(range, inner)):
            low = [o * s for o, s in zip(place, stride, strict=True)]
            config = [
                (lo, e - lo - ((k - 1) * r + 1), r - 1)
                for lo, e, k, r in zip(low, extent, w.shape[:-2], how.spread, strict=True)
            ]
            part = jax.lax.pad(w, np.float32(0), [*config, (0, 0, 0), (0, 0, 0)])
            total = part if total is None else total + part
        whole = Convolution(
            tuple(a * b for a, b in zip(stride, steps[1:-1], strict=True)),
            how.padding,
            (1,) * len(stride),
            how.groups,
        )
        result = whole(x, total)
        for bias in reversed(biases):
            result = result + bias * np.float32(math.prod(inner))
        return result

    def _once(self, value: Operand) -> bool:
        return isinstance(value, Var) and self._uses[value.number] == 1


def _scan_row(node: Node, x: Foreign) -> Foreign:
    return x[int(node.params["place"])]


def _scan_stack(node: Node, *rows: Foreign) -> Foreign:
    import jax

    return jax.numpy.stack(rows)


def _absolute(node: Node, x: Foreign) -> Foreign:
    return 2.0 * relu(x) - x


_REPLACED: dict[str, Callable[..., Foreign]] = {
    "max": lambda node, x, y: _maximum(x, y),
    "min": lambda node, x, y: -_maximum(-x, -y),
    "abs": _absolute,
    "reduce_max": lambda node, x: _reduce_max(x, tuple(node.params["axes"])),
    "reduce_min": lambda node, x: -_reduce_max(-x, tuple(node.params["axes"])),
    "reduce_window_max": _max_pool,
    "conv_general_dilated": _convolution,
    "scan_row": _scan_row,
    "scan_stack": _scan_stack,
}
