"""Worker processes on this machine: their folder of files, starting, watching and ending them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tercet.children import environment
from tercet.crypto.identity import Identity
from tercet.errors import TransportError, WorkerError
from tercet.service.config import ClusterConfig, WorkerConfig, WorkerEntry, write_toml
from tercet.service.messages import Status
from tercet.service.owner import Owner

CLUSTER_FILE = "cluster.toml"

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 15.0
_POLL = 0.05


def lay_out(
    folder: Path, workers: Sequence[tuple[str, str, str]], parties: Sequence[str] = ()
) -> ClusterConfig:
    """Write all that a cluster on one machine needs: keys, ``cluster.toml``, a file a worker.

    Args:
        folder: where to; private to its user, as all keys come to lie there.
        workers: name, address and data address of each.
        parties: names of more identities, each of which may be owner and client.

    Raises:
        ConfigError: if they do not make a cluster.
        IdentityError: if a key file is there already.
    """
    identities = [Identity.generate(name) for name, _, _ in workers]
    config = ClusterConfig(
        [
            WorkerEntry(name, address, data, identity.certificate_pem.decode())
            for (name, address, data), identity in zip(workers, identities, strict=True)
        ]
    )
    config.check("the cluster on this machine")
    for identity in (*identities, *map(Identity.generate, ("owner", "client", *parties))):
        identity.save(folder)
    write_toml(folder / CLUSTER_FILE, config)
    for name, _, _ in workers:
        settings = WorkerConfig(
            name,
            CLUSTER_FILE,
            f"{name}.crt",
            f"{name}.key",
            f"{name}-state",
            ["owner.crt", *(f"{p}.crt" for p in parties)],
            ["client.crt", *(f"{p}.crt" for p in parties)],
        )
        write_toml(folder / f"{name}.toml", settings)
    return config


class WorkerProcesses:
    """The workers that this process has started and must not outlive it.

    Args:
        folder: holds ``NAME.toml`` of each worker, and gets ``NAME.log``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of starting."""
        return [p.pid for p in self._processes.values()]

    def spawn(self, name: str, control_fd: int, data_fd: int) -> None:
        """Start worker ``name`` on these two listening sockets; the caller closes its copies."""
        command = [sys.executable, "-m", "tercet.cli", "worker", "--config"]
        command += [str(self._folder / f"{name}.toml"), "--control-fd", str(control_fd)]
        command += ["--data-fd", str(data_fd), "--with-parent"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(control_fd, data_fd),
                env=environment(),
                start_new_session=True,  # Ctrl-C reaches the caller, who stops the workers
            )

    def check(self) -> None:
        """Notice a worker that ended.

        Raises:
            WorkerError: naming it, with the end of its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise WorkerError(
                    f"worker {name} ended with code {process.returncode}: {self._log_end(name)}",
                    f"See {self._folder / f'{name}.log'}",
                )

    def await_ready(self, owner: Owner) -> None:
        """Wait until all three workers of the cluster are ready, these and others.

        Raises:
            WorkerError: if one of these ends.
            TransportError: if one is not ready in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            self.check()
            states = owner.status()
            faults = [_fault(s) for s in states if not (isinstance(s, Status) and s.ready)]
            if not faults:
                return
            if time.monotonic() > deadline:
                raise TransportError(
                    f"the workers are not ready after {_START_TIMEOUT:g} s: {faults[0]}",
                    f"See the logs in {self._folder}",
                )
            time.sleep(_POLL)

    def stop(self) -> None:
        """End them and wait for it; harmless if none runs."""
        for process in self._processes.values():
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # a worker ends when its parent's pipe does
        deadline = time.monotonic() + _STOP_TIMEOUT
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = {}

    def _log_end(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "no log"


def _fault(state: Status | BaseException) -> str:
    if isinstance(state, Status):
        return f"worker {state.name} waits for {', '.join(state.waiting_for)}"
    return str(state)
