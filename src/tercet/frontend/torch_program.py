"""An exported PyTorch program, as Tercet reads it: a flat list of calls by name."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tercet.errors import ModelError
from tercet.frontend.values import Array


@dataclass(frozen=True)
class Ref:
    """A value by its name."""

    name: str


@dataclass(frozen=True)
class Kind:
    """What the export knew of a tensor: its dtype, its extents (expressions of the batch size)."""

    dtype: str
    shape: tuple[int | str, ...]

    def at(self, size: int) -> tuple[int, ...]:
        """Return the shape at a batch size."""
        return tuple(d if isinstance(d, int) else extent(d, size) for d in self.shape)


#: A number, a string, ``None``, a ``Dtype``, a ``Ref``, a ``Block`` or a list of them.
Argument: TypeAlias = Any
#: Names that the results go to, as they are nested in what the operation returns.
Names: TypeAlias = "str | tuple[Names, ...] | None"


@dataclass(frozen=True)
class Call:
    """One operation: ``aten.linear.default``, ``_operator.mul``, ``higher_order.cond``.

    ``layer`` is the path of the module that it belongs to ("" for the outermost), ``module`` that
    module's class, ``line`` file and line of the user's own code, if they are known.
    """

    operation: str
    args: tuple[Argument, ...]
    options: Mapping[str, Argument]
    results: Names
    layer: str
    module: str
    line: str = ""


@dataclass(frozen=True)
class Block:
    """Calls with named arguments and results."""

    arguments: tuple[str, ...]
    calls: tuple[Call, ...]
    results: tuple[Argument, ...]
    kinds: Mapping[str, Kind]

    def walk(self) -> Iterator[Call]:
        """Yield every call, those of inner blocks where they are called."""
        for call in self.calls:
            yield call
            for block in call.args:
                if isinstance(block, Block):
                    yield from block.walk()


@dataclass(frozen=True)
class Exported:
    """A whole model.

    Attributes:
        name: the name of the model.
        block: its calls; the arguments are weights and one input.
        data: the argument that is the input.
        weights: the argument of each weight -> its name as PyTorch has it.
        arrays: the numbers of each weight, by that name.
    """

    name: str
    block: Block
    data: str
    weights: Mapping[str, str]
    arrays: Mapping[str, Array]


#: Nodes of SymPy's expressions, as the schema spells them.
_SUMS: Mapping[str, Callable[[list[int]], int]] = {"Add": sum, "Mul": math.prod}


def extent(text: str, size: int) -> int:
    """Return the value of an expression of whole numbers and of the batch size.

    Raises:
        ModelError: if it is anything else.
    """

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "Symbol":
                return size
            if node.func.id == "Integer":
                return value(node.args[0])
            return _SUMS[node.func.id]([value(a) for a in node.args])
        raise ValueError

    try:
        return value(ast.parse(text[:1000], mode="eval").body)
    except (SyntaxError, LookupError, ValueError, RecursionError):
        raise ModelError(
            f"the model has an extent {text[:60]!r} that is no multiple of the batch size",
            "Let every extent but the batch be fixed",
        ) from None
