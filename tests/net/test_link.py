"""What is particular to links over TLS: setting up, breaking, and coming back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tercet.crypto.identity import Identity
from tercet.errors import FrameError, PeerLost, TransportError
from tercet.net import hello
from tercet.net.frame import DATA, HEADER_BYTES, header
from tercet.net.hello import Hello
from tercet.net.link import TlsTransport
from tercet.net.sockets import bind
from tercet.net.tls import client_context
from tercet.net.transport import Tag
from tests.net.test_frame import MALFORMED
from tests.net.workers import TlsCluster, together
from tests.service.processes import eventually

SESSION = bytes(range(16))


def until(what: Callable[[], object], timeout: float = 5) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def linked(one: TlsTransport, other: TlsTransport) -> bool:
    """Whether the two agree on a link that stands."""
    with contextlib.suppress(PeerLost):
        return one.epoch(other.index) == other.epoch(one.index)
    return False


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    return [r.getMessage() for r in records if r.name == "tercet.net"]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_restarted_worker_is_linked_again_with_new_keys(cluster: TlsCluster, index: int) -> None:
    others = [i for i in range(3) if i != index]
    before = {i: cluster.workers[i].link(index) for i in others}
    cluster.workers[others[0]].send(index, Tag(SESSION, 1), [b"of the old link"])
    cluster.workers[index].close()
    for i in others:
        until(lambda i=i: index not in cluster.workers[i].connected(), 1)  # type: ignore[misc]
    cluster.restart(index)
    cluster.ready()
    new = cluster.workers[index]
    for i in others:
        link = cluster.workers[i].link(index)
        assert link == new.link(i)
        assert link.id != before[i].id
        assert link.key != before[i].key
    # The session knew the old link; neither its frames nor it itself survive into the new one.
    with pytest.raises(PeerLost, match=f"link to worker {index} was lost while the session ran"):
        cluster.workers[others[0]].send(index, Tag(SESSION, 2), [b"x"])
    with pytest.raises(PeerLost, match="was lost while the session ran"):
        cluster.workers[others[0]].recv(index, Tag(SESSION, 2), 1, 5)
    with pytest.raises(TransportError, match="did not send"):
        new.recv(others[0], Tag(SESSION, 1), 15, 0.2)
    fresh_session = bytes(16)
    for i in others:
        new.send(i, Tag(fresh_session, 1), [b"hello"])
        assert bytes(cluster.workers[i].recv(index, Tag(fresh_session, 1), 5, 5)) == b"hello"


def test_a_peer_that_goes_during_the_handshake_is_dialled_again(cluster: TlsCluster) -> None:
    """What is left of a killed worker may still accept a connection, and say nothing."""
    cluster.ready()
    cluster.workers[2].close()
    with bind("127.0.0.1", cluster.ports[2]) as remains:
        remains.settimeout(5)
        for _ in range(3):
            connection, _ = remains.accept()
            connection.recv(1 << 16)  # all of it: what is left unread would reset the connection
            connection.close()
    cluster.restart(2)
    cluster.ready()


def test_who_waits_for_one_peer_hears_that_the_other_has_gone(cluster: TlsCluster) -> None:
    """A worker that saw the loss first never begins the session that another waits in."""
    cluster.ready()
    cluster.workers[0].open_session(SESSION)
    started = time.monotonic()
    cluster.workers[1].close()
    with pytest.raises(PeerLost, match="link to worker 1 was lost while the session ran"):
        cluster.workers[0].recv(2, Tag(SESSION, 0), 1, 20)
    assert time.monotonic() - started < 15


def test_an_opened_session_ends_with_its_link(cluster: TlsCluster) -> None:
    a, b, _ = cluster.workers
    for worker in cluster.workers:
        worker.open_session(SESSION)
    epoch = a.epoch(1)
    channel = b._peers[0].channel
    assert channel is not None
    channel.fail(PeerLost, "cut by the test")
    until(lambda: linked(a, b) and a.epoch(1) != epoch)
    for here, there in ((a, 1), (b, 0)):
        with pytest.raises(PeerLost):
            here.send(there, Tag(SESSION, 1), [b"x"])
    # The link to the third worker was not touched, and the session may go on there.
    a.send(2, Tag(SESSION, 1), [b"x"])


def test_a_broken_idle_link_comes_back_by_itself(
    cluster: TlsCluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, _, c = cluster.workers
    epoch = a.epoch(2)
    channel = c._peers[0].channel
    assert channel is not None
    channel._outgoing.shutdown()
    until(lambda: linked(a, c) and a.epoch(2) != epoch)
    assert any("lost the link to worker 2 at 127.0.0.1" in line for line in messages(caplog))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_close_the_link(
    cluster: TlsCluster, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data, message = MALFORMED[name]
    a, b, _ = cluster.workers
    channel = a._peers[1].channel
    assert channel is not None

    def wait() -> None:
        with pytest.raises(FrameError, match=message):
            b.recv(0, Tag(SESSION, 1), 4, 10)

    def inject() -> None:
        time.sleep(0.05)
        channel._outgoing.send(data[:HEADER_BYTES])

    together([wait, inject])
    assert any(
        "closed the link to worker 0" in line and message in line for line in messages(caplog)
    )
    until(lambda: linked(a, b))


def test_a_repeated_tag_closes_the_link(cluster: TlsCluster) -> None:
    a, b, _ = cluster.workers
    channel = a._peers[1].channel
    assert channel is not None
    for _ in range(2):
        channel._outgoing.send(header(DATA, Tag(SESSION, 1), 1) + b"x")
    assert bytes(b.recv(0, Tag(SESSION, 1), 1, 5)) == b"x"
    with pytest.raises(FrameError, match=r"worker 0 sent step 1, .* twice"):
        b.recv(0, Tag(SESSION, 2), 1, 5)


def test_a_truncated_frame_is_a_lost_peer(cluster: TlsCluster) -> None:
    a, b, _ = cluster.workers
    channel = a._peers[1].channel
    assert channel is not None
    channel._outgoing.send(header(DATA, Tag(SESSION, 1), 100) + b"x")
    time.sleep(0.1)
    a.abort("crash")
    with pytest.raises(PeerLost, match="worker 0 closed the connection in the middle of a frame"):
        b.recv(0, Tag(SESSION, 1), 100, 5)


@pytest.fixture
def lonely(identities: list[Identity]) -> Iterator[tuple[TlsTransport, list[int]]]:
    """Worker 1 without the others, not started; its port comes first, theirs are closed."""
    listeners = [bind("127.0.0.1", 0) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    listeners[0].close()
    listeners[2].close()
    peers = {i: ("127.0.0.1", ports[i], identities[i].public) for i in (0, 2)}
    worker = TlsTransport(1, identities[1], peers, listeners[1])
    with contextlib.closing(worker):
        yield worker, [ports[1], ports[0], ports[2]]


def test_wait_ready_names_who_is_missing(
    lonely: tuple[TlsTransport, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    worker, (_, port0, port2) = lonely
    worker.start()  # here: what is logged between a fixture and its test is not caught
    with pytest.raises(TransportError) as caught:
        worker.wait_ready(0.5)
    assert f"worker 0 at 127.0.0.1:{port0} has not connected" in caught.value.message
    assert f"worker 2 at 127.0.0.1:{port2} is not reachable" in caught.value.message
    assert "cluster.toml" in caught.value.remedy
    eventually(lambda: any("cannot link to worker 2" in m for m in messages(caplog)))
    assert len([m for m in messages(caplog) if "cannot link to worker 2" in m]) == 1
    with pytest.raises(PeerLost, match="worker 2 at"):
        worker.send(2, Tag(SESSION, 1), [b"x"])
    with pytest.raises(PeerLost, match="worker 0 at"):
        worker.recv(0, Tag(SESSION, 1), 1)
    with pytest.raises(PeerLost):
        worker.open_session(SESSION)
    assert worker.connected() == set()


def test_close_ends_a_wait(lonely: tuple[TlsTransport, list[int]]) -> None:
    worker, _ = lonely
    worker.start()

    def wait() -> None:
        with pytest.raises(TransportError, match="the transport is closed"):
            worker.wait_ready(10)

    def close() -> None:
        time.sleep(0.1)
        worker.close()

    start = time.monotonic()
    together([wait, close])
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("who", "sender", "receiver", "direction", "line"),
    [
        (0, 2, 1, hello.FORWARD, "says that it is worker 2"),
        (2, 0, 1, hello.FORWARD, "says that it is worker 0"),
        (0, 1, 1, hello.FORWARD, "says that it is worker 1"),
        (0, 0, 2, hello.FORWARD, "and that this is worker 2"),
        (2, 2, 1, hello.FORWARD, "although its index is the higher one"),
        (0, 0, 1, hello.BACKWARD, "a link that it did not begin"),
        (0, 0, 1, 7, "a link that it did not begin"),
    ],
)
def test_false_hellos_are_refused(
    lonely: tuple[TlsTransport, list[int]],
    identities: list[Identity],
    caplog: pytest.LogCaptureFixture,
    who: int,
    sender: int,
    receiver: int,
    direction: int,
    line: str,
) -> None:
    worker, (port, *_) = lonely
    worker.start()
    context = client_context(identities[who], identities[1].public)
    request = Hello(hello.REQUEST, direction, sender, receiver, bytes(16), bytes(32))
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain) as connection,
        pytest.raises(TransportError, match="the peer"),
    ):
        hello.ask(connection, request)
    until(lambda: any(m.startswith("refused 127.0.0.1") and line in m for m in messages(caplog)))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (bytes(72), "does not speak the worker protocol"),
        (b"tercet\0\1" + b"\2" + bytes(63), "speaks version 2 of the worker protocol, not 1"),
        (b"tercet", "connection closed during the handshake"),
    ],
)
def test_what_is_no_hello_is_refused(
    lonely: tuple[TlsTransport, list[int]],
    identities: list[Identity],
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    line: str,
) -> None:
    worker, (port, *_) = lonely
    worker.start()
    context = client_context(identities[0], identities[1].public)
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(data)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        with contextlib.suppress(OSError):
            connection.recv(1 << 16)  # all of it: what is left unread would reset the connection
    until(lambda: any(m.startswith("refused 127.0.0.1") and line in m for m in messages(caplog)))


def test_workers_that_are_listened_to_need_a_socket(identities: list[Identity]) -> None:
    peers = {i: ("127.0.0.1", 1, identities[i].public) for i in (0, 2)}
    with pytest.raises(TransportError, match="worker 1 has no socket to listen on"):
        TlsTransport(1, identities[1], peers, None)


def test_an_impostor_at_the_address_of_a_peer_gets_nothing(
    identities: list[Identity], caplog: pytest.LogCaptureFixture
) -> None:
    impostor = Identity.generate(identities[1].name)
    fake = TlsCluster([identities[0], impostor, identities[2]])
    worker = TlsTransport(
        0,
        identities[0],
        {i: ("127.0.0.1", fake.ports[i], identities[i].public) for i in (1, 2)},
        None,
    )
    with contextlib.closing(fake), contextlib.closing(worker):
        worker.start()
        with pytest.raises(TransportError, match=r"worker 1 .*certificate is not on the list"):
            worker.wait_ready(0.5)
    assert any("cannot link to worker 1" in m for m in messages(caplog))
