"""What a caller does with answers of bad will, and a worker with bodies of bad will."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import zlib

import msgspec
import pytest

import tercet
from tercet.crypto.identity import Identity
from tercet.errors import TransportError
from tercet.net.sockets import bind
from tercet.net.tls import server_context
from tercet.service.cluster import LocalCluster
from tercet.service.config import ClusterConfig, WorkerEntry
from tercet.service.connection import Connection
from tercet.service.messages import Answer, Describe, Description, Failure


@pytest.mark.parametrize("way", ["post", "call"])
def test_a_redirect_onto_plaintext_is_not_followed(way: str) -> None:
    """A worker that points elsewhere gets nothing sent there."""
    worker, client = Identity.generate("julia"), Identity.generate("client")
    plain, control = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    plain.settimeout(1.0)
    elsewhere = f"http://127.0.0.1:{plain.getsockname()[1]}/"
    seen: list[bytes] = []

    def serve() -> None:
        connection, _ = control.accept()
        context = server_context(worker, [client.public])
        with context.wrap_socket(connection, server_side=True) as tls:
            seen.append(tls.recv(65536))
            tls.sendall(
                f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere}\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            tls.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    entries = [
        WorkerEntry(
            name, f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}", identity.certificate_pem.decode()
        )
        for name, port, identity in (
            ("julia", control.getsockname()[1], worker),
            ("greg", 1, Identity.generate("greg")),
            ("me", 3, Identity.generate("me")),
        )
    ]
    with Connection(ClusterConfig(entries), client) as connection:
        bodies = [Describe("secret")] * 3
        if way == "post":
            answers = connection.ask_each("/v1/describe", bodies, Description, 10)
        else:
            answers = connection.call_each(bodies, Answer, 10)
    thread.join(10)
    assert isinstance(answers[0], TransportError)
    assert "points elsewhere" in str(answers[0])
    assert isinstance(answers[1], TransportError)
    assert (b"POST /v1/describe" if way == "post" else b"GET /v1/calls") in seen[0]
    with contextlib.suppress(TimeoutError):
        plain.accept()
        raise AssertionError("the client followed the redirect")
    plain.close()
    control.close()


def test_a_compressed_body_is_refused_unread(cluster: LocalCluster) -> None:
    """A small body that would unfold to a large one."""

    async def post(connection: Connection) -> list[tuple[int, Failure]]:
        await connection._open()
        replies = []
        for session in connection._sessions:
            async with session.post(
                "/v1/describe",
                data=zlib.compress(bytes(1 << 24)),
                headers={"Content-Encoding": "deflate"},
            ) as response:
                body = await response.read()
                replies.append((response.status, msgspec.msgpack.decode(body, type=Failure)))
        return replies

    with Connection(cluster.config, cluster.client) as connection:
        replies = connection._portal.call(asyncio.wait_for(post(connection), 20))
    for status, failure in replies:
        assert status == 403
        assert "not compressed" in failure.remedy
    assert all(s.ready for s in tercet.Cluster(cluster.config, None, cluster.client).status())
