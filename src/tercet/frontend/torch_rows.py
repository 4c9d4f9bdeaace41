"""Linear layers that PyTorch applies to all rows at once, with the axes left apart.

``torch.nn.MultiheadAttention`` merges time and batch into one axis in front of its last linear
layer and splits it again behind. The batch lies inside there, so that the merged axis is none that
the language can name. A linear layer takes the last axis alone: reshape, layer, view to (..., E)
means the same as a reshape to (..., D) and the layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tercet.frontend.torch_program import Argument, Block, Call, Ref

_RESHAPES = frozenset({"view", "reshape", "_unsafe_view"})
#: Operations on rows, and which argument holds the rows.
_LAYERS = {"linear": 0, "mm": 0, "addmm": 1}


def split_rows(block: Block) -> Block:
    """Return ``block`` with every such linear layer applied to axes that are left apart."""
    made = {c.results: c for c in block.calls if isinstance(c.results, str)}
    uses = Counter(_refs([*((c.args, *c.options.values()) for c in block.calls), block.results]))
    replaced: dict[str, list[Call]] = {}
    dropped: set[str] = set()
    for view in block.calls:
        found = _find(block, view, made, uses)
        if found is None or not isinstance(view.results, str):
            continue
        merge, layer = found
        place, sizes = _LAYERS[_packet(layer)], view.args[1]
        width = block.kinds[str(merge.results)].shape[-1]
        apart = replace(merge, args=(merge.args[0], [*sizes[:-1], width]))
        args = list(layer.args)
        assert isinstance(merge.results, str)
        args[place] = Ref(merge.results)
        replaced[view.results] = [apart, replace(layer, args=tuple(args), results=view.results)]
        dropped |= {str(merge.results), str(layer.results)}
    calls: list[Call] = []
    for call in block.calls:
        if isinstance(call.results, str) and call.results in replaced:
            calls += replaced[call.results]
        elif call.results not in dropped:
            calls.append(call)
    return replace(block, calls=tuple(calls))


def _find(
    block: Block, view: Call, made: Mapping[str, Call], uses: Counter[str]
) -> tuple[Call, Call] | None:
    """Return the reshape and the layer in front of ``view``, if it splits what they merged."""
    if _packet(view) not in _RESHAPES or not isinstance(view.args[1], list):
        return None
    layer = _only(view.args[0], made, uses)
    if layer is None or _packet(layer) not in _LAYERS or layer.options:
        return None
    merge = _only(layer.args[_LAYERS[_packet(layer)]], made, uses)
    if merge is None or _packet(merge) not in _RESHAPES:
        return None
    rows, result = (block.kinds.get(str(c.results)) for c in (merge, layer))
    if rows is None or result is None or len(rows.shape) != 2:
        return None
    return (merge, layer) if view.args[1][-1] == result.shape[-1] else None


def _only(argument: Argument, made: Mapping[str, Call], uses: Counter[str]) -> Call | None:
    if not isinstance(argument, Ref) or uses[argument.name] != 1:
        return None
    return made.get(argument.name)


def _packet(call: Call) -> str:
    return call.operation.removeprefix("aten.").partition(".")[0]


def _refs(argument: Argument) -> Iterator[str]:
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, (list, tuple)):
        for one in argument:
            yield from _refs(one)
