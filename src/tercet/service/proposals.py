"""The table of changes that owners asked for and that are not applied yet."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tercet.service.messages import Change
from tercet.service.model import Model


class Proposal(NamedTuple):
    """A change, who asked for it (name and fingerprint), its models, and when."""

    id: bytes
    owner: tuple[str, str]
    models: list[bytes]
    asked: Change
    time: float


def write(
    db: sqlite3.Connection, asked: Change, models: Sequence[Model], owner: tuple[str, str]
) -> None:
    """Write down a change."""
    db.execute(
        "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?)",
        (
            asked.id, *owner, msgspec.msgpack.encode([m.id for m in models]),
            msgspec.msgpack.encode(asked), time.time(),
        ),
    )  # fmt: skip


def read(db: sqlite3.Connection) -> list[Proposal]:
    """Return all, by age."""
    rows = db.execute(
        "SELECT id, owner, owner_key, models, asked, time FROM changes ORDER BY time"
    ).fetchall()
    return [
        Proposal(
            row[0],
            (row[1], row[2]),
            msgspec.msgpack.decode(row[3], type=list[bytes]),
            msgspec.msgpack.decode(row[4], type=Change),
            row[5],
        )
        for row in rows
    ]


def carry_out(db: sqlite3.Connection, proposal: Proposal, model: Model) -> tuple[str, str]:
    """Do to one model what was asked; return the action and its detail for the audit log."""
    asked, policy = proposal.asked, proposal.asked.policy
    if asked.remove:
        db.execute("DELETE FROM models WHERE id = ?", (model.id,))
        return "remove", ""
    if policy is None:
        stopped = msgspec.structs.replace(model.policy, serving=False)
        db.execute(
            "UPDATE models SET policy = ?, change = ? WHERE id = ?",
            (msgspec.msgpack.encode(stopped), proposal.id, model.id),
        )
        return "stop", ""
    db.execute(
        "UPDATE models SET policy = ?, change = ?, used_requests = 0, used_rows = 0 WHERE id = ?",
        (msgspec.msgpack.encode(policy), proposal.id, model.id),
    )
    return "serve", msgspec.json.encode(policy).decode()


def forget(db: sqlite3.Connection, proposal: Proposal) -> None:
    """Delete a change that was applied, and older ones of its models: these are out of date."""
    for other in read(db):
        if other.time <= proposal.time and set(other.models) & set(proposal.models):
            db.execute("DELETE FROM changes WHERE id = ?", (other.id,))
