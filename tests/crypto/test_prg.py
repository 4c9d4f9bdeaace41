"""The streams: known answers, names used once, nothing that shows a secret."""

from __future__ import annotations

import hashlib
import hmac
import struct
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tercet.crypto.prg import Stream, Streams, fresh, seed_words
from tercet.errors import SecurityError, TercetError
from tests.net.workers import together

KEY = bytes(range(32))


def counter_mode(key: bytes, n: int, nonce: bytes = bytes(8)) -> np.ndarray:
    """AES in counter mode from its definition: the counters, encrypted block by block."""
    counters = b"".join(nonce + i.to_bytes(8, "big") for i in range((n + 1) // 2))
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return np.frombuffer(encryptor.update(counters), "<u8")[:n]


def test_first_block_of_the_zero_key() -> None:
    # AES-128 of the zero block: H in test case 1 of the GCM specification (McGrew and Viega).
    expected = bytes.fromhex("66e94bd4ef8a2c3b884cfa59ca342b2e")
    assert Stream(bytes(16)).words(2).tobytes() == expected


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 131071, 131072, 131073, 300_001])
def test_known_answers(n: int) -> None:
    words = Stream(KEY[:16]).words(n)
    assert words.dtype == np.uint64
    assert words.flags.writeable
    np.testing.assert_array_equal(words, counter_mode(KEY[:16], n))


def test_a_stream_goes_on_where_it_stopped() -> None:
    stream = Stream(KEY[:16])
    parts = [stream.words(n) for n in (3, 0, 1, 200_000, 5)]
    np.testing.assert_array_equal(np.concatenate(parts), counter_mode(KEY[:16], 200_009))


def test_a_named_stream_from_its_definition() -> None:
    name = struct.pack("<IIQ", 4, 5, 7) + b"zero" + b"conv1"
    key = hmac.new(KEY, b"tercet stream v2\0", hashlib.sha256).digest()[:16]
    nonce = hashlib.sha256(name).digest()[:8]
    words = Streams(KEY).words("zero", "conv1", 7, 100)
    np.testing.assert_array_equal(words, counter_mode(key, 100, nonce))


def test_golden_stream() -> None:
    words = Streams(KEY).words("zero", "conv1", 0, 2)
    assert words.tobytes().hex() == "d7e9d17fa2cdc3d8987de40874e8dda9"


def test_golden_seed() -> None:
    assert seed_words(KEY, "kernel", 2).tobytes().hex() == "e5bf683f3c1edb4a7952a105a09dc8b9"
    np.testing.assert_array_equal(seed_words(KEY, "kernel", 9), seed_words(KEY, "kernel", 9))
    assert (seed_words(KEY, "kernel", 9) != seed_words(KEY, "bias", 9)).all()
    assert (seed_words(KEY, "kernel", 9) != seed_words(bytes(32), "kernel", 9)).all()


def test_a_name_is_taken_once() -> None:
    streams = Streams(KEY)
    streams.words("zero", "conv1", 0, 2)
    with pytest.raises(SecurityError, match=r"'zero' at 'conv1' \(slice 0\)") as caught:
        streams.words("zero", "conv1", 0, 2)
    assert KEY.hex() not in str(caught.value)
    streams.words("zero", "conv1", 1, 2)


def test_of_many_threads_one_gets_the_stream() -> None:
    streams = Streams(KEY)

    def take() -> int:
        got = 0
        for site in range(300):
            try:
                streams.words("zero", str(site), 0, 2)
                got += 1
            except SecurityError:
                pass
        return got

    assert sum(together([take] * 8)) == 300


def test_different_names_give_different_streams() -> None:
    names = [
        ("zero", "a", 0),
        ("zero", "a", 1),
        ("zero", "b", 0),
        ("bits", "a", 0),
        ("zeroa", "", 0),
        ("", "zeroa", 0),
        ("zer", "oa", 0),
        ("zero", "a", 256),
        ("zéro", "a", 0),
    ]
    first, second = Streams(KEY), Streams(KEY[::-1])
    words = [s.words(*name, 2).tobytes() for s in (first, second) for name in names]
    assert len(set(words)) == 2 * len(names)


def test_two_holders_of_a_key_agree_whatever_their_order() -> None:
    one, other = Streams(KEY), Streams(KEY)
    a = one.words("x", "1", 0, 10), one.words("x", "2", 0, 10)
    b = other.words("x", "2", 0, 10), other.words("x", "1", 0, 10)
    np.testing.assert_array_equal(a[0], b[1])
    np.testing.assert_array_equal(a[1], b[0])


def test_words_look_uniform() -> None:
    words = Stream(KEY[:16]).words(1 << 16)
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * (1 << 16))


@pytest.mark.parametrize("n", [0, 15, 17, 32])
def test_stream_keys_have_16_bytes(n: int) -> None:
    with pytest.raises(ValueError, match="a stream key has 16 bytes"):
        Stream(bytes(n))


def test_session_keys_and_seeds_have_32_bytes() -> None:
    with pytest.raises(ValueError, match="a session key has 32 bytes"):
        Streams(bytes(16))
    with pytest.raises(ValueError, match="a dealt seed has 32 bytes"):
        seed_words(bytes(16), "x", 1)


def test_nothing_shows_a_secret() -> None:
    streams = Streams(KEY)
    texts = [repr(streams), repr(Stream(KEY[:16])), str(streams)]
    for text in texts:
        assert KEY.hex()[:8] not in text
        assert repr(KEY)[2:10] not in text


def test_fresh_bytes_differ_after_a_fork() -> None:
    # In a process of its own: forking this one would upset libraries with threads.
    script = (
        "import os\n"
        "from tercet.crypto.prg import fresh\n"
        "fresh(16)\n"
        "child = os.fork()\n"
        "os.write(1, fresh(32).hex().encode() + b'\\n')\n"
        "child and os.waitpid(child, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, timeout=60
    )
    own, theirs = done.stdout.split()
    assert len(own) == len(theirs) == 64
    assert own != theirs


def test_fresh() -> None:
    assert fresh(0) == b""
    assert len({fresh(16) for _ in range(1000)}) == 1000
    assert not isinstance(SecurityError("x"), ValueError)
    assert issubclass(SecurityError, TercetError)
