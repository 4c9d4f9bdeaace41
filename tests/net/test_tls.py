"""Who gets in and who does not, on both acceptors, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from aiohttp import ClientSession, TCPConnector, web

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import IdentityError, SecurityError, TransportError
from tercet.net.listener import Listener, bind, from_fd
from tercet.net.tls import client_context, peer_identity, server_context
from tests.net.strangers import anonymous, knock, refused_clients, shout, signed_by
from tests.net.workers import TlsCluster

SERVER, ALICE, BOB = (Identity.generate(name) for name in ("server", "alice", "bob"))
STRANGERS = refused_clients(SERVER, ALICE)


class Door:
    """A ``Listener`` in front of an aiohttp server, on a loop in a thread."""

    def __init__(self) -> None:
        self.accepted = [ALICE.public]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.run(self._start())

    def run(self, work: object) -> object:
        assert asyncio.iscoroutine(work)
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _start(self) -> None:
        async def answer(request: web.BaseRequest) -> web.Response:
            assert request.transport is not None
            who = peer_identity(request.transport.get_extra_info("ssl_object"), self.accepted)
            return web.Response(text=f"hello {who.name}")

        self.server = web.Server(answer)
        self.listener = Listener(
            bind("127.0.0.1", 0),
            lambda: server_context(SERVER, self.accepted),
            self.server,
            handshake_timeout=0.5,
        )
        await self.listener.start()

    async def _stop(self) -> None:
        await self.listener.close()
        await self.server.shutdown(1)
        await asyncio.sleep(0.05)

    def close(self) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    @property
    def address(self) -> tuple[str, int]:
        return self.listener.address

    def get(self, who: Identity, server: Identity = SERVER) -> str:
        async def work() -> str:
            connector = TCPConnector(ssl=client_context(who, server.public))
            async with (
                ClientSession(connector=connector) as session,
                session.get("https://{}:{}/".format(*self.address)) as response,
            ):
                return await response.text()

        text = self.run(work())
        assert isinstance(text, str)
        return text


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


def lines(caplog: pytest.LogCaptureFixture, wanted: int) -> list[str]:
    """Wait for log lines; return those about refusals."""
    deadline = time.monotonic() + 5
    while True:
        found = [r.getMessage() for r in caplog.records if r.name == "tercet.net"]
        found = [line for line in found if line.startswith("refused")]
        if len(found) >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def test_the_listed_identity_gets_in(door: Door) -> None:
    assert door.get(ALICE) == "hello alice"


def test_the_list_may_change_while_the_server_runs(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    assert knock(door.address, client_context(BOB, SERVER.public)) == b""
    door.accepted = [ALICE.public, BOB.public]
    assert door.get(BOB) == "hello bob"
    door.accepted = [BOB.public]
    assert knock(door.address, client_context(ALICE, SERVER.public)) == b""
    assert len(lines(caplog, 2)) == 2


def test_two_identities_may_have_the_same_name(door: Door) -> None:
    twin = Identity.generate("alice")
    door.accepted = [ALICE.public, twin.public]
    assert door.get(twin) == door.get(ALICE) == "hello alice"


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_refused_with_one_line(
    door: Door, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    client, reason = STRANGERS[name]
    assert b"HTTP" not in client(door.address)
    found = lines(caplog, 1)
    assert door.get(ALICE) == "hello alice"  # the loop has survived
    assert len(found) == len(lines(caplog, 1)) == 1
    assert found[0].startswith("refused 127.0.0.1:")
    assert reason in found[0]
    record = next(r for r in caplog.records if r.name == "tercet.net")
    assert record.levelno == logging.WARNING
    assert reason in record.__dict__["reason"]


@pytest.mark.parametrize("name", STRANGERS)
def test_the_data_port_refuses_them_too(
    identities: list[Identity], cluster: TlsCluster, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    client, reason = refused_clients(identities[1], identities[0])[name]
    client(("127.0.0.1", cluster.ports[1]))
    found = lines(caplog, 1)
    assert len(found) == 1
    assert reason in found[0]
    assert cluster.workers[1].connected() == {0, 2}


def test_a_silent_client_times_out(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    assert shout(door.address, b"") == b""
    assert "time-out during the handshake" in lines(caplog, 1)[0]


def test_a_client_that_leaves(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    socket.create_connection(door.address).close()
    assert lines(caplog, 1)[0].endswith("connection closed during the handshake")


def test_the_client_refuses_another_server(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    for other in (BOB, Identity.generate("server"), signed_by(SERVER, "server")):
        context = client_context(ALICE, other.public)
        with (
            socket.create_connection(door.address, 5) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(plain)
    assert all("does not have our certificate" in line for line in lines(caplog, 3))


def test_no_session_is_resumed(door: Door) -> None:
    context = client_context(ALICE, SERVER.public)
    for _ in range(2):
        with (
            socket.create_connection(door.address, 5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            assert connection.version() == "TLSv1.3"
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while connection.recv(1000):
                pass
            assert not connection.session_reused
            assert connection.session is None or not connection.session.has_ticket


def test_a_context_without_anybody_on_its_list() -> None:
    context = server_context(SERVER, [])
    assert context.get_ca_certs() == []
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_contexts_accept_nothing_but_tls_1_3() -> None:
    for context in (
        server_context(SERVER, [ALICE.public]),
        client_context(ALICE, SERVER.public),
    ):
        assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert not context.check_hostname
        assert context.cert_store_stats()["x509_ca"] == 0
        assert context.cert_store_stats()["x509"] == 1
    assert server_context(SERVER, [ALICE.public]).num_tickets == 0


def test_a_key_that_does_not_fit() -> None:
    with pytest.raises(IdentityError, match="key values mismatch"):
        client_context(Identity(ALICE.public, BOB.key_pem), SERVER.public)


class _Peer:
    def __init__(self, certificate: bytes | None, version: str = "TLSv1.3") -> None:
        self.getpeercert: Callable[..., bytes | None] = lambda binary_form: certificate
        self.version = lambda: version


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (None, "not authenticated"),
        (_Peer(None), "not authenticated"),
        (_Peer(ALICE.public.certificate, "TLSv1.2"), "not authenticated"),
        (_Peer(b"junk"), "not an X.509 certificate"),
        (_Peer(BOB.public.certificate), "'bob' with key .* is not on the list"),
        (_Peer(Identity.generate("alice").public.certificate), "'alice' .* is not on the list"),
    ],
)
def test_peer_identity_compares_the_exact_key(connection: ssl.SSLSocket, message: str) -> None:
    with pytest.raises(SecurityError, match=message):
        peer_identity(connection, [ALICE.public])


def test_peer_identity_gives_the_entry_of_the_list() -> None:
    listed = PublicIdentity(ALICE.public.certificate)
    assert peer_identity(_Peer(ALICE.public.certificate), [BOB.public, listed]) is listed  # type: ignore[arg-type]


def test_handshakes_are_bounded_but_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        listener = Listener(
            bind("127.0.0.1", 0),
            lambda: server_context(SERVER, []),
            asyncio.Protocol,
            handshake_timeout=0.3,
            max_handshakes=2,
        )
        await listener.start()
        silent = [socket.create_connection(listener.address) for _ in range(5)]
        await asyncio.sleep(0.15)
        assert len(listener._handshakes) == 2
        await asyncio.sleep(1.2)
        await listener.close()
        for connection in silent:
            connection.close()

    asyncio.run(work())
    assert len(lines(caplog, 5)) == 5


def test_a_broken_factory_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def factory() -> asyncio.Protocol:
        raise RuntimeError("broken")

    async def work() -> None:
        listener = Listener(
            bind("127.0.0.1", 0), lambda: server_context(SERVER, [ALICE.public]), factory
        )
        await listener.start()
        for _ in range(2):
            await asyncio.to_thread(knock, listener.address, anonymous())
        await listener.close()

    asyncio.run(work())
    assert any("could not serve 127.0.0.1" in r.getMessage() for r in caplog.records)


def test_bind_says_that_the_port_is_in_use() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(TransportError, match=rf"127\.0\.0\.1:{port}.*port is in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 70000)])
def test_bind_refuses_what_is_no_address_here(host: str, port: int) -> None:
    with pytest.raises(TransportError, match="Give an address of this machine"):
        bind(host, port)


def test_from_fd() -> None:
    with bind("127.0.0.1", 0) as first:
        where = first.getsockname()
        with from_fd(os.dup(first.fileno())) as second:
            assert second.getsockname() == where
        with socket.create_connection(where) as connection:
            fd = os.dup(connection.fileno())
            with pytest.raises(TransportError, match="not a listening TCP socket"):
                from_fd(fd)
            os.close(fd)
    read, write = os.pipe()
    with pytest.raises(TransportError, match="is not a socket"):
        from_fd(read)
    os.close(read)
    os.close(write)
