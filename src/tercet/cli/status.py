"""``tercet status``."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from tercet.service.cluster import Cluster
from tercet.service.messages import Description, Status


def show_status(cluster: Cluster, as_json: bool) -> bool:
    """Print what the workers say of themselves; return whether all are ready."""
    states = cluster.status()
    entries = cluster.config.worker
    ready = all(isinstance(s, Status) and s.ready for s in states)
    if as_json:
        told = [
            msgspec.to_builtins(s) if isinstance(s, Status) else {"error": str(s)} for s in states
        ]
        print(msgspec.json.encode({"ready": ready, "workers": told}).decode())
        return ready
    console = Console()
    workers = Table("worker", "address", "state", "up")
    for entry, state in zip(entries, states, strict=True):
        if isinstance(state, Status):
            text = "ready" if state.ready else f"waits for {', '.join(state.waiting_for)}"
            workers.add_row(entry.name, entry.address, text, f"{state.uptime:.0f} s")
        else:
            workers.add_row(entry.name, entry.address, str(state), "")
    console.print(workers)
    known = [s for s in states if isinstance(s, Status)]
    if known:
        models = Table("model", "program", "input", "served", "answered")
        for model in known[0].models:
            models.add_row(*_model_row(model))
        console.print(models)
    return ready


def _model_row(model: Description) -> tuple[str, str, str, str, str]:
    limit = model.policy.max_requests
    shape = " x ".join("rows" if d == -1 else str(d) for d in model.input_shape)
    return (
        f"{model.owner}/{model.name}",
        model.program_digest[:16],
        shape,
        "yes" if model.policy.serving else "no",
        str(model.used_requests) + ("" if limit is None else f" of {limit}"),
    )
