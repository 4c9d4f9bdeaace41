"""Clusters as a Python object: one that runs elsewhere, or three workers on this machine."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tercet.crypto.identity import Identity
from tercet.errors import ConfigError, TransportError, WorkerError
from tercet.net.sockets import bind
from tercet.service.config import (
    ClusterConfig,
    WorkerConfig,
    WorkerEntry,
    load_cluster,
    write_toml,
)
from tercet.service.messages import Status
from tercet.service.owner import Owner

DEFAULT_NAMES = ("julia", "greg", "me")
CLUSTER_FILE = "cluster.toml"

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 15.0
_POLL = 0.05


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
    def load(cls, path: str | Path) -> Cluster:
        """Return the cluster of a ``cluster.toml``.

        Identities are taken from ``owner.crt``/``owner.key`` and ``client.crt``/``client.key``
        beside it, where they are.

        Raises:
            ConfigError: if the file is not a cluster.
            IdentityError: if an identity beside it is malformed.
        """
        path = Path(path)
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

    def status(self) -> list[Status | BaseException]:
        """Return each worker's status, or why it did not answer."""
        with Owner(self.config, self._owner or self.client) as owner:
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
    """

    def __init__(
        self,
        names: tuple[str, str, str] = DEFAULT_NAMES,
        directory: str | Path | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        self._config = None
        self._owner = self._client = None
        self._names = names
        self._keep = directory is not None
        self._given = directory
        self._quiet = quiet
        self._processes: list[subprocess.Popen[bytes]] = []
        self.directory = Path()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Process ids of the three workers."""
        return [p.pid for p in self._processes]

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
        try:
            self._launch()
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the three workers; harmless if they are not running."""
        atexit.unregister(self.stop)
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # a worker ends when its parent's pipe does
        deadline = time.monotonic() + _STOP_TIMEOUT
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []
        self._config = None
        if not self._keep and self.directory != Path():
            shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> None:
        folder = self.directory
        workers = [Identity.generate(name) for name in self._names]
        self._owner, self._client = Identity.generate("owner"), Identity.generate("client")
        for identity in (*workers, self._owner, self._client):
            identity.save(folder)
        control = [bind("127.0.0.1", 0) for _ in workers]
        data = [bind("127.0.0.1", 0) for _ in workers]
        try:
            config = ClusterConfig(
                [
                    WorkerEntry(
                        w.name,
                        f"127.0.0.1:{c.getsockname()[1]}",
                        f"127.0.0.1:{d.getsockname()[1]}",
                        w.certificate_pem.decode(),
                    )
                    for w, c, d in zip(workers, control, data, strict=True)
                ]
            )
            config.check("the local cluster")
            write_toml(folder / CLUSTER_FILE, config)
            for worker, c, d in zip(workers, control, data, strict=True):
                self._spawn(worker.name, c.fileno(), d.fileno())
        finally:
            for socket in (*control, *data):
                socket.close()
        self._config = config

    def _spawn(self, name: str, control_fd: int, data_fd: int) -> None:
        folder = self.directory
        settings = WorkerConfig(
            name,
            CLUSTER_FILE,
            f"{name}.crt",
            f"{name}.key",
            f"{name}-state",
            ["owner.crt"],
            ["client.crt"],
        )
        write_toml(folder / f"{name}.toml", settings)
        command = [sys.executable, "-m", "tercet.cli", "worker", "--config"]
        command += [str(folder / f"{name}.toml"), "--control-fd", str(control_fd)]
        command += ["--data-fd", str(data_fd), "--with-parent"]
        with (folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(control_fd, data_fd),
                    start_new_session=True,  # Ctrl-C reaches the caller, who stops the workers
                )
            )

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        with Owner(self.config, self.owner) as owner:
            while True:
                for name, process in zip(self._names, self._processes, strict=True):
                    if process.poll() is not None:
                        raise WorkerError(
                            f"worker {name} ended with code {process.returncode}: "
                            f"{self._log_end(name)}",
                            "See what its log says",
                        )
                states = owner.status()
                if all(isinstance(s, Status) and s.ready for s in states):
                    return
                if time.monotonic() > deadline:
                    faults = [s for s in states if not (isinstance(s, Status) and s.ready)]
                    raise TransportError(
                        f"the workers are not ready after {_START_TIMEOUT:g} s: {faults[0]}",
                        f"See the logs in {self.directory}",
                    )
                time.sleep(_POLL)

    def _log_end(self, name: str) -> str:
        lines = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "no log"
