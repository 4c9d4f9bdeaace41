"""The ledger: what was spent of whose privacy, kept by the data owner's own process.

One SQLite file, readable by its owner alone. A run is entered, and the entry is on the disk, before
the run starts: whatever happens to the run afterwards, its cost stands. A run that would exceed the
budget is refused before it touches data.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tercet.errors import ConfigError, InputError, NotFoundError, RefusedError
from tercet.privacy import accounting
from tercet.privacy.accounting import Guarantee
from tercet.privacy.events import Event, Relation

_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS budgets (
    owner TEXT NOT NULL, model TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL,
    relation TEXT NOT NULL, PRIMARY KEY (owner, model));
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, owner TEXT NOT NULL, model TEXT NOT NULL, event BLOB NOT NULL,
    time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    owner TEXT NOT NULL, model TEXT NOT NULL, run TEXT NOT NULL,
    PRIMARY KEY (owner, model, run));
"""
# Another process that holds the lock composes its events; that takes seconds.
_LOCK_SECONDS: Final = 120
# Compositions of the same events in another order differ in the last digits.
_SLACK: Final = 1 + 1e-6


class Budget(NamedTuple):
    """What one model may learn about one owner's records in all."""

    epsilon: float
    delta: float
    relation: Relation = Relation.ADD_OR_REMOVE


class Ledger:
    """Budgets and events of data owners and models, durable. For one thread.

    Args:
        path: the file; made, with mode 0600, if it is not there.

    Raises:
        ConfigError: if the file cannot be used or others may read it.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ConfigError(f"others may read {path}", f"chmod 600 {path}")
            self._db = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA synchronous=FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, _FORMAT):
                raise ConfigError(
                    f"{path} is a ledger of format {version}", "Use the version that wrote it"
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_FORMAT}")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot use {path} as a ledger: {error}", "Check its path and its owner"
            ) from None
        self._path = path

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def allow(self, owner: str, model: str, budget: Budget) -> None:
        """Set the budget of ``model`` on the data of ``owner``.

        An owner may change epsilon later; delta and relation are what entries were refused or
        accepted by, and stay.

        Raises:
            InputError: epsilon or delta is out of range.
            RefusedError: another delta or relation than the one that stands.
        """
        if not (0 < budget.epsilon < float("inf") and 0 < budget.delta < 1):
            raise InputError(
                f"a budget of epsilon {budget.epsilon} at delta {budget.delta}",
                "Give epsilon above 0 and delta between 0 and 1",
            )
        with self._transaction():
            standing = self._budget(owner, model)
            if standing is not None and standing[1:] != budget[1:]:
                raise RefusedError(
                    f"the budget of {model!r} on the data of {owner!r} is at delta "
                    f"{standing.delta:g}, {standing.relation}",
                    "Keep both, or use another name for the model",
                )
            self._db.execute(
                "INSERT OR REPLACE INTO budgets VALUES (?, ?, ?, ?, ?)",
                (owner, model, budget.epsilon, budget.delta, budget.relation.value),
            )

    def spend(
        self, owner: str, model: str, events: Sequence[Event], run: str | None = None
    ) -> Guarantee:
        """Enter ``events``, durably, and return what is spent with them; call it before the run.

        Args:
            owner, model: whose data, and for what.
            events: what the run releases.
            run: a name that this run alone has, such as the digest of an agreement: entered a
                second time, under the same owner and model, it costs nothing more.

        Raises:
            NotFoundError: no budget is set.
            RefusedError: the budget would be exceeded; nothing is entered.
        """
        with self._transaction():
            budget = self._known_budget(owner, model)
            if run is not None and self._entered(owner, model, run):
                return self._spent(owner, model, budget)
            spent = accounting.epsilon(
                [*self.events(owner, model), *events], budget.delta, budget.relation
            )
            if not spent.epsilon <= budget.epsilon * _SLACK:
                before = self._spent(owner, model, budget)
                raise RefusedError(
                    f"this run would bring {model!r} on the data of {owner!r} to "
                    f"epsilon {spent.epsilon:.3f}; {before.epsilon:.3f} of "
                    f"{budget.epsilon:g} is spent (delta {budget.delta:g}, {budget.relation})",
                    "Use more noise or fewer rounds: tercet privacy plan tells how much",
                )
            now = time.time()
            self._db.executemany(
                "INSERT INTO events (owner, model, event, time) VALUES (?, ?, ?, ?)",
                [(owner, model, msgspec.json.encode(event), now) for event in events],
            )
            if run is not None:
                self._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (owner, model, run))
        return spent

    def spent(self, owner: str, model: str) -> Guarantee:
        """Return what is spent of the budget.

        Raises:
            NotFoundError: no budget is set.
        """
        return self._spent(owner, model, self._known_budget(owner, model))

    def spent_on_all_models(self, owner: str, delta: float, relation: Relation) -> Guarantee:
        """Return what all models together, as one release, tell about an owner's records.

        The budgets of several models add up to whoever sees them all.
        """
        return accounting.epsilon(self.events(owner), delta, relation)

    def budgets(self) -> dict[tuple[str, str], Budget]:
        """Return all budgets by (owner, model)."""
        rows = self._db.execute("SELECT * FROM budgets ORDER BY owner, model").fetchall()
        return {(row[0], row[1]): Budget(row[2], row[3], Relation(row[4])) for row in rows}

    def events(self, owner: str, model: str | None = None) -> list[Event]:
        """Return the events on the data of ``owner``, of one model or of all, oldest first."""
        rows = self._db.execute(
            "SELECT event FROM events WHERE owner = ?1 AND (?2 IS NULL OR model = ?2) "
            "ORDER BY number",
            (owner, model),
        ).fetchall()
        try:
            return [msgspec.json.decode(row[0], type=Event) for row in rows]
        except (msgspec.MsgspecError, InputError) as error:
            raise ConfigError(
                f"the ledger {self._path} holds an event that is none: {error}",
                "Restore the file from a copy; without it, what was spent is not known",
            ) from None

    def _entered(self, owner: str, model: str, run: str) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM runs WHERE owner = ? AND model = ? AND run = ?", (owner, model, run)
        )
        return found.fetchone() is not None

    def _spent(self, owner: str, model: str, budget: Budget) -> Guarantee:
        return accounting.epsilon(self.events(owner, model), budget.delta, budget.relation)

    def _known_budget(self, owner: str, model: str) -> Budget:
        budget = self._budget(owner, model)
        if budget is None:
            raise NotFoundError(
                f"no privacy budget is set for {model!r} on the data of {owner!r}",
                "Set one: tercet privacy allow, or Ledger.allow",
            )
        return budget

    def _budget(self, owner: str, model: str) -> Budget | None:
        return self.budgets().get((owner, model))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # Immediate: of two runs that start together, the second sees what the first has spent.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
