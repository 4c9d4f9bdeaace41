"""Three workers started as their operators would, each with a configuration of its own.

Unlike ``LocalCluster`` they can be restarted with what they have stored, and relays may stand
between them and before them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import tercet
from tercet.crypto.identity import Identity
from tercet.net.sockets import bind
from tercet.service.config import ClusterConfig, WorkerConfig, WorkerEntry, write_toml
from tercet.service.messages import Status

NAMES = ("julia", "greg", "me")
_READY = 30.0


class Nodes:
    """Three workers in processes of their own; use it in a ``with`` statement.

    Args:
        delay: seconds that bytes take one way between any two nodes, the client included.
        rate: bytes a second between any two nodes, one way; relays are used if it is given.
    """

    def __init__(self, delay: float = 0.0, rate: float | None = None) -> None:
        self._delay = delay
        self._rate = rate
        self._folder = Path()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._relay: subprocess.Popen[bytes] | None = None
        self._sockets: list[tuple[socket.socket, socket.socket]] = []
        self.owner_side: tercet.Cluster
        self.client_side: tercet.Cluster
        self.echo_listener: socket.socket | None = None
        self.echo_port = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="tercet-bench-"))
        try:
            self._write()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._relay is not None:
            _end(self._relay)
        for pair in self._sockets:
            for listener in pair:
                listener.close()
        if self.echo_listener is not None:
            self.echo_listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        """Process ids of the three workers."""
        return [p.pid for p in self._processes]

    def start(self) -> None:
        """Start the workers and wait until they are ready."""
        for name, (control, data) in zip(NAMES, self._sockets, strict=True):
            fds = (control.fileno(), data.fileno())
            command = [sys.executable, "-m", "tercet.cli", "worker", "--with-parent"]
            command += ["--config", str(self._folder / name / "worker.toml")]
            command += ["--control-fd", str(fds[0]), "--data-fd", str(fds[1])]
            with (self._folder / f"{name}.log").open("ab") as log:
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=fds
                    )
                )
        deadline = time.monotonic() + _READY
        while not all(isinstance(s, Status) and s.ready for s in self.owner_side.status()):
            for name, process in zip(NAMES, self._processes, strict=True):
                if process.poll() is not None:
                    raise RuntimeError((self._folder / f"{name}.log").read_text()[-2000:])
            if time.monotonic() > deadline:
                raise TimeoutError(str(self.owner_side.status()))
            time.sleep(0.02)

    def stop(self) -> None:
        """End the workers; what they have stored stays."""
        for process in self._processes:
            _end(process)
        self._processes = []

    def _write(self) -> None:
        workers = [Identity.generate(name) for name in NAMES]
        owner, client = Identity.generate("owner"), Identity.generate("client")
        self._sockets = [(bind("127.0.0.1", 0), bind("127.0.0.1", 0)) for _ in NAMES]
        real = [(_port(control), _port(data)) for control, data in self._sockets]
        routes: list[tuple[socket.socket, int, str, str]] = []

        def view(node: str) -> ClusterConfig:
            """Return the cluster as this node sees it: others behind relays."""
            entries = []
            for worker, ports in zip(workers, real, strict=True):
                seen = []
                for port in ports:
                    if self._rate is None or node in (worker.name, "owner"):
                        seen.append(port)
                        continue
                    listener = bind("127.0.0.1", 0)
                    routes.append((listener, port, node, worker.name))
                    seen.append(_port(listener))
                addresses = [f"127.0.0.1:{port}" for port in seen]
                entries.append(
                    WorkerEntry(worker.name, *addresses, worker.certificate_pem.decode())
                )
            return ClusterConfig(entries)

        base = WorkerConfig(
            "",
            "cluster.toml",
            "worker.crt",
            "worker.key",
            "state",
            ["owner.crt"],
            ["client.crt"],
        )
        for worker in workers:
            folder = self._folder / worker.name
            folder.mkdir(mode=0o700)
            for identity in (worker, owner, client):
                identity.save(folder)
            for name in ("owner", "client"):
                (folder / f"{name}.key").unlink()
            write_toml(folder / "cluster.toml", view(worker.name))
            write_toml(
                folder / "worker.toml",
                msgspec.structs.replace(
                    base,
                    name=worker.name,
                    certificate=f"{worker.name}.crt",
                    key=f"{worker.name}.key",
                ),
            )
        self.owner_side = tercet.Cluster(view("owner"), owner, client)
        self.client_side = tercet.Cluster(view("client"), None, client)
        if self._rate is None:
            return
        # A route on a link of its own, to measure what the relays do.
        echo, near = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
        self.echo_port, self.echo_listener = _port(near), echo
        routes.append((near, _port(echo), "here", "echo"))
        given = {
            "delay": self._delay,
            "rate": self._rate,
            "routes": [
                {"fd": listener.fileno(), "port": port, "here": here, "there": there}
                for listener, port, here, there in routes
            ],
        }
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "bench.relay", json.dumps(given)],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno() for listener, *_ in routes],
            cwd=Path(__file__).parents[1],
        )
        for listener, *_ in routes:
            listener.close()


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that goes when its standard input does."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
