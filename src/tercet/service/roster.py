"""The identities that a worker accepts, read again when their files change, without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tercet.crypto.identity import PublicIdentity
from tercet.errors import ConfigError, TercetError
from tercet.service.config import WorkerConfig, load_worker

_log = logging.getLogger("tercet.worker")

#: Seconds between two looks at the files.
POLL = 1.0
_SUFFIX = ".crt"

_Stamp: TypeAlias = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Lists:
    """Who is accepted, by role."""

    owners: list[PublicIdentity]
    clients: list[PublicIdentity]
    operators: list[PublicIdentity]


def read_lists(config: WorkerConfig) -> Lists:
    """Read the certificates that a worker's file names; a folder stands for its .crt files.

    Raises:
        ConfigError: if two owners have the same name.
        IdentityError: if a file is missing or no certificate.
    """
    owners, clients, operators = (
        list(dict.fromkeys(PublicIdentity.load(p) for p in _files(paths)))
        for paths in (config.owners, config.clients, config.operators)
    )
    if len({o.name for o in owners}) < len(owners):
        raise ConfigError("two owners have the same name", "Names tell their models apart")
    return Lists(owners, clients, operators)


class Roster:
    """Watches a worker's file and the certificates that it names.

    Args:
        path: the worker's file.
        changed: called with the new lists; what it raises is logged, and the old lists stay.
    """

    def __init__(self, path: str, changed: Callable[[Lists], None]) -> None:
        self._path = path
        self._changed = changed
        self._named: tuple[_Stamp, list[str]] = None, []
        self._seen = self._signature()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Read the files now, whether or not they look changed."""
        self._seen = ()
        self._wake.set()

    async def watch(self) -> None:
        """Look at the files until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL)
            self._wake.clear()
            if (now := self._signature()) == self._seen:
                continue
            self._seen = now
            try:
                lists = read_lists(load_worker(self._path))
                self._changed(lists)
            except (TercetError, OSError) as error:
                _log.error("the lists of identities stay as they were: %s", error)
            else:
                _log.info(
                    "lists of identities read: %d owners, %d clients, %d operators",
                    len(lists.owners),
                    len(lists.clients),
                    len(lists.operators),
                )

    def _signature(self) -> tuple[object, ...]:
        """Return what tells whether the worker's file or a certificate has changed."""
        stamp = _stamp(self._path)
        if stamp != self._named[0]:
            lists: list[str] = []
            with contextlib.suppress(TercetError, OSError):
                config = load_worker(self._path)
                lists = [*config.owners, *config.clients, *config.operators]
            self._named = stamp, lists
        paths = dict.fromkeys(self._named[1])
        with contextlib.suppress(OSError):  # a folder that goes while it is read
            paths |= dict.fromkeys(_files(self._named[1]))
        return stamp, *((path, _stamp(path)) for path in paths)


def _files(paths: list[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                found += sorted(e.path for e in entries if e.name.endswith(_SUFFIX))
        else:
            found.append(path)
    return found


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
