"""What a worker keeps: models, policies, counts and who asked when. SQLite and safetensors.

The folder is private to the worker's user (mode 0700). Counts are committed, with the request's
id, before the first protocol message of a request; a request id counts once and for all.

What all three workers must do alike is written down first and done second: a model is *prepared*,
then committed; a change of policy is *proposed*, then applied. ``reconcile`` brings a worker that
was killed in between into line with the others.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tercet.errors import ConfigError, NotFoundError, RefusedError
from tercet.program.program import Program, encode
from tercet.program.serving import Release, serving_program
from tercet.program.verify import decode
from tercet.service import audit, counts, proposals
from tercet.service.audit import Event
from tercet.service.counts import Request
from tercet.service.database import lock_folder, open_database, transaction
from tercet.service.messages import Change, Policy
from tercet.service.model import Model
from tercet.service.proposals import Proposal
from tercet.service.shares import SUFFIX
from tercet.service.training_messages import ShareDigests

#: Models of all owners and versions together.
MAX_MODELS = 4096
#: Seconds after which a prepared model is not committed any more, and after which it is dropped
#: if no worker has committed it: apart, so that no clock makes one drop what another commits.
COMMIT_SECONDS = 300.0
DROP_SECONDS = 900.0
#: Events that wait for the next transaction.
_MAX_NOTES = 10_000
_COLUMNS = (
    "id, name, version, owner, owner_key, policy, change, committed, created, used_requests, "
    "used_rows, first, second, public"
)


class Registry:
    """The durable state of one worker. It belongs to one thread.

    Args:
        folder: the worker's state folder.
        changed: called after every change that the other workers should hear of.

    Raises:
        ConfigError: if the folder cannot be used.
    """

    def __init__(self, folder: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._db = open_database(folder)
        self._files = folder / "models"
        try:
            self._lock = lock_folder(folder)
            self._files.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            self._db.close()
            raise ConfigError(f"cannot use {self._files}: {error}", "Check its owner") from None
        except ConfigError:
            self._db.close()
            raise
        self._changed = changed
        self._known: dict[bytes, Model] = {}  # what the database holds, until the next change
        self._programs: dict[tuple[bytes, Release], tuple[Program, bytes, str]] = {}
        self._notes: deque[Event] = deque(maxlen=_MAX_NOTES)
        known = {self.path(m.id) for m in self.models(prepared=True)}
        for file in self._files.iterdir():
            if file not in known:
                file.unlink()

    def close(self) -> None:
        """Write what waits and close the database."""
        with contextlib.suppress(Exception):
            self.flush()
        self._db.close()
        os.close(self._lock)

    @property
    def database(self) -> sqlite3.Connection:
        """The database, for tables that other modules keep; write within ``transaction``."""
        return self._db

    def path(self, model: bytes) -> Path:
        """Return the file of a model's shares."""
        return self._files / f"{model.hex()}{SUFFIX}"

    # Models: prepare, then commit.

    def next_version(self, name: str, owner_key: str) -> int:
        """Return the version that the next model of this name gets: none is used twice."""
        row = self._db.execute(
            "SELECT latest FROM versions WHERE owner_key = ? AND name = ?", (owner_key, name)
        ).fetchone()
        return 1 + (row[0] if row else 0)

    def check_new(self, name: str, version: int, owner_key: str) -> None:
        """Refuse a version that is taken, and a model beyond the limit.

        Raises:
            RefusedError: with what to do.
        """
        if version < self.next_version(name, owner_key) or version >= 1 << 31:
            raise RefusedError(f"{name}@{version} of yours is already shared", "Share it again")
        (count,) = self._db.execute("SELECT count(*) FROM models").fetchone()
        if count >= MAX_MODELS:
            raise RefusedError(f"{count} models are shared here", "Remove one first")

    def prepare(
        self,
        model: bytes,
        name: str,
        version: int,
        owner: tuple[str, str],
        program: bytes,
        digests: ShareDigests,
    ) -> None:
        """Enter a model whose shares are written; it is seen only after ``commit``.

        Args:
            model: its id.
            name: the name that its owner gave it.
            version: its version under this name.
            owner: name and fingerprint of the owner.
            program: the verified program, encoded.
            digests: of its shares.

        Raises:
            RefusedError: if the version is taken.
        """
        try:
            self.check_new(name, version, owner[1])
            with self.transaction():
                self._db.execute(
                    "INSERT INTO models (id, name, version, owner, owner_key, program, first, "
                    "second, public, created, committed, policy, change) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                    (
                        model, name, version, *owner, program, digests.first, digests.second,
                        digests.public, time.time(), msgspec.msgpack.encode(Policy()), b"",
                    ),
                )  # fmt: skip
                self._db.execute(
                    "INSERT INTO versions VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET latest = excluded.latest",
                    (owner[1], name, version),
                )
        except Exception:
            self.path(model).unlink(missing_ok=True)
            raise
        self._changed()

    def commit(self, model: bytes, owner_key: str) -> Model:
        """Make a prepared model visible, as its owner asks; harmless if it is.

        Raises:
            NotFoundError: if it was not prepared by this owner, or too long ago.
        """
        found = self._find(model)
        if (
            found is None
            or found.owner_key != owner_key
            or (not found.committed and time.time() > found.created + COMMIT_SECONDS)
        ):
            raise NotFoundError("no such model was prepared lately", "Share it again")
        return self.commit_too(model)

    def commit_too(self, model: bytes) -> Model:
        """Make a prepared model visible because another worker did."""
        found = self._find(model)
        if found is None:
            raise NotFoundError("no such model was prepared", "Share it again")
        if not found.committed:
            with self.transaction():
                self._db.execute("UPDATE models SET committed = 1 WHERE id = ?", (model,))
                self._enter(found, "share", (found.owner, found.owner_key))
            self._changed()
        return self.by_id(model)

    def drop(self, model: bytes) -> None:
        """Forget a model that was prepared and never committed."""
        with self.transaction():
            self._db.execute("DELETE FROM models WHERE id = ? AND NOT committed", (model,))
        self._forget(model)
        self._changed()

    def _forget(self, model: bytes) -> None:
        """Let go of what belongs to a model that is deleted."""
        self._programs = {k: v for k, v in self._programs.items() if k[0] != model}
        self.path(model).unlink(missing_ok=True)

    # Looking up.

    def by_id(self, model: bytes) -> Model:
        """Return a committed model.

        Raises:
            NotFoundError: if there is none of that id.
        """
        if (found := self.find(model)) is None:
            raise NotFoundError("the model is not shared here", "It may have been removed")
        return found

    def find(self, model: bytes) -> Model | None:
        """Return the committed model of an id, if there is one."""
        if model not in self._known:
            found = self._find(model)
            if found is None or not found.committed:
                return None
            self._known[model] = found
        return self._known[model]

    def by_name(self, name: str) -> Model:
        """Return the committed model ``name``, ``owner/name`` or either with ``@version``.

        Without a version: the latest that is served, or the latest if none is.

        Raises:
            NotFoundError: if there is none, or more than one owner has that name.
        """
        owner, slash, rest = name.rpartition("/")
        found = [m for m in self._named(rest) if not slash or m.owner == owner]
        if not found:
            raise _unknown(name)
        if len({m.owner_key for m in found}) > 1:
            owners = ", ".join(sorted({f"{m.owner}/{m.name}" for m in found}))
            raise NotFoundError(f"several models are called {name!r}", f"Name one of {owners}")
        return max(found, key=lambda m: (m.policy.serving, m.version))

    def shared_program(self, model: bytes) -> Program:
        """Return the program as its owner shared it."""
        (stored,) = self._db.execute("SELECT program FROM models WHERE id = ?", (model,)).fetchone()
        return decode(stored)

    def models(self, prepared: bool = False) -> list[Model]:
        """Return all committed models by age, with ``prepared`` those too that are not."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM models ORDER BY created")  # noqa: S608
        return [m for m in map(self._model, rows.fetchall()) if prepared or m.committed]

    # Changes of policy: propose, then apply.

    def select(self, asked: Change, owner_key: str) -> list[Model]:
        """Return the models of an owner that a change is about (see ``Change``).

        Raises:
            NotFoundError: if there is none.
        """
        owner, slash, bare = asked.name.rpartition("/")
        found = [
            m
            for m in self._named(bare)
            if m.owner_key == owner_key and (not slash or m.owner == owner)
        ]
        if not found:
            raise _unknown(asked.name)
        if asked.remove:
            return sorted(found, key=lambda m: m.version)
        newest = max(found, key=lambda m: m.version)
        if asked.policy is not None:
            return [newest]
        return [m for m in found if m.policy.serving] or [newest]

    def propose(self, asked: Change, models: Sequence[Model], owner: tuple[str, str]) -> None:
        """Write down a change before it is compared with the other workers."""
        with self.transaction():
            proposals.write(self._db, asked, models, owner)

    def proposals(self) -> list[Proposal]:
        """Return the changes that are written down and not applied, by age."""
        return proposals.read(self._db)

    def apply(self, change: bytes) -> list[bytes]:
        """Apply a proposed change and return the ids of its models. Counts start at 0 to serve."""
        proposal = next((p for p in self.proposals() if p.id == change), None)
        if proposal is None:
            return []
        targets = [m for m in map(self._find, proposal.models) if m is not None]
        with self.transaction():
            for model in targets:
                action, detail = proposals.carry_out(self._db, proposal, model)
                self._enter(model, action, proposal.owner, detail)
            proposals.forget(self._db, proposal)
        if proposal.asked.remove:
            for model in targets:
                self._forget(model.id)
        self._changed()
        return [m.id for m in targets]

    def withdraw(self, change: bytes) -> None:
        """Forget a proposed change."""
        with self.transaction():
            self._db.execute("DELETE FROM changes WHERE id = ?", (change,))

    # Counts.

    def admit(
        self, request: bytes, model: Model, client: str, rows: int, ahead: Sequence[int] = ()
    ) -> None:
        """Say no to a request if it was counted before or the policy of ``model`` refuses it.

        Raises:
            RefusedError: with the limit that was reached; for the arguments see ``Model.check``.
        """
        if counts.is_counted(self._db, request):
            raise RefusedError(
                "a request with this id was already answered", "Send a new request", "replay"
            )
        model.check(client, rows, ahead)

    def count(self, requests: Sequence[Request], change: bytes, outcome: str = "counted") -> int:
        """Count admitted requests of one model durably; return how many were not counted before.

        Raises:
            StorageError: if the disk refuses; none is counted then.
        """
        known = self._known.get(requests[0].model) if requests else None
        with self.transaction():
            new = counts.insert(self._db, requests, change)
            audit.append(self._db, [request.event(outcome) for request in new])
        if known is not None and known.change == change:
            self._known[known.id] = known.counted(len(new), sum(r.rows for r in new))
        return len(new)

    def recent(self, model: bytes, change: bytes, limit: int) -> list[Request]:
        """Return the latest requests counted for a model since a change."""
        return counts.recent(self._db, model, change, limit)

    def note(self, request: Request, outcome: str) -> None:
        """Enter what became of a request in the audit log, with the next transaction."""
        self._notes.append(request.event(outcome))

    def enter(self, event: Event) -> None:
        """Enter an event in the audit log now."""
        with self.transaction() as db:
            audit.append(db, [event])

    def flush(self) -> None:
        """Write what waits for a transaction.

        Raises:
            StorageError: if the disk refuses; it goes on waiting then.
        """
        if self._notes:
            with self.transaction():
                pass

    def check_release(self, model: bytes) -> None:
        """Say no to the release of a result if the model was stopped or removed meanwhile.

        Raises:
            NotFoundError, RefusedError: if it was.
        """
        found = self.by_id(model)
        if not found.policy.serving:
            raise RefusedError(
                f"model {found.name!r} was stopped during the request",
                "Its owner can serve it again",
                "not_served",
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; also writes the notes that wait. Yields the database.

        Raises:
            StorageError: if the disk refuses; nothing is changed then.
        """
        try:
            with transaction(self._db):
                written = len(self._notes)
                audit.append(self._db, list(self._notes))
                yield self._db
            for _ in range(written):
                self._notes.popleft()
        finally:
            self._known.clear()

    def _enter(self, model: Model, action: str, owner: tuple[str, str], detail: str = "") -> None:
        event = Event(*owner, action, model.id.hex(), "done", name=model.label, detail=detail)
        audit.append(self._db, [event])

    def _named(self, text: str) -> list[Model]:
        name, at, version = text.partition("@")
        found = [m for m in self.models() if m.name == name]
        return [m for m in found if not at or str(m.version) == version]

    def _find(self, model: bytes) -> Model | None:
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM models WHERE id = ?",  # noqa: S608
            (model,),
        ).fetchone()
        return None if row is None else self._model(row)

    def _model(self, row: Sequence[Any]) -> Model:
        id_, name, version, owner, key, policy, change, committed, created, *rest = row
        used_requests, used_rows, first, second, public = rest
        terms = msgspec.msgpack.decode(policy, type=Policy)
        return Model(
            id_, name, version, owner, key, terms, change, bool(committed), created,
            used_requests, used_rows, ShareDigests(first, second, public),
            *self._served(id_, terms.release),
        )  # fmt: skip

    def _served(self, model: bytes, release: Release) -> tuple[Program, bytes, str]:
        """Return the program that runs under ``release``, its bytes and its digest."""
        if (model, release) not in self._programs:
            program = serving_program(self.shared_program(model), release)
            self._programs = {k: v for k, v in self._programs.items() if k[0] != model}
            self._programs[model, release] = program, encode(program), program.digest()
        return self._programs[model, release]


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"no model {name!r} is shared here", "`tercet status` lists what there is")
