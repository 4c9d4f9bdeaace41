"""What ``tercet check`` tells about a layer and the operations in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tercet.errors import ModelError

#: Refusals that one message lists.
_LISTED = 20


class OperationReport(msgspec.Struct, frozen=True):
    """One operation on secret values, as often as it stands at one place of a layer.

    Attributes:
        name: as the framework has it.
        place: file and line of the user's own code, if it is known.
        made: operations of the language that it became.
        supported: whether it has a rule.
        reason: why not.
        remedy: what to use instead.
        count: how often it stands there.
    """

    name: str
    place: str = ""
    made: tuple[str, ...] = ()
    supported: bool = True
    reason: str = ""
    remedy: str = ""
    count: int = 1


class LayerReport(msgspec.Struct, frozen=True):
    """One layer of a model: supported, or why not and what would work instead."""

    name: str
    kind: str
    supported: bool
    reason: str = ""
    remedy: str = ""
    operations: tuple[OperationReport, ...] = ()


def layer_reports(
    kinds: Mapping[str, str],
    operations: Iterable[tuple[str, OperationReport]],
    errors: Mapping[str, ModelError] | None = None,
) -> list[LayerReport]:
    """Return the report on each layer of ``kinds`` and on each that ``operations`` name.

    Args:
        kinds: the class of each layer, by its label, in order.
        operations: in order, each with the label of its layer.
        errors: what stands against a layer as a whole; told instead of its operations' reasons.
    """
    found: dict[str, dict[tuple[str, str], OperationReport]] = {label: {} for label in kinds}
    for label, one in operations:
        places = found.setdefault(label, {})
        known = places.get((one.name, one.place))
        places[one.name, one.place] = one if known is None else _merged(known, one)
    reports = []
    for label, places in found.items():
        told = [ModelError(o.reason, o.remedy) for o in places.values() if not o.supported]
        if errors and label in errors:
            told = [errors[label]]
        message, remedy = joined(told)
        kind = kinds.get(label, "function")
        reports.append(LayerReport(label, kind, not told, message, remedy, tuple(places.values())))
    return reports


def _merged(first: OperationReport, second: OperationReport) -> OperationReport:
    told = second if first.supported else first
    return msgspec.structs.replace(
        first,
        made=tuple(dict.fromkeys((*first.made, *second.made))),
        supported=told.supported,
        reason=told.reason,
        remedy=told.remedy,
        count=first.count + second.count,
    )


def joined(errors: Sequence[ModelError]) -> tuple[str, str]:
    """Return one message and one remedy for several refusals, nothing twice."""
    messages = list(dict.fromkeys(e.message for e in errors))
    if len(messages) > _LISTED:
        messages[_LISTED:] = [f"and {len(messages) - _LISTED} more"]
    remedies = dict.fromkeys(e.remedy for e in errors[:_LISTED] if e.remedy)
    return "; ".join(messages), "; ".join(remedies)
