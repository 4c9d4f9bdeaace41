"""What ``tercet check`` tells about a layer."""

from __future__ import annotations

import msgspec

from tercet.errors import ModelError


class LayerReport(msgspec.Struct, frozen=True):
    """One layer of a model: supported, or why not and what would work instead."""

    name: str
    kind: str
    supported: bool
    reason: str = ""
    remedy: str = ""


def report(name: str, kind: str, error: ModelError | None) -> LayerReport:
    """Return the report on a layer that ``error`` refused, if it did."""
    if error is None:
        return LayerReport(name, kind, True)
    return LayerReport(name, kind, False, error.message, error.remedy)
