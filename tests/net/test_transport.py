"""What every transport has to do."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tercet.crypto.prg import fresh
from tercet.errors import FrameError, PeerLost, SecurityError, TransportError
from tercet.net.transport import Tag
from tests.net.workers import Trio, together

SESSION = bytes(range(16))


def test_round_trip_of_every_buffer_type(trio: Trio) -> None:
    a, b, _ = trio
    words = np.arange(6, dtype=np.uint64).reshape(2, 3)
    parts = [b"one", bytearray(b"two"), memoryview(words), words[:, ::2], np.empty((0, 3)), b""]
    expected = b"onetwo" + words.tobytes() + words[:, ::2].tobytes()
    a.send(1, Tag(SESSION, 1), parts)
    got = b.recv(0, Tag(SESSION, 1), len(expected), 5)
    assert bytes(got) == expected
    assert not got.readonly


def test_every_pair_and_direction(trio: Trio) -> None:
    for sender in trio:
        for receiver in trio:
            if sender is not receiver:
                text = f"{sender.index}->{receiver.index}".encode()
                sender.send(receiver.index, Tag(SESSION, 1), [text])
    for receiver in trio:
        for sender in trio:
            if sender is not receiver:
                got = receiver.recv(sender.index, Tag(SESSION, 1), 4, 5)
                assert bytes(got) == f"{sender.index}->{receiver.index}".encode()


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 65536, 65537, 3_000_001])
def test_sizes(trio: Trio, size: int) -> None:
    a, b, _ = trio
    payload = fresh(size)
    a.send(1, Tag(SESSION, 1), [payload])
    a.send(1, Tag(SESSION, 2), [b"next"])
    assert bytes(b.recv(0, Tag(SESSION, 1), size, 10)) == payload
    assert bytes(b.recv(0, Tag(SESSION, 2), 4, 10)) == b"next"


def test_payload_can_be_read_as_words(trio: Trio) -> None:
    a, b, _ = trio
    words = np.arange(5000, dtype=np.uint64)
    a.send(1, Tag(SESSION, 1), [words])
    got = np.frombuffer(b.recv(0, Tag(SESSION, 1), words.nbytes, 5), np.uint64)
    assert got.flags.aligned
    np.testing.assert_array_equal(got, words)


def test_large_sends_into_each_other_do_not_deadlock(trio: Trio) -> None:
    size = 50 << 20
    payload = np.frombuffer(fresh(1 << 20) * 50, np.uint8)

    def work(i: int) -> bool:
        for peer in (0, 1, 2):
            if peer != i:
                trio[i].send(peer, Tag(SESSION, i), [payload])
        return all(
            np.array_equal(np.frombuffer(trio[i].recv(p, Tag(SESSION, p), size), np.uint8), payload)
            for p in (0, 1, 2)
            if p != i
        )

    assert together([lambda i=i: work(i) for i in range(3)]) == [True] * 3


def test_a_buffer_may_be_changed_after_it_was_sent(trio: Trio) -> None:
    a, b, _ = trio
    words = np.zeros(4 << 20, np.uint8)
    for step in range(3):
        a.send(1, Tag(SESSION, step), [words])
        words += 1
    for step in range(3):
        got = np.frombuffer(b.recv(0, Tag(SESSION, step), words.nbytes), np.uint8)
        assert (got == step).all()


def test_out_of_order(trio: Trio) -> None:
    a, b, _ = trio
    for step in range(20):
        a.send(1, Tag(SESSION, step, step), [bytes([step])])
    for step in reversed(range(20)):
        assert bytes(b.recv(0, Tag(SESSION, step, step), 1, 5)) == bytes([step])


def test_many_threads_wait_on_one_link(trio: Trio) -> None:
    a, b, _ = trio
    n = 30

    def wait(step: int) -> bytes:
        return bytes(b.recv(0, Tag(SESSION, step), 1000, 10))

    def send() -> None:
        for step in reversed(range(n)):
            a.send(1, Tag(SESSION, step), [bytes([step]) * 1000])

    got = together([*(lambda i=i: wait(i) for i in range(n)), send])
    assert got[:n] == [bytes([step]) * 1000 for step in range(n)]


def test_many_threads_send_on_one_link(trio: Trio) -> None:
    a, b, _ = trio

    def send(part: int) -> None:
        for step in range(50):
            size = 100_000 if step % 10 == 0 else 10
            a.send(1, Tag(SESSION, step, part), [bytes([part]) * size])

    together([lambda i=i: send(i) for i in range(8)])
    for part in range(8):
        for step in range(50):
            size = 100_000 if step % 10 == 0 else 10
            assert bytes(b.recv(0, Tag(SESSION, step, part), size, 10)) == bytes([part]) * size


def test_a_tag_is_used_once(trio: Trio) -> None:
    a, b, _ = trio
    a.send(1, Tag(SESSION, 1), [b"x"])
    with pytest.raises(FrameError, match=r"second message to worker 1 under step 1, slice 0"):
        a.send(1, Tag(SESSION, 1), [b"x"])
    b.recv(0, Tag(SESSION, 1), 1, 5)
    with pytest.raises(FrameError, match="second message"):
        a.send(1, Tag(SESSION, 1), [b"x"])
    b.send(0, Tag(SESSION, 1), [b"x"])  # the other direction has tags of its own


@pytest.mark.parametrize(
    "tag", [Tag(b"short", 1), Tag(SESSION, 1 << 32), Tag(SESSION, -1), Tag(SESSION, 1, 1 << 16)]
)
def test_malformed_tags_are_refused(trio: Trio, tag: Tag) -> None:
    with pytest.raises(FrameError, match="is not a tag"):
        trio[0].send(1, tag, [b"x"])


def test_wrong_size(trio: Trio) -> None:
    a, b, _ = trio
    a.send(1, Tag(SESSION, 7), [b"four"])
    with pytest.raises(FrameError, match=r"worker 0 sent 4 bytes for step 7.* 5 were expected"):
        b.recv(0, Tag(SESSION, 7), 5, 5)
    a.send(1, Tag(SESSION, 8), [b"four"])
    assert bytes(b.recv(0, Tag(SESSION, 8), 4, 5)) == b"four"


def test_time_out_names_peer_and_step(trio: Trio) -> None:
    start = time.monotonic()
    with pytest.raises(TransportError, match=r"worker 2 did not send step 9, slice 3 .*0\.2 s"):
        trio[1].recv(2, Tag(SESSION, 9, 3), 4, 0.2)
    assert 0.2 <= time.monotonic() - start < 1
    trio[2].send(1, Tag(SESSION, 9, 3), [b"late"])
    assert bytes(trio[1].recv(2, Tag(SESSION, 9, 3), 4, 5)) == b"late"


def test_what_is_sent_is_counted_exactly(trio: Trio) -> None:
    a, _, _ = trio
    assert a.send(1, Tag(SESSION, 1), [bytes(100), bytes(11)]) == 111
    assert a.send(1, Tag(SESSION, 2), [np.zeros(100_000, np.uint64)]) == 800_000
    assert a.send(2, Tag(SESSION, 1), []) == 0


def test_discard_drops_what_waits_and_what_comes(trio: Trio) -> None:
    a, b, _ = trio
    other = fresh(16)
    a.send(1, Tag(SESSION, 1), [b"early"])
    b.discard(SESSION)
    a.send(1, Tag(SESSION, 2), [b"late"])
    a.send(1, Tag(other, 1), [b"other"])
    assert bytes(b.recv(0, Tag(other, 1), 5, 5)) == b"other"
    for step in (1, 2):
        with pytest.raises(TransportError, match="session has ended"):
            b.recv(0, Tag(SESSION, step), 5, 5)
    with pytest.raises(TransportError, match="session has ended"):
        b.send(0, Tag(SESSION, 1), [b"x"])


def test_abort_of_a_session_reaches_everybody_at_once(trio: Trio) -> None:
    a, b, c = trio
    other = fresh(16)

    def wait(worker: int, peer: int) -> str:
        with pytest.raises(TransportError) as caught:
            trio[worker].recv(peer, Tag(SESSION, 1), 4, 20)
        return caught.value.message

    def abort() -> None:
        time.sleep(0.2)
        a.abort("the policy\nchanged", SESSION)

    start = time.monotonic()
    messages = together(
        [lambda: wait(1, 0), lambda: wait(1, 2), lambda: wait(2, 0), lambda: wait(0, 1), abort]
    )
    assert time.monotonic() - start < 15
    assert messages[:3] == ["worker 0 aborted the session: the policy changed"] * 3
    assert "the policy" in messages[3]
    c.send(1, Tag(other, 1), [b"fine"])  # other sessions go on
    assert bytes(b.recv(2, Tag(other, 1), 4, 5)) == b"fine"


def test_peer_death_wakes_those_who_wait_for_it(trio: Trio) -> None:
    a, b, c = trio

    def wait(worker: int) -> None:
        with pytest.raises(PeerLost, match="worker 0"):
            trio[worker].recv(0, Tag(SESSION, 1), 4, 20)

    def die() -> None:
        time.sleep(0.2)
        a.abort("killed by the test")

    start = time.monotonic()
    together([lambda: wait(1), lambda: wait(2), lambda: wait(1), die])
    assert time.monotonic() - start < 15
    b.send(2, Tag(SESSION, 1), [b"rest"])  # the two others still reach each other
    assert bytes(c.recv(1, Tag(SESSION, 1), 4, 5)) == b"rest"
    with pytest.raises(PeerLost, match="worker 0"):
        b.send(0, Tag(SESSION, 1), [b"x"])
    assert b.connected() == {2}
    with pytest.raises(TransportError, match="killed by the test"):
        a.send(1, Tag(SESSION, 2), [b"x"])


def test_close_sends_what_is_queued(trio: Trio) -> None:
    a, b, _ = trio
    payload = fresh(20 << 20)
    a.send(1, Tag(SESSION, 1), [payload])
    result: list[bytes] = []
    reader = threading.Thread(
        target=lambda: result.append(bytes(b.recv(0, Tag(SESSION, 1), len(payload), 20)))
    )
    reader.start()
    a.close()
    a.close()
    reader.join(20)
    assert result == [payload]


def test_what_arrived_before_the_end_can_still_be_taken(trio: Trio) -> None:
    a, b, _ = trio
    a.send(1, Tag(SESSION, 1), [b"first"])
    a.send(1, Tag(SESSION, 2), [b"other"])
    a.close()
    deadline = time.monotonic() + 5
    while b.connected() != {2} and time.monotonic() < deadline:
        time.sleep(0.02)
    assert bytes(b.recv(0, Tag(SESSION, 2), 5, 5)) == b"other"
    assert bytes(b.recv(0, Tag(SESSION, 1), 5, 5)) == b"first"
    with pytest.raises(PeerLost):
        b.recv(0, Tag(SESSION, 3), 5, 5)


def test_pair_keys_are_shared_by_two(trio: Trio) -> None:
    keys = set()
    for i in range(3):
        j = (i + 1) % 3
        assert trio[i].pair_key(j) == trio[j].pair_key(i)
        assert trio[i].epoch(j) == trio[j].epoch(i)
        keys.add(trio[i].pair_key(j))
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}
    assert trio[0].pair_key(1).hex() not in repr(trio[0].link(1))


def test_a_session_opens_once(trio: Trio) -> None:
    links = [worker.open_session(SESSION) for worker in trio]
    assert links[0][1] == links[1][0] == trio[0].link(1)
    with pytest.raises(SecurityError, match="announced twice"):
        trio[1].open_session(SESSION)
    trio[1].discard(SESSION)
    with pytest.raises(SecurityError, match="announced twice"):
        trio[1].open_session(SESSION)


def test_connected(trio: Trio) -> None:
    assert [worker.connected() for worker in trio] == [{1, 2}, {0, 2}, {0, 1}]
