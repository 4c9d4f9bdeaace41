"""``tercet check``: what a model will need, before anything of it is shared."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tercet.errors import UnsupportedOperation
from tercet.frontend.reports import LayerReport
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.runtime.estimate import by_source, estimate, totals


def show_check(model: str, sample: Any | None, batch: int, as_json: bool) -> bool:
    """Print a line a layer and the totals for ``batch`` rows; return whether all is supported."""
    from tercet.api import lower
    from tercet.frontend.keras import supported_layers

    layers = supported_layers(model)
    supported = all(layer.supported for layer in layers)
    costs: dict[str, tuple[int, int]] = {}
    total, error = None, ""
    if supported:
        try:
            rows = None if sample is None else np.asarray(sample)
            instructions = estimate(lower(model, sample=rows).program, batch, ReplicatedCost())
            costs = {c.source: (c.bytes, c.rounds) for c in by_source(instructions)}
            total = totals(instructions)
        except UnsupportedOperation as unsupported:
            supported, error = False, str(unsupported)
    if as_json:
        print(
            json.dumps(
                {
                    "supported": supported,
                    "error": error,
                    "batch": batch,
                    "bytes": total.bytes if total else None,
                    "rounds": total.rounds if total else None,
                    "layers": [_as_dict(layer, costs) for layer in layers],
                }
            )
        )
        return supported
    console = Console()
    table = Table("layer", "kind", "supported", "bytes", "rounds")
    for layer in layers:
        sent, rounds = costs.get(layer.name, (0, 0))
        verdict = "yes" if layer.supported else f"no: {layer.reason} {layer.remedy}"
        table.add_row(layer.name, layer.kind, verdict, f"{sent:,}", str(rounds))
    if total is not None:
        table.add_section()
        table.add_row("total", "", f"{batch} rows", f"{total.bytes:,}", str(total.rounds))
    console.print(table)
    if error:
        console.print(error)
    return supported


def _as_dict(layer: LayerReport, costs: dict[str, tuple[int, int]]) -> dict[str, Any]:
    sent, rounds = costs.get(layer.name, (0, 0))
    return {
        "name": layer.name,
        "kind": layer.kind,
        "supported": layer.supported,
        "reason": layer.reason,
        "remedy": layer.remedy,
        "bytes": sent,
        "rounds": rounds,
    }
