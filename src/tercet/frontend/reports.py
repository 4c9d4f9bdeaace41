"""What ``tercet check`` tells about a layer."""

from __future__ import annotations

import msgspec


class LayerReport(msgspec.Struct, frozen=True):
    """One layer of a model: supported, or why not and what would work instead."""

    name: str
    kind: str
    supported: bool
    reason: str = ""
    remedy: str = ""
