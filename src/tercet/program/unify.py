"""Making the batch axis symbolic: two traces at different batch sizes become one program.

A trace of a framework freezes the batch size. The same model traced at two sizes gives two
programs of the same instructions, in which an extent that differs must be the same multiple of
both sizes. Whatever else differs depends on the batch in a way that the language cannot say.
"""

from __future__ import annotations

import msgspec

from tercet.errors import ModelError, ProgramError
from tercet.program.builder import Builder
from tercet.program.program import Attribute, Program, Role


def unify(first: Program, size_first: int, second: Program, size_second: int) -> Program:
    """Return the program with a symbolic batch of which both arguments are instances.

    Args:
        first: trace at batch size ``size_first``, concrete shapes.
        size_first: the first batch size.
        second: trace of the same model at ``size_second``.
        size_second: the second batch size, different from the first and coprime to it.

    Raises:
        ModelError: if the two are not instances of one program, naming the layer.
    """

    def extent(a: int, b: int, where: str) -> int:
        if a == b:
            return a
        if a * size_second == b * size_first and a % size_first == 0:
            return -(a // size_first)
        raise ModelError(
            f"{where or 'the model'} depends on the batch size in a way that is not a multiple "
            f"of it ({a} for {size_first} rows, {b} for {size_second})",
            "Treat every row of the batch alike",
        )

    def attribute(a: Attribute, b: Attribute, where: str) -> Attribute:
        if isinstance(a, int) and a == b:  # a plain number is never an extent
            return a
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return tuple(extent(x, y, where) for x, y in zip(a, b, strict=True))
        raise _differ(where)

    if len(first.inputs) != len(second.inputs) or len(first.instructions) != len(
        second.instructions
    ):
        raise _differ("")
    builder = Builder(first.scale)
    handles: list[int] = []
    for a, b in zip(first.inputs, second.inputs, strict=True):
        shape = attribute(a.type.shape, b.type.shape, a.name)
        assert isinstance(shape, tuple)
        if a.role is not Role.INPUT and shape != a.type.shape:
            raise _differ(a.name)
        handles.append(builder.input(a.name, a.role, shape, a.type.scale))
    for x, y in zip(first.instructions, second.instructions, strict=True):
        if (x.op, x.args, x.attrs.keys()) != (y.op, y.args, y.attrs.keys()):
            raise _differ(x.source)
        builder.source = x.source
        attrs = {k: attribute(x.attrs[k], y.attrs[k], x.source) for k in x.attrs}
        try:
            handles.append(builder.emit(x.op, *(handles[n] for n in x.args), **attrs))
        except ProgramError as error:
            raise ModelError(
                f"{x.source or 'the model'} mixes the rows of a batch: {error.message}",
                "Treat every row of the batch alike",
            ) from None
    result = builder.finish(*(handles[o] for o in first.outputs))
    return msgspec.structs.replace(result, protocol=first.protocol)


def _differ(where: str) -> ModelError:
    return ModelError(
        f"{where or 'the model'} runs other operations at another batch size",
        "Treat every row of the batch alike",
    )
