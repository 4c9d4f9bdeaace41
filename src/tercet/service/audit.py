"""The audit log: who asked what and when, chained by hashes. Never a value, share or key.

Entry n is a JSON text with sorted keys; its hash is SHA-256 of the hash of entry n - 1 (32 zero
bytes for the first) followed by the text. Whoever changes, drops or inserts an entry must compute
every later hash anew; the hash of the last entry, noted elsewhere, tells even then, and also
whether entries were cut off at the end.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tercet.errors import ConfigError, IntegrityError
from tercet.service.database import FILE

_START = bytes(32)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        who: name of the owner or client.
        key: its fingerprint.
        action: ``predict``, ``share``, ``serve``, ``stop`` or ``remove``.
        model: the model's id, hexadecimal.
        outcome: ``counted``, ``answered``, ``done`` or why not.
        request: the request's id, hexadecimal.
        name: the model's name and version, for owners' actions.
        rows: rows of a prediction.
        detail: the policy that was set.
    """

    who: str
    key: str
    action: str
    model: str
    outcome: str
    request: str = ""
    name: str = ""
    rows: int = 0
    detail: str = ""


class Entry(NamedTuple):
    """An entry as it is stored."""

    number: int
    text: str
    hash: bytes


def append(db: sqlite3.Connection, events: Sequence[Event]) -> None:
    """Append entries, within the caller's transaction."""
    if not events:
        return
    last = db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = last or (0, _START)
    rows = []
    for event in events:
        number += 1
        fields = {k: v for k, v in event._asdict().items() if v}
        text = _canonical({"number": number, "time": round(time.time(), 3), **fields})
        previous = _hash(previous, text)
        rows.append((number, text, previous))
    db.executemany("INSERT INTO audit VALUES (?, ?, ?)", rows)


def read(folder: Path) -> Iterator[Entry]:
    """Yield all entries in the state folder of a worker, which may be running.

    Raises:
        ConfigError: if there is no log to read.
    """
    if not (folder / FILE).exists():
        raise ConfigError(f"no state in {folder}", "Name the worker's own configuration")
    try:
        db = sqlite3.connect(f"{(folder / FILE).resolve().as_uri()}?mode=ro", uri=True)
        try:
            for row in db.execute("SELECT number, entry, hash FROM audit ORDER BY number"):
                yield Entry(*row)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise ConfigError(f"cannot read {folder / FILE}: {error}", "Check its owner") from None


def check(previous: Entry | None, entry: Entry) -> None:
    """Check that ``entry`` follows ``previous``.

    Raises:
        IntegrityError: naming the entry that does not.
    """
    number = 1 if previous is None else previous.number + 1
    before = _START if previous is None else previous.hash
    try:
        told = json.loads(entry.text).get("number")
    except (ValueError, AttributeError):
        told = None
    if entry.number != number or told != number or entry.hash != _hash(before, entry.text):
        raise IntegrityError(
            f"the audit log is broken at entry {number}",
            "It or one before it was changed, dropped or inserted after it was written",
        )


def _canonical(fields: dict[str, object]) -> str:
    return _ENCODER.encode(fields)


def _hash(previous: bytes, text: str) -> bytes:
    return hashlib.sha256(previous + text.encode()).digest()
