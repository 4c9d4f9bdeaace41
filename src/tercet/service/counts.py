"""The table of counted requests: each counts once, since one change of its model's policy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from tercet.service.audit import Event


class Request(NamedTuple):
    """A request that is counted: ``client`` is a fingerprint, ``who`` its name."""

    id: bytes
    model: bytes
    client: str
    rows: int
    who: str = ""

    def event(self, outcome: str) -> Event:
        """Return what the audit log says of it."""
        return Event(
            self.who,
            self.client,
            "predict",
            self.model.hex(),
            outcome,
            self.id.hex(),
            rows=self.rows,
        )


def insert(db: sqlite3.Connection, requests: Sequence[Request], change: bytes) -> list[Request]:
    """Count requests within the caller's transaction; return those that were not counted before."""
    now, new = time.time(), []
    for request in requests:
        inserted = db.execute(
            "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?)",
            (request.id, request.model, change, request.client, request.rows, now),
        ).rowcount
        if inserted:
            new.append(request)
            db.execute(
                "UPDATE models SET used_requests = used_requests + 1, used_rows = used_rows + ? "
                "WHERE id = ? AND change = ?",
                (request.rows, request.model, change),
            )
    return new


def is_counted(db: sqlite3.Connection, request: bytes) -> bool:
    """Whether a request of this id was counted, ever."""
    return bool(db.execute("SELECT 1 FROM requests WHERE id = ?", (request,)).fetchone())


def recent(db: sqlite3.Connection, model: bytes, change: bytes, limit: int) -> list[Request]:
    """Return the latest requests counted for a model since a change."""
    rows = db.execute(
        "SELECT id, model, client, rows FROM requests WHERE model = ? AND change = ? "
        "ORDER BY rowid DESC LIMIT ?",
        (model, change, limit),
    )
    return [Request(*row) for row in rows.fetchall()]
