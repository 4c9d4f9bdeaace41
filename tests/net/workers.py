"""Trios of workers on loopback, and threads to drive them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from tercet.crypto.identity import Identity
from tercet.net.link import TlsTransport
from tercet.net.sockets import bind
from tercet.net.transport import Transport

Trio = tuple[Transport, Transport, Transport]


class TlsCluster:
    """Three TLS workers in this process, each of which can be stopped and started again."""

    def __init__(self, identities: list[Identity]) -> None:
        self.identities = identities
        listeners = [bind("127.0.0.1", 0) for _ in range(3)]
        self.ports = [listener.getsockname()[1] for listener in listeners]
        self.workers = [self._make(i, listeners[i]) for i in range(3)]
        for worker in self.workers:
            worker.start()

    def _make(self, index: int, listener: socket.socket) -> TlsTransport:
        peers = {
            i: ("127.0.0.1", self.ports[i], self.identities[i].public)
            for i in range(3)
            if i != index
        }
        return TlsTransport(index, self.identities[index], peers, listener)

    def restart(self, index: int) -> None:
        self.workers[index] = self._make(index, bind("127.0.0.1", self.ports[index]))
        self.workers[index].start()

    def ready(self) -> None:
        for worker in self.workers:
            worker.wait_ready(10)

    def close(self) -> None:
        together([worker.close for worker in self.workers])


def together(calls: list[Callable[[], Any]], timeout: float = 30) -> list[Any]:
    """Run the calls at the same time and return their results, or raise the first error."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = calls[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    if errors:
        raise errors[0]
    return results
