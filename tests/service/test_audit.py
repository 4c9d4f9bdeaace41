"""The audit log: a change anywhere in it is found, at its place."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tercet.errors import IntegrityError
from tercet.service import audit
from tercet.service.audit import Entry, Event
from tercet.service.database import FILE, open_database, transaction


def verify(folder: Path) -> int:
    last: Entry | None = None
    for entry in audit.read(folder):
        audit.check(last, entry)
        last = entry
    return last.number if last else 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    db = open_database(tmp_path)
    for n in range(4):
        with transaction(db):
            events = [Event("ann", "aa", "predict", "00", "counted", rows=n + 1)] * 2
            audit.append(db, events)
    db.close()
    return tmp_path


def test_an_honest_log_is_in_order(folder: Path) -> None:
    assert verify(folder) == 8
    first = json.loads(next(iter(audit.read(folder))).text)
    assert first["who"] == "ann"
    assert first["number"] == 1


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("UPDATE audit SET entry = replace(entry, 'ann', 'bob') WHERE number = 5", 5),
        ("UPDATE audit SET hash = zeroblob(32) WHERE number = 3", 3),
        ("DELETE FROM audit WHERE number = 4", 4),
        ("DELETE FROM audit WHERE number = 1", 1),
        ("UPDATE audit SET entry = 'nonsense' WHERE number = 8", 8),
        ("INSERT INTO audit SELECT 9, entry, hash FROM audit WHERE number = 8", 9),
    ],
)
def test_a_changed_log_is_broken_where_it_was_changed(
    folder: Path, statement: str, place: int
) -> None:
    db = sqlite3.connect(folder / FILE)
    db.execute(statement)
    db.commit()
    db.close()
    with pytest.raises(IntegrityError, match=f"broken at entry {place}[.]"):
        verify(folder)


def test_entries_of_a_transaction_that_failed_are_not_there(folder: Path) -> None:
    db = open_database(folder)
    with pytest.raises(ZeroDivisionError), transaction(db):
        audit.append(db, [Event("ann", "aa", "predict", "00", "counted")])
        _ = 1 / 0
    db.close()
    assert verify(folder) == 8
