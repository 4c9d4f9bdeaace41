"""``TFECluster``: three workers, started and stopped together."""

from __future__ import annotations

import atexit
import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tercet.api import Cluster
from tercet.errors import ConfigError, InputError, TransportError, WorkerError
from tercet.net.sockets import bind
from tercet.service.config import WorkerEntry, split_address
from tercet.service.messages import Status
from tercet.service.owner import Owner
from tercet.service.processes import CLUSTER_FILE, WorkerProcesses
from tercet.syft.home import LOOPBACK, canonical, cluster_folder

if TYPE_CHECKING:
    from tercet.syft.worker import TFEWorker

WORKERS = 3


class TFECluster:
    """Three workers that hold and run one model.

    Every process that names the same three workers, in any order, means the same cluster. On this
    machine, keys are made on first use and kept in a per-user folder: ``TERCET_HOME``, or
    ``tercet`` in the XDG data folder. For workers elsewhere give ``config``.

    Args:
        workers: three ``TFEWorker``.
        config: path of a ``cluster.toml``, with identities beside it, that names these workers.

    Raises:
        ConfigError: unless it is three different workers.
    """

    def __init__(self, *workers: TFEWorker, config: str | Path | None = None) -> None:
        from tercet.syft.worker import TFEWorker

        if len(workers) != WORKERS:
            raise ConfigError(
                f"{len(workers)} workers", "A cluster has exactly three: TFECluster(a, b, c)"
            )
        for worker in workers:
            if not isinstance(worker, TFEWorker):
                raise InputError(f"a {type(worker).__name__} is not a worker", "Give a TFEWorker")
        self._managed = {canonical(w.host): w.auto_managed for w in workers}
        if len(self._managed) != WORKERS:
            raise ConfigError("the same worker twice", "Give each a host or a port of its own")
        self._config = None if config is None else Path(config)
        self._cluster: Cluster | None = None
        self._folder = Path()
        self._processes: WorkerProcesses | None = None

    @property
    def tercet(self) -> Cluster:
        """The same workers as Tercet's own API takes them.

        Raises:
            ConfigError: if the keys of workers elsewhere are not known.
            IdentityError: if the folder of keys is open to others.
        """
        if self._cluster is None:
            path = self._cluster_file()
            cluster = Cluster.load(path)
            named = {canonical(entry.address) for entry in cluster.config.worker}
            if named != set(self._managed):
                raise ConfigError(
                    f"{path} names the workers {', '.join(sorted(named))}, "
                    f"not {', '.join(sorted(self._managed))}",
                    "Give TFEWorker the addresses that stand there",
                )
            self._cluster, self._folder = cluster, path.parent
        return self._cluster

    @property
    def path(self) -> Path:
        """The cluster's ``cluster.toml``, for the command line."""
        _ = self.tercet
        return self._config or self._folder / CLUSTER_FILE

    def start(self) -> None:
        """Start the workers that are ``auto_managed`` and return when all three are ready.

        If all three are, and their keys are those of the per-user folder, they begin empty.

        Raises:
            WorkerError: if it is started already; if a worker that is not ``auto_managed`` does
                not run, with the command that starts it; if a worker ends at once.
            TransportError: if a port is in use, or a worker is not ready within 30 s.
            ConfigError: if a worker to be started is not on this machine.
        """
        if self._processes is not None:
            raise WorkerError("the cluster is started already", "Use it, or call stop() first")
        entries = self.tercet.config.worker
        mine = [e for e in entries if self._managed[canonical(e.address)]]
        for entry in mine:
            self._check_startable(entry)
        with Owner(self.tercet.config, self.tercet.owner) as owner:
            self._check_running([e for e in entries if e not in mine], owner)
            processes = WorkerProcesses(self._folder)
            try:
                self._launch(mine, processes)
                processes.await_ready(owner)
            except BaseException:
                processes.stop()
                raise
        self._processes = processes
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the workers that ``start`` has started; harmless if there are none."""
        atexit.unregister(self.stop)
        if self._processes is not None:
            self._processes.stop()
            self._processes = None

    @property
    def gone(self) -> bool:
        """Whether all workers were this process's own and have been stopped."""
        return self._processes is None and all(self._managed.values())

    def check(self) -> None:
        """Notice that the cluster is not started, or that a worker of this process ended.

        Raises:
            WorkerError: if so.
        """
        if self._processes is None:
            raise WorkerError("the cluster is not started", "Call cluster.start() first")
        self._processes.check()

    def _cluster_file(self) -> Path:
        if self._config is not None:
            return self._config
        for address in self._managed:
            host, _ = split_address(address)
            if not _is_here(host):
                raise ConfigError(
                    f"{address} is not on this machine, and its key is not known here",
                    'Name the cluster\'s file: TFECluster(a, b, c, config="cluster.toml")',
                )
        return cluster_folder(list(self._managed)) / CLUSTER_FILE

    def _check_startable(self, entry: WorkerEntry) -> None:
        host, _ = split_address(entry.address)
        if not _is_here(host):
            raise ConfigError(
                f"worker {entry.name} at {entry.address} cannot be started from here: {host} is "
                "another machine",
                "Give it auto_managed=False and start it there: tercet worker --config "
                f"{entry.name}.toml",
            )
        if not (self._folder / f"{entry.name}.toml").exists():
            raise ConfigError(
                f"worker {entry.name} cannot be started: there is no {entry.name}.toml beside "
                f"{self.path}",
                "Put it there, or give the worker auto_managed=False",
            )

    def _check_running(self, entries: Sequence[WorkerEntry], owner: Owner) -> None:
        if not entries:
            return
        states = zip(self.tercet.config.worker, owner.status(), strict=True)
        missing = [(e, s) for e, s in states if e in entries and not isinstance(s, Status)]
        if missing:
            commands = "".join(f"\n    {self._command(e)}" for e, _ in missing)
            raise WorkerError(
                "; ".join(s.message if isinstance(s, TransportError) else str(s)
                          for _, s in missing),
                "As auto_managed is False, start each in a terminal of its own and try again:"
                + commands,
            )  # fmt: skip

    def _command(self, entry: WorkerEntry) -> str:
        config = self._folder / f"{entry.name}.toml"
        command = f"tercet worker --config {shlex.quote(str(config))}"
        return command if config.exists() else f"{command}   (on {split_address(entry.address)[0]})"

    def _launch(self, entries: Sequence[WorkerEntry], processes: WorkerProcesses) -> None:
        with ExitStack() as stack:
            ports = [[_listen(stack, e, a) for a in (e.address, e.data_address)] for e in entries]
            if self._config is None and len(entries) == WORKERS:
                # All six ports were free, so that no worker uses the folder.
                for entry in entries:
                    shutil.rmtree(self._folder / f"{entry.name}-state", ignore_errors=True)
            for entry, (control, data) in zip(entries, ports, strict=True):
                processes.spawn(entry.name, control, data)


def _listen(stack: ExitStack, entry: WorkerEntry, address: str) -> int:
    """Return a listening socket's descriptor that lasts as long as ``stack``."""
    try:
        listener: Any = stack.enter_context(bind(*split_address(address)))
    except TransportError as error:
        raise TransportError(
            f"worker {entry.name} cannot be started: {error.message}",
            f"{error.remedy}. If that is this worker, give it auto_managed=False",
        ) from None
    return int(listener.fileno())


def _is_here(host: str) -> bool:
    """Whether ``host`` is this machine: whether one can listen there."""
    if host == LOOPBACK:
        return True
    try:
        bind(host, 0).close()
    except TransportError:
        return False
    return True
