"""``tercet status``."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from tercet.crypto.identity import Identity
from tercet.errors import ConfigError
from tercet.program.serving import Mode
from tercet.program.types import Shape
from tercet.service.cluster import Cluster
from tercet.service.config import ClusterConfig
from tercet.service.connection import Connection
from tercet.service.messages import Description, Policy, Status
from tercet.service.model import utc

_TIMEOUT = 10.0


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
        models = Table("model", "program", "input", "output", "served", "answered")
        for model in known[0].models:
            models.add_row(*_model_row(model))
        console.print(models)
    return ready


def show_metrics(cluster: ClusterConfig, reader: Identity, worker: str) -> str:
    """Return the metrics of one worker.

    Raises:
        ConfigError: if there is no worker of that name.
        RefusedError: if ``reader`` may not read them.
    """
    names = [w.name for w in cluster.worker]
    if worker not in names:
        raise ConfigError(f"no worker {worker!r} in cluster.toml", f"Name one of {names}")
    only = ClusterConfig([cluster.worker[names.index(worker)]])
    with Connection(only, reader) as connection:
        (text,) = connection.ask_all("/v1/metrics", [None], str, _TIMEOUT)
    return text


def policy_words(policy: Policy) -> str:
    """Return what a policy allows, in words; empty without a limit."""
    limits = [
        f"{number} {what}"
        for number, what in ((policy.max_requests, "requests"), (policy.max_rows, "rows"))
        if number is not None
    ]
    words = [f"for {', '.join(limits)}"] if limits else []
    if policy.expires is not None:
        words.append(f"until {utc(policy.expires)}")
    if policy.clients is not None:
        count = len(policy.clients)
        named = f"{count} named client{'s' * (count > 1)}" if count else "other clients"
        words.append(f"to {named}")
    if policy.max_rate is not None:
        words.append(f"at {policy.max_rate} requests a minute of a client")
    release = policy.release
    if release.mode is not Mode.RAW:
        words.append(f"as {release.mode}" + (f" of {release.top}" if release.top else ""))
    if release.decimals is not None:
        words.append(f"with {release.decimals} decimals")
    if release.clamp is not None:
        words.append(f"with inputs from {release.clamp[0]:g} to {release.clamp[1]:g}")
    return ", ".join(words)


def _model_row(model: Description) -> tuple[str, ...]:
    limit = model.policy.max_requests
    served = (policy_words(model.policy) or "yes") if model.policy.serving else "no"
    return (
        model.full_name,
        model.program_digest[:16],
        _shape(model.input_shape),
        _shape(model.output_shape),
        f"{served}; faulty: {model.fault}" if model.fault else served,
        str(model.used_requests) + ("" if limit is None else f" of {limit}"),
    )


def _shape(shape: Shape) -> str:
    return " x ".join("rows" if d == -1 else str(d) for d in shape)
