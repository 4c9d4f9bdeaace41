"""Three processes with TLS between them and no control plane."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from tercet.crypto.identity import Identity
from tercet.net.link import TlsTransport
from tercet.net.sockets import bind


def run_parties(party: Callable[[TlsTransport, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run ``party(transport, index)`` in three forked processes; return what each reports.

    A report holds the seconds of each repetition, ``bytes`` and ``rounds``, as JSON.
    """
    identities = [Identity.generate(f"worker{i}") for i in range(3)]
    sockets = [bind("127.0.0.1", 0) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    read, write = os.pipe()
    ended, finish = os.pipe()
    children = []
    for index in range(3):
        child = os.fork()
        if child == 0:
            try:
                os.close(finish)
                peers = {
                    p: ("127.0.0.1", ports[p], identities[p].public) for p in range(3) if p != index
                }
                transport = TlsTransport(index, identities[index], peers, sockets[index])
                transport.start()
                transport.wait_ready(20)
                os.write(write, json.dumps(party(transport, index)).encode())
                os.close(write)
                os.read(ended, 1)  # nobody goes before all are done
            finally:
                os._exit(0)
        children.append(child)
    os.close(write)
    os.close(ended)
    for socket in sockets:
        socket.close()
    with os.fdopen(read) as file:
        decoder, text, reports = json.JSONDecoder(), file.read(), []
        while text:
            report, end = decoder.raw_decode(text)
            reports.append(report)
            text = text[end:]
    os.close(finish)
    for child in children:
        os.waitpid(child, 0)
    return reports


def slowest(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return seconds at the slowest party, bytes of all and rounds."""
    return {
        "seconds": [max(s) for s in zip(*(r["seconds"] for r in reports), strict=True)],
        "bytes": sum(r["bytes"] for r in reports),
        "rounds": reports[0]["rounds"],
    }
