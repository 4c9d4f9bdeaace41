"""The SQLite file of a worker: schema, durable transactions, errors in plain words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tercet.errors import ConfigError, StorageError

FILE = "registry.db"
_LOCK = "lock"
#: Counts up with each change of the schema or of the files beside it.
FORMAT_VERSION = 2

_SCHEMA = f"""
BEGIN;
CREATE TABLE models (
    id BLOB PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL,
    owner TEXT NOT NULL, owner_key TEXT NOT NULL, program BLOB NOT NULL,
    first BLOB NOT NULL, second BLOB NOT NULL, public BLOB NOT NULL,
    created REAL NOT NULL, committed INTEGER NOT NULL,
    policy BLOB NOT NULL, change BLOB NOT NULL,
    used_requests INTEGER NOT NULL DEFAULT 0, used_rows INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX names ON models (owner_key, name, version);
CREATE TABLE versions (
    owner_key TEXT NOT NULL, name TEXT NOT NULL, latest INTEGER NOT NULL,
    PRIMARY KEY (owner_key, name));
CREATE TABLE changes (
    id BLOB PRIMARY KEY, owner TEXT NOT NULL, owner_key TEXT NOT NULL,
    models BLOB NOT NULL, asked BLOB NOT NULL, time REAL NOT NULL);
CREATE TABLE requests (
    id BLOB PRIMARY KEY, model BLOB NOT NULL, change BLOB NOT NULL, client TEXT NOT NULL,
    rows INTEGER NOT NULL, time REAL NOT NULL);
CREATE INDEX counted ON requests (model, change);
CREATE TABLE audit (number INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash BLOB NOT NULL);
PRAGMA user_version = {FORMAT_VERSION};
COMMIT;
"""


def open_database(folder: Path) -> sqlite3.Connection:
    """Return the database in ``folder``, made if there is none; the folder gets mode 0700.

    Raises:
        ConfigError: if it cannot be used or is of another version.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(folder, 0o700)
        db = sqlite3.connect(folder / FILE, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables:
            db.executescript(_SCHEMA)
        elif version != FORMAT_VERSION:
            db.close()
            raise ConfigError(
                f"{folder} holds state of format {version}, not {FORMAT_VERSION}",
                "Name a new state folder and share the models again",
            )
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"cannot use {folder} as a worker's state: {error}", "Check its owner and the disk"
        ) from None
    return db


def lock_folder(folder: Path) -> int:
    """Hold a worker's folder until the descriptor that is returned, or this process, ends.

    Raises:
        ConfigError: if another process holds it.
        OSError: if the folder cannot be used.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"{folder} is the state of a worker that runs",
            "Give each worker a state folder of its own, or stop the other one first",
        ) from None
    return descriptor


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, on disk when it returns.

    Raises:
        StorageError: if the disk refuses; nothing is changed then.
        sqlite3.IntegrityError: if a key is there already.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise StorageError(
            f"the worker's disk refuses to write: {error}",
            "Tell its operator to make room; nothing was counted or changed here",
        ) from None
