"""The rounds whose sums a worker has stored: record, signatures, and whether it was opened.

A round's record is written before its sum, and its sum before anybody may open it. Once all three
workers have stored a sum, it is the round's only one: a retry opens it again.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tercet.errors import ConfigError
from tercet.service import audit
from tercet.service.audit import Event
from tercet.service.registry import Registry
from tercet.service.sum_files import SUFFIX
from tercet.service.sum_messages import SumDigests

#: Sums of an agreement that are kept for a retry; of older rounds only the records are.
KEPT = 4
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sums (
    agreement BLOB NOT NULL, round INTEGER NOT NULL, record BLOB NOT NULL,
    signatures BLOB NOT NULL, digests BLOB NOT NULL, opened INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (agreement, round));
"""


class Record(msgspec.Struct, frozen=True):
    """What the three workers sign of a round: equal at all three.

    Attributes:
        agreement: its digest.
        round: its number.
        epoch: which attempt at the round it was.
        asked: fingerprints of those whom the server asked to contribute.
        contributors: fingerprints of those in the sum, ascending.
        dropped: fingerprints of those who are not, each with the reason, ascending.
    """

    agreement: bytes
    round: int
    epoch: bytes
    asked: tuple[str, ...]
    contributors: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]

    @property
    def id(self) -> bytes:
        """The id of the sum, by which its file is named."""
        return hashlib.sha256(b"tercet sum v1\0" + self.agreement + self.epoch).digest()[:16]

    def digest(self) -> bytes:
        """Return what is signed."""
        return hashlib.sha256(b"tercet round v1\0" + msgspec.msgpack.encode(self)).digest()


@dataclass(frozen=True, slots=True)
class Stored:
    """A sum that is stored here; ``opened`` once all three workers had it."""

    record: Record
    digests: SumDigests
    opened: bool


class RoundStore:
    """The stored rounds of one worker.

    Raises:
        ConfigError: if ``folder``, of the files, cannot be used.
    """

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._db = registry.database
        self._folder = folder
        self._db.executescript(_SCHEMA)
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"cannot use {folder}: {error}", "Check its owner") from None
        rows = self._db.execute("SELECT record FROM sums WHERE digests != x''").fetchall()
        known = {self.path(msgspec.msgpack.decode(row[0], type=Record)) for row in rows}
        for file in folder.iterdir():
            if file not in known:
                file.unlink()

    def path(self, record: Record) -> Path:
        """Return the file of a sum."""
        return self._folder / f"{record.id.hex()}{SUFFIX}"

    def get(self, agreement: bytes, round: int) -> Stored | None:
        """Return the stored sum of a round, if there is one."""
        row = self._db.execute(
            "SELECT record, digests, opened FROM sums "
            "WHERE agreement = ? AND round = ? AND digests != x''",
            (agreement, round),
        ).fetchone()
        if row is None:
            return None
        return Stored(
            msgspec.msgpack.decode(row[0], type=Record),
            msgspec.msgpack.decode(row[1], type=SumDigests),
            bool(row[2]),
        )

    def write(self, record: Record, signatures: dict[int, bytes]) -> None:
        """Write down a record that all three workers have signed, in place of a void one."""
        with self._registry.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, x'', 0, ?)",
                (
                    record.agreement, record.round, msgspec.msgpack.encode(record),
                    msgspec.msgpack.encode(signatures), time.time(),
                ),
            )  # fmt: skip

    def keep(self, record: Record, digests: SumDigests) -> None:
        """Note that the sum of a written record is in its file."""
        with self._registry.transaction() as db:
            db.execute(
                "UPDATE sums SET digests = ? WHERE agreement = ? AND round = ?",
                (msgspec.msgpack.encode(digests), record.agreement, record.round),
            )

    def open(self, stored: Stored, server: tuple[str, str], name: str) -> None:
        """Note, before anything of it is given away, that all three workers have stored a sum."""
        record = stored.record
        event = Event(
            *server, "aggregate", record.agreement.hex(), "opened", name=name,
            rows=len(record.contributors), detail=f"round {record.round}",
        )  # fmt: skip
        with self._registry.transaction() as db:
            db.execute(
                "UPDATE sums SET opened = 1 WHERE agreement = ? AND round = ?",
                (record.agreement, record.round),
            )
            audit.append(db, [event])
        rows = db.execute(
            "SELECT record FROM sums WHERE agreement = ? AND opened ORDER BY round DESC "
            "LIMIT -1 OFFSET ?",
            (record.agreement, KEPT),
        ).fetchall()
        for row in rows:
            self.path(msgspec.msgpack.decode(row[0], type=Record)).unlink(missing_ok=True)

    def discard(self, stored: Stored) -> None:
        """Forget a sum that not all three workers have stored, so that none has opened it."""
        record = stored.record
        with self._registry.transaction() as db:
            db.execute(
                "DELETE FROM sums WHERE agreement = ? AND round = ? AND NOT opened",
                (record.agreement, record.round),
            )
        self.path(record).unlink(missing_ok=True)
