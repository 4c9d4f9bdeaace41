"""Sharings that data owners contribute, stored by each worker under names of their owners.

A sharing is prepared, then committed, like a model: the workers compare its description and the
digests of its summands, each with the other holder of the summand alone, before they store it.
What is stored never changes; an id is never used again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from tercet.crypto.identity import PublicIdentity
from tercet.errors import ConfigError, NotFoundError, RefusedError, TercetError
from tercet.program.checks import MAX_ELEMENTS, MAX_RANK, MAX_SCALE
from tercet.service import audit
from tercet.service.agreement import Agreement, patience
from tercet.service.audit import Event
from tercet.service.checks import binding, check_id, check_pair, pair_digests
from tercet.service.messages import Contribution, Deposit, Deposited
from tercet.service.registry import DROP_SECONDS, Registry
from tercet.service.shares import SUFFIX, write_shares
from tercet.service.training_messages import ShareDigests

_log = logging.getLogger("tercet.worker")

#: Sharings of one owner.
MAX_SHARINGS = 1000
MAX_TENSORS = 10_000
_MAX_NAME = 100
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sharings (
    id BLOB PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, owner_key TEXT NOT NULL,
    contribution BLOB NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL, public BLOB NOT NULL,
    created REAL NOT NULL, committed INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS sharing_names ON sharings (owner_key, name);
"""
_COLUMNS = "contribution, owner, owner_key, first, second, public, created, committed"


@dataclass(frozen=True, slots=True)
class Stored:
    """A sharing and where its file is, by whose digests it is recognised."""

    told: Deposited
    digests: ShareDigests
    path: Path
    committed: bool


class Sharings:
    """The stored sharings of worker ``index``.

    Args:
        index: this worker.
        registry: its durable state.
        agreement: compares with the peers.
        folder: of the files.

    Raises:
        ConfigError: if the folder cannot be used.
    """

    def __init__(self, index: int, registry: Registry, agreement: Agreement, folder: Path) -> None:
        self._index = index
        self._registry = registry
        self._db = registry.database
        self._agreement = agreement
        self._folder = folder
        self._db.executescript(_SCHEMA)
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            known = {s.path for s in self._select("1")}
            for file in folder.iterdir():
                if file not in known:
                    file.unlink()
        except OSError as error:
            raise ConfigError(f"cannot use {folder}: {error}", "Check its owner") from None

    async def prepare(self, owner: PublicIdentity, request: Deposit) -> None:
        """Compare a sharing with the peers and store it, not yet visible.

        Raises:
            RefusedError: if its description makes no sense or the name is taken.
            IntegrityError: if the shares do not belong together.
            StorageError: if the disk refuses.
        """
        given = request.contribution
        check_id(given.id)
        try:
            self._check(owner, request)
        except TercetError as error:
            self._agreement.refuse(given.id, error)
            raise
        digests = await pair_digests(self._index, request.shares)
        size = 8 * sum(prod(t.shape) for t in given.tensors.values())
        await self._agreement.agree(
            given.id, contribution_digest(given, owner.fingerprint), digests, patience(size)
        )
        path = self._path(given.id)
        stored = await asyncio.to_thread(
            write_shares, path, given.id, self._index, 0, request.shares, {}
        )
        try:
            self._check_new(owner, given)
            with self._registry.transaction() as db:
                db.execute(
                    "DELETE FROM sharings WHERE owner_key = ? AND name = ? AND NOT committed",
                    (owner.fingerprint, given.name),
                )
                db.execute(
                    "INSERT INTO sharings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                    (
                        given.id, given.name, owner.name, owner.fingerprint,
                        msgspec.msgpack.encode(given), stored.first, stored.second, stored.public,
                        time.time(),
                    ),
                )  # fmt: skip
        except Exception:
            path.unlink(missing_ok=True)
            raise

    def commit(self, owner: PublicIdentity, sharing: bytes) -> Deposited:
        """Make a prepared sharing visible, as its owner asks; harmless if it is.

        Raises:
            NotFoundError: if it was not prepared by this owner.
        """
        found = self._find(sharing)
        if found is None or found.told.owner_key != owner.fingerprint:
            raise NotFoundError("no such contribution was prepared", "Contribute it again")
        if not found.committed:
            with self._registry.transaction() as db:
                db.execute("UPDATE sharings SET committed = 1 WHERE id = ?", (sharing,))
                audit.append(db, [_event(found.told, "contribute")])
            _log.info("%s contributed %s", owner.name, found.told.contribution.name)
        return found.told

    def listing(self) -> list[Deposited]:
        """Return what is visible, by age."""
        return [s.told for s in self._select("committed ORDER BY created")]

    def by_id(self, sharing: bytes) -> Stored:
        """Return a committed sharing.

        Raises:
            NotFoundError: if there is none of that id.
        """
        found = self._find(sharing)
        if found is None or not found.committed:
            raise NotFoundError(
                "a contribution is not stored here (any more)",
                "`tercet contributions` lists what there is",
            )
        return found

    def remove(self, owner: PublicIdentity, name: str) -> None:
        """Delete the owner's sharing of this name; harmless if there is none."""
        for found in self._select("owner_key = ? AND name = ?", owner.fingerprint, name):
            with self._registry.transaction() as db:
                db.execute("DELETE FROM sharings WHERE id = ?", (found.told.contribution.id,))
                audit.append(db, [_event(found.told, "discard")])
            found.path.unlink(missing_ok=True)
            _log.info("%s removed the contribution %s", owner.name, name)

    def tick(self) -> None:
        """Drop what was prepared and never committed."""
        for found in self._select("NOT committed AND created < ?", time.time() - DROP_SECONDS):
            with self._registry.transaction() as db:
                db.execute("DELETE FROM sharings WHERE id = ?", (found.told.contribution.id,))
            found.path.unlink(missing_ok=True)

    def _check(self, owner: PublicIdentity, request: Deposit) -> None:
        given = request.contribution
        name = given.name
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or set(name) & set("/@"):
            raise RefusedError(
                f"a contribution called {name[:_MAX_NAME]!r}",
                "Use 1 to 100 characters without / and @",
            )
        if not 1 <= len(given.tensors) <= MAX_TENSORS:
            raise RefusedError(f"{len(given.tensors)} arrays", f"Contribute 1 to {MAX_TENSORS}")
        for key, tensor in given.tensors.items():
            shape = tensor.shape
            if (
                not 0 < len(key) <= 2 * _MAX_NAME
                or len(shape) > MAX_RANK
                or any(d < 1 for d in shape)
                or prod(shape) > MAX_ELEMENTS
                or not 0 <= tensor.scale <= MAX_SCALE
            ):
                raise RefusedError(
                    f"an array {key[:40]!r} of shape {shape[:MAX_RANK]}",
                    f"At most {MAX_ELEMENTS} elements, and none empty",
                )
            if given.rows and shape[:1] != (given.rows,):
                raise RefusedError(
                    f"{given.rows} rows with an array of shape {shape}",
                    "Every array has a row for each",
                )
        self._check_new(owner, given)
        check_pair(request.shares)
        for summand in request.shares:
            summand.check({key: tensor.shape for key, tensor in given.tensors.items()})

    def _check_new(self, owner: PublicIdentity, given: Contribution) -> None:
        mine = self._select("owner_key = ?", owner.fingerprint)
        if any(s.told.contribution.name == given.name and s.committed for s in mine):
            raise RefusedError(
                f"you have contributed {given.name!r} already",
                "Remove it first, or choose another name",
            )
        if len(mine) >= MAX_SHARINGS:
            raise RefusedError(f"{len(mine)} contributions of yours", "Remove one first")

    def _find(self, sharing: bytes) -> Stored | None:
        return next(iter(self._select("id = ?", sharing)), None)

    def _select(self, condition: str, *values: Any) -> list[Stored]:
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM sharings WHERE {condition}",  # noqa: S608
            values,
        )
        return [self._stored(row) for row in rows.fetchall()]

    def _stored(self, row: Sequence[Any]) -> Stored:
        encoded, owner, key, first, second, public, created, committed = row
        given = msgspec.msgpack.decode(encoded, type=Contribution)
        told = Deposited(given, owner, key, contribution_digest(given, key), created)
        return Stored(
            told, ShareDigests(first, second, public), self._path(given.id), bool(committed)
        )

    def _path(self, sharing: bytes) -> Path:
        return self._folder / f"{sharing.hex()}{SUFFIX}"


def contribution_digest(given: Contribution, owner_key: str) -> bytes:
    """Return the digest of a description and its owner, by which agreements name a sharing."""
    shapes = [f"{key}:{t.shape}:{t.scale}" for key, t in sorted(given.tensors.items())]
    return binding(
        "contribution", given.id.hex(), given.name, owner_key, str(given.rows), given.order.hex(),
        *shapes,
    )  # fmt: skip


def _event(told: Deposited, action: str) -> Event:
    given = told.contribution
    return Event(
        told.owner, told.owner_key, action, given.id.hex(), "done", name=given.name, rows=given.rows
    )
