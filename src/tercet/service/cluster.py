"""Clusters as a Python object: one that runs elsewhere, or three workers on this machine."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tercet.crypto.identity import Identity
from tercet.errors import ConfigError, WorkerError
from tercet.net.sockets import bind
from tercet.service.config import ClusterConfig, load_cluster
from tercet.service.messages import Status
from tercet.service.owner import Owner
from tercet.service.processes import CLUSTER_FILE, WorkerProcesses, lay_out

__all__ = ["CLUSTER_FILE", "DEFAULT_NAMES", "Cluster", "LocalCluster"]

DEFAULT_NAMES = ("julia", "greg", "me")


class Cluster:
    """Three workers and the identities by which this process speaks to them.

    Args:
        config: the three workers.
        owner: identity that shares and serves models, if this process has one.
        client: identity that asks for predictions, if this process has one.
    """

    def __init__(
        self, config: ClusterConfig, owner: Identity | None, client: Identity | None
    ) -> None:
        self._config: ClusterConfig | None = config
        self._owner = owner
        self._client = client

    @classmethod
    def load(cls, path: str | Path, identity: str | None = None) -> Cluster:
        """Return the cluster of a ``cluster.toml``.

        Identities are taken from ``owner.crt``/``owner.key`` and ``client.crt``/``client.key``
        beside it, where they are; with ``identity`` NAME, it is ``NAME.crt``/``NAME.key`` for all.

        Raises:
            ConfigError: if the file is not a cluster.
            IdentityError: if an identity beside it is malformed, or NAME is not there.
        """
        path = Path(path)
        if identity is not None:
            one = Identity.load(
                path.with_name(f"{identity}.crt"), path.with_name(f"{identity}.key")
            )
            return cls(load_cluster(path), one, one)
        found: dict[str, Identity | None] = {}
        for role in ("owner", "client"):
            certificate, key = path.with_name(f"{role}.crt"), path.with_name(f"{role}.key")
            found[role] = Identity.load(certificate, key) if key.exists() else None
        return cls(load_cluster(path), found["owner"], found["client"])

    @property
    def config(self) -> ClusterConfig:
        """The three workers' names, addresses and certificates."""
        if self._config is None:
            raise WorkerError("the cluster is not started", "Use it in a `with` statement")
        return self._config

    @property
    def owner(self) -> Identity:
        """The identity that shares and serves."""
        _ = self.config
        if self._owner is None:
            raise ConfigError("no owner identity", "Put owner.crt and owner.key beside the file")
        return self._owner

    @property
    def client(self) -> Identity:
        """The identity that asks."""
        _ = self.config
        if self._client is None:
            raise ConfigError("no client identity", "Put client.crt and client.key beside the file")
        return self._client

    @property
    def caller(self) -> Identity:
        """Whichever identity there is, for questions that anybody accepted may ask."""
        return self._owner or self.client

    def status(self) -> list[Status | BaseException]:
        """Return each worker's status, or why it did not answer."""
        with Owner(self.config, self.caller) as owner:
            return owner.status()


class LocalCluster(Cluster):
    """Three workers on this machine, with identities made for the occasion: for trial only.

    Whoever controls this machine sees all shares, hence everything. Use it in a ``with``
    statement; on leaving it, the three processes end and their folder is deleted.

    Args:
        names: names of the three workers.
        directory: where keys, ``cluster.toml``, logs and state go; a new private folder if
            ``None``. A given folder is kept.
        quiet: do not print the warning that one machine sees everything.
        parties: names of more identities to make, such as data owners: see ``as_party``.
    """

    def __init__(
        self,
        names: tuple[str, str, str] = DEFAULT_NAMES,
        directory: str | Path | None = None,
        *,
        quiet: bool = False,
        parties: Sequence[str] = (),
    ) -> None:
        self._config = None
        self._owner = self._client = None
        self._names = names
        self._parties = tuple(parties)
        self._keep = directory is not None
        self._given = directory
        self._quiet = quiet
        self.directory = Path()
        self._processes = WorkerProcesses(self.directory)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def as_party(self, name: str) -> Cluster:
        """Return this cluster as the party ``name`` sees it, with its identity.

        Raises:
            IdentityError: if there is no such identity.
        """
        return Cluster.load(self.directory / CLUSTER_FILE, name)

    @property
    def pids(self) -> list[int]:
        """Process ids of the three workers."""
        return self._processes.pids

    def start(self) -> Self:
        """Start the three workers and wait until they are ready.

        Raises:
            WorkerError: if one of them ends or is not ready in time; shows the end of its log.
        """
        if self._config is not None:
            raise WorkerError("the cluster is started already", "Use the one that runs")
        if not self._quiet:
            print(
                "tercet: LocalCluster runs all three workers on this machine, which therefore "
                "sees everything: for trial only.",
                file=sys.stderr,
            )
        self.directory = Path(self._given or tempfile.mkdtemp(prefix="tercet-"))
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(self.directory, 0o700)
        atexit.register(self.stop)
        self._processes = WorkerProcesses(self.directory)
        try:
            self._launch()
            with Owner(self.config, self.owner) as owner:
                self._processes.await_ready(owner)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the three workers; harmless if they are not running."""
        atexit.unregister(self.stop)
        self._processes.stop()
        self._config = None
        if not self._keep and self.directory != Path():
            shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> None:
        control = [bind("127.0.0.1", 0) for _ in self._names]
        data = [bind("127.0.0.1", 0) for _ in self._names]
        try:
            config = lay_out(
                self.directory,
                [
                    (name, f"127.0.0.1:{c.getsockname()[1]}", f"127.0.0.1:{d.getsockname()[1]}")
                    for name, c, d in zip(self._names, control, data, strict=True)
                ],
                self._parties,
            )
            for name, c, d in zip(self._names, control, data, strict=True):
                self._processes.spawn(name, c.fileno(), d.fileno())
        finally:
            for socket in (*control, *data):
                socket.close()
        self._owner, self._client = (
            Identity.load(self.directory / f"{role}.crt", self.directory / f"{role}.key")
            for role in ("owner", "client")
        )
        self._config = config
