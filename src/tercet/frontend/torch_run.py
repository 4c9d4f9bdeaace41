"""An exported PyTorch program as a function of JAX, call by call.

The function is traced like any other (``frontend/jax.py``). Each call runs in the name scope of
the module that it came from, so that reports and errors name layers as PyTorch does. What has no
row in the table of ATen operations becomes a primitive without a rule, which is refused, by the
name of its layer, when the trace is lowered.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import prod

import numpy as np

from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.aten import SHAPING, Refused, find, plain
from tercet.frontend.aten.dtypes import Dtype
from tercet.frontend.aten.operation import Item
from tercet.frontend.foreign import Foreign
from tercet.frontend.graph import Node
from tercet.frontend.torch_program import Argument, Block, Call, Exported, Names, Ref

#: The name scope of what belongs to no inner module.
OUTERMOST = "model"
#: The innermost scope, where the line is not known.
_NOWHERE = "-"

#: Operations that check what the trace knows already.
_CHECKS = frozenset(
    {
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
#: Arithmetic on extents, by name: nothing else of Python is ever called.
_NUMBERS: Mapping[str, Callable[..., Item]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt",
            "ge", "and_", "or_", "getitem",
        )
    },
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "math.trunc": int,
}  # fmt: skip
#: Calls of a block in another mode, and the number of arguments before the block.
_BLOCKS = {"higher_order.wrap_with_set_grad_enabled": 1, "higher_order.wrap_with_autocast": 4}


def function_of(model: Exported) -> Callable[..., Foreign]:
    """Return ``f(x, *weights)`` that computes what ``model`` does, weights in their order.

    Raises:
        ModelError: if the model takes something else than real numbers.
    """
    try:
        kind = Dtype(model.block.kinds[model.data].dtype).numpy()
    except Refused as refused:
        raise ModelError(
            f"Model {model.name!r} works {refused}",
            "Let it take float32 or whole numbers: export it with x.float()",
        ) from None
    if kind == np.bool_:
        raise ModelError(
            f"Model {model.name!r} takes bool input; only numbers are supported",
            "Encode it as numbers where it is still plain",
        )

    def call(x: Foreign, *weights: Foreign) -> Foreign:
        given = dict(zip(model.arrays, weights, strict=True))
        values: dict[str, Item] = {
            argument: given[name] for argument, name in model.weights.items() if name in given
        }
        values[model.data] = x if x.dtype == kind else x.astype(kind)
        results = _Run(model.block, values, x.shape[0]).run()
        if len(results) != 1:
            raise ModelError(
                f"the model has {len(results)} outputs", "Share a model with exactly one output"
            )
        return results[0]

    return call


def told(node: Node) -> tuple[str, str]:
    """Return the operation of PyTorch that a node belongs to, and where it was written."""
    _, operation, line, *_ = (*node.source.split("/"), "", "", "")
    return operation.removesuffix(".default") or node.name, "" if line == _NOWHERE else line


class _Run:
    """One walk through a block, at a concrete batch size."""

    def __init__(self, block: Block, values: dict[str, Item], size: int) -> None:
        self.block, self.values, self.size = block, values, size
        #: Values that share memory with others in PyTorch.
        self.views: set[str] = set()

    def run(self) -> list[Item]:
        """Return the results of the block."""
        import jax

        for call in self.block.calls:
            if call.operation in _BLOCKS:
                self.assign(call.results, self.call(call))
                continue
            with ExitStack() as scopes:
                for part in (call.layer or OUTERMOST, call.operation, call.line or _NOWHERE):
                    scopes.enter_context(jax.named_scope(part.replace("/", ".")))
                self.assign(call.results, self.call(call))
        return [plain(r) for r in _flat(self.read(self.block.results))]

    def assign(self, names: Names, value: Item) -> None:
        """Bind the names of results."""
        if isinstance(names, str):
            self.values[names] = value
        elif names:
            for name, one in zip(names, value, strict=True):
                self.assign(name, one)

    def read(self, argument: Argument) -> Item:
        """Return ``argument`` with every name replaced by its value."""
        if isinstance(argument, Ref):
            return self.values[argument.name]
        if isinstance(argument, (list, tuple)):
            return [self.read(a) for a in argument]
        return argument

    def call(self, call: Call) -> Item:
        """Return the result of one call."""
        args = [self.read(a) for a in call.args]
        options = {k: self.read(v) for k, v in call.options.items()}
        if call.operation in _NUMBERS:
            return _NUMBERS[call.operation](*args)
        if call.operation in _BLOCKS:
            block, *inner = args[_BLOCKS[call.operation] :]
            values = dict(zip(block.arguments, inner, strict=True))
            return _Run(block, values, self.size).run()
        space, _, name = call.operation.partition(".")
        packet = name.partition(".")[0]
        if packet in _CHECKS:
            return None
        if packet == "sym_size":
            return args[0].shape[args[1]]
        if packet == "sym_numel":
            return prod(args[0].shape)
        try:
            return self.apply(call, space, name, args, options)
        except Refused as refused:
            return self.opaque(call, args, str(refused))

    def apply(
        self, call: Call, space: str, name: str, args: list[Item], options: dict[str, Item]
    ) -> Item:
        """Apply the row of an operation; one that works in place gives its argument a new value."""
        packet, _, overload = name.partition(".")
        row = find(name) if space == "aten" else None
        held = [a.name for a in call.args if isinstance(a, Ref)]
        if row is None and packet.endswith("_") and not packet.endswith("__"):
            row = find(f"{packet[:-1]}.{overload}")
            if row is None or not held or held[0] in self.views:
                # Left as it is it would change nothing, and the result would be wrong.
                raise UnsupportedOperation(
                    f"Layer {call.layer or OUTERMOST!r} ({call.module}) writes into a part of a "
                    f"tensor in place ({call.operation})",
                    "Save the form that writes nothing: program.run_decompositions({})",
                )
            self.values[held[0]] = row(args, options)
            return self.values[held[0]]
        if row is None:
            raise Refused("")
        if packet in SHAPING:
            # What is read through and what comes out may be one memory.
            self.views.update(held[:1], _strings(call.results))
        return row(args, options)

    def opaque(self, call: Call, args: Sequence[Item], detail: str) -> Item:
        """Leave an operation as it is, for the lowering to refuse."""
        import jax
        from jax.extend.core import Primitive

        operands = [
            a for a in map(plain, _flat(args)) if hasattr(a, "dtype") and hasattr(a, "shape")
        ]
        names = _strings(call.results)
        kinds = [self.block.kinds.get(name) for name in names]
        shapes = [jax.core.ShapedArray(k.at(self.size), _kind(k.dtype)) for k in kinds if k]
        primitive = Primitive(call.operation)
        primitive.multiple_results = True
        primitive.def_abstract_eval(lambda *_, **__: shapes)
        results = primitive.bind(*operands, detail=detail)
        found = dict(zip([n for n, k in zip(names, kinds, strict=True) if k], results, strict=True))
        return _nested(call.results, found)


def _kind(dtype: str) -> np.dtype[np.generic]:
    try:
        return Dtype(dtype).numpy()
    except Refused:
        return np.dtype(np.float32)


def _strings(names: Names) -> list[str]:
    return [n for n in _flat(names) if isinstance(n, str)]


def _nested(names: Names, values: Mapping[str, Item]) -> Item:
    if isinstance(names, tuple):
        return [_nested(n, values) for n in names]
    return values.get(names) if names else None


def _flat(item: Item) -> list[Item]:
    if isinstance(item, (list, tuple)):
        return [leaf for i in item for leaf in _flat(i)]
    return [item]
