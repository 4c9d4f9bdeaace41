"""Examining a cluster from a caller's machine: what is wrong, where, and what to do about it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tercet import __version__
from tercet.crypto.identity import Identity
from tercet.errors import TercetError, TransportError
from tercet.service.config import ClusterConfig, WorkerEntry
from tercet.service.connection import Connection
from tercet.service.http import MAX_PROBE
from tercet.service.messages import Description, Line, Status

#: Clocks may differ by this many seconds: a policy's expiry is a time.
MAX_CLOCK_DIFFERENCE = 5.0

_TIMEOUT = 15.0
#: A worker gives each of its pings 10 s.
_LINES_TIMEOUT = 150.0
_PINGS = 5


@dataclass(frozen=True)
class Check:
    """One line of an examination.

    Attributes:
        what: ``reach``, ``certificate``, ``version``, ``clock``, ``latency``, ``bandwidth``,
            ``links``, ``line to NAME``, ``ready`` or ``models``.
        worker: whom it is about; empty if all three.
        ok: the verdict.
        told: what was found.
        remedy: what to do, if it is not ok.
        value: the figure, where there is one: seconds, or bytes a second.
    """

    what: str
    worker: str
    ok: bool
    told: str
    remedy: str = ""
    value: float | None = None


def examine(cluster: ClusterConfig, identity: Identity) -> list[Check]:
    """Examine the three workers, one after the other, as ``identity``.

    Raises nothing of what it finds.
    """
    checks: list[Check] = []
    states: list[Status | None] = []
    for entry in cluster.worker:
        # A connection of its own, so that its times are those of this worker alone.
        with Connection(ClusterConfig([entry]), identity) as connection:
            asked = time.time()
            (state,) = connection.ask_each("/v1/status", [None], Status, _TIMEOUT)
            if isinstance(state, Status):
                checks += _healthy(entry, state, (asked + time.time()) / 2)
                checks += _network(entry, connection)
                if not _missing(cluster, state):
                    checks += _lines(entry, connection)
            else:
                checks.append(_unreachable(entry, state))
            states.append(state if isinstance(state, Status) else None)
    for entry, found in zip(cluster.worker, states, strict=True):
        if found is not None:
            checks += _standing(entry, found, cluster, states)
    checks += _models([s for s in states if s is not None])
    return checks


def _unreachable(entry: WorkerEntry, error: BaseException) -> Check:
    message = error.message if isinstance(error, TercetError) else str(error)
    remedy = error.remedy if isinstance(error, TercetError) else "See its log"
    if "certificate is not on the list" in message:
        return Check(
            "certificate",
            entry.name,
            False,
            f"whoever answers at {entry.address} has another key than cluster.toml says",
            f"Compare fingerprints with {entry.name}'s operator "
            f"(expected {entry.identity.fingerprint[:16]}); do not send anything until they match",
        )
    if "have our certificate on its list" in message:
        return Check(
            "certificate",
            entry.name,
            False,
            "it does not accept the identity that asks",
            f"Ask {entry.name}'s operator to list your certificate among owners or clients",
        )
    if isinstance(error, TransportError):
        remedy = f"Start it there, or open its port in the firewall: {entry.address}"
    return Check("reach", entry.name, False, message, remedy)


def _healthy(entry: WorkerEntry, state: Status, middle: float) -> Iterator[Check]:
    yield Check("reach", entry.name, True, f"answers at {entry.address}")
    fingerprint = entry.identity.fingerprint[:16]
    named = state.name == entry.name
    yield Check(
        "certificate",
        entry.name,
        named,
        f"the one of cluster.toml ({fingerprint})" if named else f"it calls itself {state.name}",
        "" if named else "Give everybody the same cluster.toml",
    )
    same = state.version == __version__
    yield Check(
        "version",
        entry.name,
        same,
        state.version if same else f"{state.version}, and {__version__} here",
        "" if same else "Install the same version of Tercet everywhere",
    )
    difference = state.clock - middle
    right = abs(difference) <= MAX_CLOCK_DIFFERENCE
    yield Check(
        "clock",
        entry.name,
        right,
        f"{difference:+.1f} s from the one here",
        "" if right else "Let both machines set their clocks by the network: timedatectl",
        difference,
    )


def _network(entry: WorkerEntry, connection: Connection) -> Iterator[Check]:
    try:
        latency = statistics.median(_probe(connection, b"") for _ in range(_PINGS))
        yield Check("latency", entry.name, True, f"{latency * 1e3:.1f} ms from here", value=latency)
        seconds = max(_probe(connection, bytes(MAX_PROBE - 16)) - latency, 1e-6)
        rate = MAX_PROBE / seconds
        yield Check(
            "bandwidth", entry.name, True, f"{rate * 8 / 1e6:.0f} Mbit/s from here", value=rate
        )
    except TercetError as error:
        yield Check("latency", entry.name, False, error.message, error.remedy)


def _lines(entry: WorkerEntry, connection: Connection) -> Iterator[Check]:
    """Tell what a worker measures of its lines to the other two."""
    try:
        (lines,) = connection.ask_all("/v1/lines", [None], list[Line], _LINES_TIMEOUT)
    except TercetError as error:
        yield Check("lines", entry.name, False, error.message, error.remedy)
        return
    for line in lines:
        told = f"{line.latency * 1e3:.1f} ms there and back, {line.bandwidth * 8 / 1e6:.0f} Mbit/s"
        yield Check(f"line to {line.peer}", entry.name, True, told, value=line.bandwidth)


def _probe(connection: Connection, body: bytes) -> float:
    """Return the seconds that a worker takes to receive ``body`` and answer."""
    started = time.perf_counter()
    connection.ask_all("/v1/probe", [body], int, _TIMEOUT)
    return time.perf_counter() - started


def _missing(cluster: ClusterConfig, state: Status) -> list[WorkerEntry]:
    """Return the workers to which a worker has no link."""
    return [e for e in cluster.worker if e.name != state.name and e.name in state.waiting_for]


def _standing(
    entry: WorkerEntry, state: Status, cluster: ClusterConfig, states: Sequence[Status | None]
) -> Iterator[Check]:
    """Judge a worker's links to the others, of which only it can tell, and what else it lacks."""
    others = [e for e in cluster.worker if e.name != entry.name]
    running = {s.name for s in states if s is not None}
    if missing := _missing(cluster, state):
        remedies = [
            f"Let {entry.name} and {e.name} reach each other at {e.address} and {e.data_address} "
            "and at their own, with the same cluster.toml; see their logs"
            if e.name in running
            else f"Bring {e.name} back first"
            for e in missing
        ]
        names = " and ".join(e.name for e in missing)
        yield Check("links", entry.name, False, f"no link to {names}", "; ".join(remedies))
        return
    yield Check("links", entry.name, True, f"to {others[0].name} and {others[1].name} stand")
    faults = [f"{m.full_name}: {m.fault}" for m in state.models if m.fault]
    if not state.waiting_for:
        yield Check("ready", entry.name, True, "holds what the others hold, loaded")
    elif faults:
        remedy = f"Restore {entry.name}'s state folder from its backup, or share the model again"
        yield Check("ready", entry.name, False, "; ".join(faults), remedy)
    else:
        yield Check(
            "ready",
            entry.name,
            False,
            f"waits for {', '.join(state.waiting_for)}",
            "Wait some seconds (--wait 10); if it stays so, see its log, and let the owner remove "
            "and share again what the workers hold differently",
        )


def _models(states: Sequence[Status]) -> Iterator[Check]:
    """Compare what the workers that answered hold."""
    keys = {_key(m): m for s in states for m in s.models}
    if not keys:
        if states:
            yield Check("models", "", True, "none is shared")
        return
    for key, model in sorted(keys.items(), key=lambda item: (item[1].owner, item[1].name)):
        holders = [s.name for s in states if key in {_key(m) for m in s.models}]
        name = model.full_name
        if len(holders) == len(states):
            told = f"{name}: program {model.program_digest[:16]} at {', '.join(holders)}"
            yield Check("models", "", True, told)
        else:
            yield Check(
                "models",
                "",
                False,
                f"{name}: program {model.program_digest[:16]} only at {', '.join(holders)}",
                "Its owner should remove it and share it again",
            )


def _key(model: Description) -> tuple[bytes, str]:
    return model.id, model.program_digest
