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
from itertools import product

import numpy as np

from tercet.errors import UnsupportedOperation
from tercet.frontend.derivatives import SLOPES, Convolution, larger, relu, whole
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Graph, Lit, Node, Operand, Var
from tercet.frontend.matching import Matcher

#: Below every value of a model: what pads a max pool.
_LOWEST = -(2.0**12)


def spatial(node: Node) -> Convolution:
    """Return how a convolution of JAX walks, on an input that is padded where it was dilated."""
    p, numbers = node.params, node.params["dimension_numbers"]
    rank = len(numbers.lhs_spec) - 2
    if p["batch_group_count"] != 1 or not 1 <= rank <= 3:
        raise UnsupportedOperation(
            f"Layer {node.source!r} uses a convolution over {rank} axes or in batch groups, which "
            "is not supported in training yet",
            "Use a convolution over one to three axes",
        )
    padding = ((0, 0),) * rank if _is_dilated(node) else _padding(node)
    return Convolution(
        tuple(p["window_strides"]), padding, tuple(p["rhs_dilation"]), p["feature_group_count"]
    )


def kernel_axes(node: Node) -> tuple[int, ...]:
    """Return the axes of a convolution's kernel in the order (*window, C / groups, O)."""
    o, i, *window = node.params["dimension_numbers"].rhs_spec
    return (*window, i, o)


def _padding(node: Node) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in node.params["padding"])


def _is_dilated(node: Node) -> bool:
    cropped = any(v < 0 for pair in _padding(node) for v in pair)
    return cropped or any(d != 1 for d in node.params["lhs_dilation"])


def _channels_last(node: Node, x: Foreign, w: Foreign) -> tuple[Foreign, Foreign, Convolution]:
    import jax

    p, how = node.params, spatial(node)
    n, c, *space = p["dimension_numbers"].lhs_spec
    x, w = x.transpose((n, *space, c)), w.transpose(kernel_axes(node))
    if _is_dilated(node):
        pairs = zip(_padding(node), p["lhs_dilation"], strict=True)
        config = [(a, b, d - 1) for (a, b), d in pairs]
        x = jax.lax.pad(x, np.float32(0), [(0, 0, 0), *config, (0, 0, 0)])
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


@dataclass(frozen=True)
class Folded:
    """A convolution, the biases behind it, and window and strides of the sum over windows."""

    conv: Node
    biases: tuple[Var, ...]
    window: tuple[int, ...]
    steps: tuple[int, ...]

    def extents(self, how: Convolution, taps: Sequence[int]) -> list[int]:
        """Return the spatial extents of the kernel of the whole."""
        return [
            (k - 1) * r + 1 + (n - 1) * s
            for k, r, n, s in zip(taps, how.spread, self.window, how.strides, strict=True)
        ]

    def whole(self, how: Convolution) -> Convolution:
        """Return how the whole walks."""
        strides = tuple(a * b for a, b in zip(how.strides, self.steps, strict=True))
        return Convolution(strides, how.padding, (1,) * len(strides), how.groups)


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

    def folded(self, pool: Node) -> Folded | None:
        """Return the convolution that ``pool`` is taken together with, if there is one."""
        p, biases, value = pool.params, list[Var](), pool.inputs[0]
        window, steps = p["window_dimensions"], p["window_strides"]
        if any(v for pair in p["padding"] for v in pair) or (window[0], window[-1]) != (1, 1):
            return None
        if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
            return None
        while (made := self._matcher.producer(value, "add")) and self._once(value):
            value, bias = made.inputs
            if not isinstance(bias, Var) or any(d != 1 for d in bias.shape[:-1]):
                return None
            biases.append(bias)
        conv = self._matcher.producer(value, "conv_general_dilated")
        if conv is None or not self._once(value):
            return None
        rank = len(window)
        if conv.params["dimension_numbers"].out_spec != (0, rank - 1, *range(1, rank - 1)):
            return None
        found = Folded(conv, tuple(biases), tuple(window[1:-1]), tuple(steps[1:-1]))
        how, kernel = spatial(conv), conv.inputs[1]
        assert isinstance(kernel, Var)
        taps = [kernel.shape[a] for a in kernel_axes(conv)[:-2]]
        saves = math.prod(found.extents(how, taps)) <= math.prod(taps) * math.prod(found.steps)
        return found if saves else None

    def _apply(self, node: Node, read: Callable[[Operand], Foreign]) -> Sequence[Foreign]:
        values = [read(i) for i in node.inputs]
        if node.name == "reduce_window_sum" and (pooled := self._pooled(node, read)) is not None:
            return [pooled]
        if node.name == "conv_general_dilated":
            n, c, *space = node.params["dimension_numbers"].out_spec
            x, w, how = _channels_last(node, *values)
            return [self._convolve(node, how, x, w).transpose(np.argsort((n, *space, c)))]
        if node.name in _REPLACED:
            return [_REPLACED[node.name](node, *values)]
        if node.name in SLOPES:
            axes = node.params.get("axes")
            fixed = None if axes is None else tuple(axes)
            return [whole(node.name, SLOPES[node.name])(values[0], fixed)]
        results = node.primitive.bind(*values, **node.params)
        return results if node.primitive.multiple_results else [results]

    def _convolve(self, node: Node, how: Convolution, x: Foreign, w: Foreign) -> Foreign:
        """Return the result of ``node``, a convolution or a pool that is folded into one."""
        return how(x, w)

    def _pooled(self, pool: Node, read: Callable[[Operand], Foreign]) -> Foreign | None:
        """Return conv + bias + pool as one convolution, if that is what stands before ``pool``."""
        import jax

        found = self.folded(pool)
        if found is None:
            return None
        x, w, how = _channels_last(found.conv, *(read(i) for i in found.conv.inputs))
        extent, total = found.extents(how, w.shape[:-2]), None
        for place in product(*map(range, found.window)):
            low = [o * s for o, s in zip(place, how.strides, strict=True)]
            config = [
                (lo, e - lo - ((k - 1) * r + 1), r - 1)
                for lo, e, k, r in zip(low, extent, w.shape[:-2], how.spread, strict=True)
            ]
            part = jax.lax.pad(w, np.float32(0), [*config, (0, 0, 0), (0, 0, 0)])
            total = part if total is None else total + part
        result = self._convolve(pool, found.whole(how), x, total)
        for bias in reversed(found.biases):
            result = result + read(bias) * np.float32(math.prod(found.window))
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
    "scan_row": _scan_row,
    "scan_stack": _scan_stack,
}
