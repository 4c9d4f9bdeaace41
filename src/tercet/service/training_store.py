"""What a worker keeps of trainings: their programs, how they stand, checkpoints, opened metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tercet.errors import ConfigError
from tercet.service import audit
from tercet.service.audit import Event
from tercet.service.registry import Registry
from tercet.service.shares import SUFFIX
from tercet.service.training_messages import Metric, Position, ShareDigests

RUNNING, CANCELLED, STOPPED, DONE, PROPOSED = (
    "running",
    "cancelled",
    "stopped",
    "done",
    "proposed",
)
#: Seconds after which a file is not one that is being written down.
_ABANDONED = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS trainings (
    agreement BLOB PRIMARY KEY, package BLOB NOT NULL, status TEXT NOT NULL,
    message TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (
    agreement BLOB NOT NULL, step INTEGER NOT NULL, chunk BLOB PRIMARY KEY,
    first BLOB NOT NULL, second BLOB NOT NULL, public BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS metrics (
    agreement BLOB NOT NULL, first INTEGER NOT NULL, metric BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS metrics_of ON metrics (agreement, first);
"""


class Kept(NamedTuple):
    """A training as it is stored."""

    agreement: bytes
    package: bytes
    status: str
    message: str


class TrainingStore:
    """The tables and files of one worker's trainings.

    Args:
        registry: its durable state.
        folder: of checkpoints.

    Raises:
        ConfigError: if the folder cannot be used.
    """

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._db = registry.database
        self._folder = folder
        self._db.executescript(_SCHEMA)
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            self.sweep(0.0)
        except OSError as error:
            raise ConfigError(f"cannot use {folder}: {error}", "Check its owner") from None

    def sweep(self, age: float = _ABANDONED) -> None:
        """Delete files that no checkpoint names: of chunks that failed after they were written.

        Args:
            age: seconds since they were written, at least.
        """
        known = {self.path(chunk) for (chunk,) in self._db.execute("SELECT chunk FROM checkpoints")}
        for file in self._folder.iterdir():
            if file not in known and file.stat().st_mtime <= time.time() - age:
                file.unlink(missing_ok=True)

    def path(self, chunk: bytes) -> Path:
        """Return the file of the state after a chunk."""
        return self._folder / f"{chunk.hex()}{SUFFIX}"

    def trainings(self) -> list[Kept]:
        """Return all, by age."""
        rows = self._db.execute(
            "SELECT agreement, package, status, message FROM trainings ORDER BY time"
        )
        return [Kept(*row) for row in rows.fetchall()]

    def add(self, agreement: bytes, package: bytes) -> None:
        """Keep the programs of a training; harmless if they are there."""
        with self._registry.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO trainings VALUES (?, ?, ?, '', ?)",
                (agreement, package, PROPOSED, time.time()),
            )

    def set_status(self, agreement: bytes, status: str, message: str, event: Event) -> None:
        """Write down how a training stands, and in the audit log why."""
        with self._registry.transaction() as db:
            db.execute(
                "UPDATE trainings SET status = ?, message = ? WHERE agreement = ?",
                (status, message, agreement),
            )
            audit.append(db, [event])

    def checkpoints(self, agreement: bytes) -> list[tuple[Position, ShareDigests]]:
        """Return the checkpoints of a training, the latest last."""
        rows = self._db.execute(
            "SELECT step, chunk, first, second, public FROM checkpoints WHERE agreement = ? "
            "ORDER BY step",
            (agreement,),
        )
        return [(Position(step, chunk), ShareDigests(*d)) for step, chunk, *d in rows.fetchall()]

    def record(
        self,
        agreement: bytes,
        first: int,
        end: Position,
        saved: ShareDigests | None,
        metrics: Sequence[Metric],
    ) -> None:
        """Write down a chunk from step ``first`` on; what was told of these steps before is void.

        Raises:
            StorageError: if the disk refuses.
        """
        if saved is None and not metrics:
            return
        with self._registry.transaction() as db:
            db.execute("DELETE FROM metrics WHERE agreement = ? AND first >= ?", (agreement, first))
            db.executemany(
                "INSERT INTO metrics VALUES (?, ?, ?)",
                [(agreement, m.first, msgspec.msgpack.encode(m)) for m in metrics],
            )
            if saved is not None:
                db.execute(
                    "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)",
                    (agreement, *end, saved.first, saved.second, saved.public),
                )

    def metrics(self, agreement: bytes, since: int) -> list[Metric]:
        """Return the parts of opened metrics of steps from ``since`` on."""
        rows = self._db.execute(
            "SELECT metric FROM metrics WHERE agreement = ? AND first >= ? ORDER BY first",
            (agreement, since),
        )
        return [msgspec.msgpack.decode(row[0], type=Metric) for row in rows.fetchall()]

    def keep_only(self, agreement: bytes, kept: Sequence[Position]) -> None:
        """Delete all checkpoints of a training but ``kept``."""
        gone = [p for p, _ in self.checkpoints(agreement) if p not in kept]
        if gone:
            with self._registry.transaction() as db:
                db.executemany(
                    "DELETE FROM checkpoints WHERE chunk = ?", [(p.chunk,) for p in gone]
                )
            for position in gone:
                self.path(position.chunk).unlink(missing_ok=True)

    def forget_metrics(self, agreement: bytes) -> None:
        """Delete the parts of opened metrics."""
        with self._registry.transaction() as db:
            db.execute("DELETE FROM metrics WHERE agreement = ?", (agreement,))
