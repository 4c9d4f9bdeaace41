"""What a worker keeps: models, policies, counts and who asked when. SQLite and safetensors.

The folder is private to the worker's user (mode 0700). Counts are committed, with the request's
id, before the first protocol message of a request; a request id counts once and for all.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tercet.errors import ConfigError, NotFoundError, RefusedError, WorkerError
from tercet.program.program import Program, Role
from tercet.program.verify import decode
from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import Summand, expand
from tercet.service.messages import Description, Policy

FORMAT_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    id BLOB PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, owner_key TEXT NOT NULL,
    program BLOB NOT NULL, digest TEXT NOT NULL, created REAL NOT NULL, committed INTEGER NOT NULL,
    serving INTEGER NOT NULL DEFAULT 0, max_requests INTEGER, max_rows INTEGER,
    used_requests INTEGER NOT NULL DEFAULT 0, used_rows INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS names ON models (owner_key, name) WHERE committed;
CREATE TABLE IF NOT EXISTS requests (
    id BLOB PRIMARY KEY, model BLOB NOT NULL, client TEXT NOT NULL, rows INTEGER NOT NULL,
    time REAL NOT NULL);
"""
_COLUMNS = (
    "id, name, owner, owner_key, program, digest, serving, max_requests, max_rows, "
    "used_requests, used_rows"
)


class Model:
    """A model as the registry holds it, without its shares."""

    def __init__(self, row: tuple[object, ...]) -> None:
        (id_, name, owner, owner_key, program, digest, serving, requests, rows, used, used_rows) = (
            row
        )
        assert isinstance(id_, bytes)
        assert isinstance(program, bytes)
        self.id = id_
        self.name, self.owner, self.owner_key = str(name), str(owner), str(owner_key)
        self.program_bytes = program
        self.digest = str(digest)
        self.policy = Policy(bool(serving), _optional_int(requests), _optional_int(rows))
        self.used_requests, self.used_rows = _optional_int(used) or 0, _optional_int(used_rows) or 0

    def describe(self) -> Description:
        """Return what clients may know."""
        program = decode(self.program_bytes)
        return Description(
            self.id,
            self.name,
            self.owner,
            self.digest,
            program.input_shape(),
            program.output_shape(),
            program.scale,
            self.policy,
            self.used_requests,
            self.used_rows,
            program.guarded,
        )


class Registry:
    """The durable state of one worker. All of it but ``write_shares`` belongs to one thread.

    Raises:
        ConfigError: if the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(folder, 0o700)
            (folder / "models").mkdir(exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(folder / "registry.db")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot use {folder} as a worker's state: {error}", "Check its owner and the disk"
            ) from None
        self._folder = folder
        self._known: dict[bytes, Model] = {}  # what the database holds, until the next change
        self._drop_uncommitted()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def path(self, model: bytes) -> Path:
        """Return the file of a model's shares."""
        return self._folder / "models" / f"{model.hex()}.safetensors"

    def write_shares(
        self, model: bytes, weights: tuple[Summand, Summand], public: Mapping[str, bytes]
    ) -> None:
        """Write a model's shares to its file, durably. May run in a thread of its own.

        Raises:
            RefusedError: if there is such a file.
            WorkerError: if the disk refuses.
        """
        final = self.path(model)
        if final.exists():
            raise RefusedError("a model with this id is there", "Share it under a new id")
        arrays: dict[str, NDArray[np.uint8]] = {}
        for position, summand in enumerate(weights):
            if summand.seed:
                arrays[f"{position}:seed"] = np.frombuffer(summand.seed, np.uint8)
            for key, data in summand.arrays.items():
                arrays[f"{position}:array:{key}"] = np.frombuffer(data, np.uint8)
        for key, data in public.items():
            arrays[f"public:{key}"] = np.frombuffer(data, np.uint8)
        partial = final.with_suffix(".partial")
        try:
            save_file(arrays, partial, metadata={"format": str(FORMAT_VERSION)})
            os.chmod(partial, 0o600)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, final)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise WorkerError(f"cannot store the model: {error}", "See the worker's disk") from None

    def prepare(self, model: bytes, name: str, owner: tuple[str, str], program: bytes) -> None:
        """Enter a model whose shares are written; its name stands only after ``commit``.

        Args:
            model: its id.
            name: the name that its owner gave it.
            owner: name and fingerprint of the owner.
            program: the verified program, encoded.

        Raises:
            RefusedError: if the owner has a model of that name.
        """
        taken = self._db.execute(
            "SELECT 1 FROM models WHERE committed AND name = ? AND owner_key = ?",
            (name, owner[1]),
        ).fetchone()
        if taken:
            self.path(model).unlink(missing_ok=True)
            raise RefusedError(
                f"a model {name!r} of yours is already shared",
                "Remove it first, or choose another name",
            )
        digest = decode(program).digest()
        with self._transaction():
            self._db.execute(
                "INSERT INTO models (id, name, owner, owner_key, program, digest, created, "
                "committed) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                (model, name, *owner, program, digest, time.time()),
            )

    def commit(self, model: bytes, owner_key: str) -> Model:
        """Make a prepared model visible under its name.

        Raises:
            NotFoundError: if it was not prepared by this owner.
            RefusedError: if the name has been taken meanwhile.
        """
        try:
            with self._transaction():
                changed = self._db.execute(
                    "UPDATE models SET committed = 1 WHERE id = ? AND owner_key = ?",
                    (model, owner_key),
                ).rowcount
        except sqlite3.IntegrityError:
            raise RefusedError("the name was taken meanwhile", "Choose another name") from None
        if not changed:
            raise NotFoundError("no such model was prepared", "Share it again")
        return self.by_id(model)

    def by_id(self, model: bytes) -> Model:
        """Return a committed model.

        Raises:
            NotFoundError: if there is none of that id.
        """
        if model not in self._known:
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM models WHERE id = ? AND committed",  # noqa: S608
                (model,),
            ).fetchone()
            if row is None:
                raise NotFoundError("the model is not shared here", "It may have been removed")
            self._known[model] = Model(row)
        return self._known[model]

    def by_name(self, name: str, owner_key: str | None = None) -> Model:
        """Return the committed model ``name`` or ``owner/name``.

        Raises:
            NotFoundError: if there is none, or more than one owner has that name.
        """
        owner, slash, bare = name.rpartition("/")
        models = [m for m in self.models() if m.name == bare and (not slash or m.owner == owner)]
        if owner_key is not None:
            models = [m for m in models if m.owner_key == owner_key]
        if not models:
            raise NotFoundError(
                f"no model {name!r} is shared here", "`tercet status` lists what there is"
            )
        if len(models) > 1:
            owners = ", ".join(sorted(f"{m.owner}/{m.name}" for m in models))
            raise NotFoundError(f"several models are called {name!r}", f"Name one of {owners}")
        return models[0]

    def models(self) -> list[Model]:
        """Return all committed models, by age."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM models WHERE committed ORDER BY created"  # noqa: S608
        )
        return [Model(r) for r in rows]

    def set_policy(self, model: bytes, policy: Policy) -> None:
        """Set a model's policy and start its counts at 0."""
        with self._transaction():
            self._db.execute(
                "UPDATE models SET serving = ?, max_requests = ?, max_rows = ?, "
                "used_requests = 0, used_rows = 0 WHERE id = ?",
                (policy.serving, policy.max_requests, policy.max_rows, model),
            )

    def stop(self, model: bytes) -> None:
        """Stop serving a model; its counts stay."""
        with self._transaction():
            self._db.execute("UPDATE models SET serving = 0 WHERE id = ?", (model,))

    def remove(self, model: bytes) -> None:
        """Forget a model and delete its shares."""
        with self._transaction():
            self._db.execute("DELETE FROM models WHERE id = ?", (model,))
        self.path(model).unlink(missing_ok=True)

    def admit(self, request: bytes, model: Model, rows: int, ahead: Sequence[int] = ()) -> None:
        """Say no to a request if it was counted before or the policy of ``model`` refuses it.

        Args:
            request: its id.
            model: the model as it stands.
            rows: rows of the request.
            ahead: rows of requests of this model that are admitted but not counted yet.

        Raises:
            RefusedError: with the limit that was reached.
        """
        if self._db.execute("SELECT 1 FROM requests WHERE id = ?", (request,)).fetchone():
            raise RefusedError("a request with this id was already answered", "Send a new request")
        self.check(model, rows, ahead)

    def count(self, requests: Sequence[tuple[bytes, bytes, str, int]]) -> None:
        """Count admitted requests, ``(id, model, client, rows)`` each, durably.

        Raises:
            WorkerError: if the disk refuses; none is counted then.
        """
        now = time.time()
        with self._transaction():
            self._db.executemany(
                "INSERT INTO requests VALUES (?, ?, ?, ?, ?)", [(*r, now) for r in requests]
            )
            self._db.executemany(
                "UPDATE models SET used_requests = used_requests + 1, used_rows = used_rows + ? "
                "WHERE id = ?",
                [(rows, model) for _, model, _, rows in requests],
            )

    def check(self, model: Model, rows: int, ahead: Sequence[int] = ()) -> None:
        """Say no if the policy of ``model`` does; for the arguments see ``admit``.

        Raises:
            RefusedError: with the limit that was reached.
        """
        policy = model.policy
        if not policy.serving:
            raise RefusedError(
                f"model {model.name!r} is not being served", "Its owner can serve it again"
            )
        if (
            policy.max_requests is not None
            and model.used_requests + len(ahead) >= policy.max_requests
        ):
            raise RefusedError(
                f"model {model.name!r} has answered its {policy.max_requests} requests",
                "Its owner can serve it again",
            )
        used_rows = model.used_rows + sum(ahead)
        if policy.max_rows is not None and used_rows + rows > policy.max_rows:
            left = policy.max_rows - used_rows
            raise RefusedError(
                f"model {model.name!r} has {left} of {policy.max_rows} rows left, not {rows}",
                "Send fewer rows, or ask its owner to serve it again",
            )

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
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield
            self._known.clear()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise WorkerError(
                f"cannot write the registry: {error}", "See the worker's disk"
            ) from None

    def _drop_uncommitted(self) -> None:
        """Clear what a crash left between prepare and commit."""
        with self._transaction():
            self._db.execute("DELETE FROM models WHERE NOT committed")
        known = {self.path(m.id) for m in self.models()}
        for file in (self._folder / "models").iterdir():
            if file not in known:
                file.unlink()


def load_shares(path: Path, program: Program) -> dict[str, Share | NDArray[np.uint64]]:
    """Return the shares of a program's weights, and its public arrays, from a model's file.

    Raises:
        WorkerError: if the file is damaged.
        IntegrityError: if it does not fit the program.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WorkerError(
            f"the shares in {path.name} cannot be read: {error}", "Share the model again"
        ) from None
    summands = tuple(
        Summand(
            seed=stored[f"{p}:seed"].tobytes() if f"{p}:seed" in stored else b"",
            arrays={
                k.split(":", 2)[2]: v.tobytes()
                for k, v in stored.items()
                if k.startswith(f"{p}:array:")
            },
        )
        for p in range(2)
    )
    return expand_model(
        program,
        (summands[0], summands[1]),
        {k.split(":", 1)[1]: v.tobytes() for k, v in stored.items() if k.startswith("public:")},
    )


def expand_model(
    program: Program, weights: tuple[Summand, Summand], public: Mapping[str, bytes]
) -> dict[str, Share | NDArray[np.uint64]]:
    """Return the value of every input of ``program`` but the client's.

    Raises:
        IntegrityError: if something is missing or of another size.
    """
    values: dict[str, Share | NDArray[np.uint64]] = {}
    for _, given in program.named(Role.WEIGHT):
        values[given.name] = expand(weights, given.name, given.type.shape)
    arrays = Summand(arrays=dict(public))
    for _, given in program.named(Role.PUBLIC):
        values[given.name] = arrays.expand(given.name, given.type.shape)
    return values


def _optional_int(value: object) -> int | None:
    return None if value is None else int(str(value))
