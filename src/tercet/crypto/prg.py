"""All randomness of Tercet: the operating system's and the streams keyed from it.

No other module draws random numbers. Two workers that hold the same session key expand the same
streams from it, so that a mask known to both costs no message. A stream is AES-128 in counter
mode (NIST SP 800-38A); where it starts follows from its *name*: a label, the site (the
instruction) and the slice. Names, not running
counters, decide what a stream holds; two workers that disagree about what has run before can
therefore never use the same mask for two different values.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import sys
import threading
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from tercet.errors import SecurityError

STREAM_KEY_BYTES: Final = 16
"""Length of the key of one stream (AES-128)."""

SECRET_BYTES: Final = 32
"""Length of session keys and of dealt seeds."""

_WORD_BYTES: Final = 8
_CHUNK: Final = 1 << 20
# Counter mode turns zeros into the key stream; one shared block of them serves every stream.
_ZEROS: Final = memoryview(bytes(_CHUNK))
# A dealt seed's key encrypts one stream only, so that its counter may start at zero.
_COUNTER_ZERO: Final = modes.CTR(bytes(16))
_NAME: Final = struct.Struct("<IIQ")
_STREAM_DOMAIN: Final = b"tercet stream v2\0"
_NONCE_BYTES: Final = 8
_BLOCK_ZERO: Final = bytes(8)
_SEED_DOMAIN: Final = b"tercet dealt seed v1\0"


def fresh(n: int) -> bytes:
    """Return ``n`` bytes from the operating system's generator.

    Nothing is buffered in the process, so that a forked child never repeats its parent.

    Raises:
        ValueError: ``n`` is negative.
    """
    return os.urandom(n)


class Stream:
    """The pseudo-random stream of one 16-byte key, read from its start and only once."""

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes) -> None:
        if len(key) != STREAM_KEY_BYTES:
            raise ValueError(f"a stream key has {STREAM_KEY_BYTES} bytes, not {len(key)}")
        self._encryptor: CipherContext = Cipher(algorithms.AES(key), _COUNTER_ZERO).encryptor()

    def words(self, n: int) -> NDArray[np.uint64]:
        """Return the next ``n`` words, uniform over Z_2^64, in a new array of shape (n,)."""
        return _key_stream(self._encryptor, n)

    def __repr__(self) -> str:
        return "Stream(<secret>)"


def fresh_stream() -> Stream:
    """Return a stream keyed from the operating system, which nobody can draw again."""
    return Stream(fresh(STREAM_KEY_BYTES))


class Streams:
    """The streams of one session key, each of which can be taken once, in one go.

    All are parts of one AES-128-CTR key stream: a stream's 64-bit nonce, a hash of its name, is
    the upper half of the counter block, so that each has 2^64 blocks of its own. Setting a nonce
    costs a tenth of setting a key. Two names with the same nonce are as good as one name used
    twice, and refused like it.

    Args:
        key: 32 bytes that are used for this session alone: from ``tercet.crypto.schedule``, or
            drawn for it.
    """

    __slots__ = ("_encryptor", "_key", "_lock", "_taken")

    def __init__(self, key: bytes) -> None:
        if len(key) != SECRET_BYTES:
            raise ValueError(f"a session key has {SECRET_BYTES} bytes, not {len(key)}")
        self._key = key
        self._encryptor: CipherContext | None = None  # set up by the first draw, if there is one
        self._taken: set[bytes] = set()
        self._lock = threading.Lock()

    def words(self, label: str, site: str, slice_index: int, n: int) -> NDArray[np.uint64]:
        """Return the stream called (``label``, ``site``, ``slice_index``): ``n`` uniform words.

        Args:
            label: what the stream is for, such as ``"zero"``.
            site: the instruction that uses it, unique within the program.
            slice_index: which slice of a batch that runs in slices; 0 <= slice_index < 2^64.
            n: number of words; they are a new array of shape (n,).

        Raises:
            SecurityError: this stream has been taken before. A mask used twice would give away
                the difference of the two values that it hides.
        """
        nonce = _nonce(label, site, slice_index)
        with self._lock:
            if nonce in self._taken:
                raise SecurityError(
                    f"the random stream {label!r} at {site!r} (slice {slice_index}) "
                    "was requested twice in one session",
                    "give each use of randomness a name of its own; a session runs a program once",
                )
            self._taken.add(nonce)
            if self._encryptor is None:
                self._encryptor = self._set_up()
            self._encryptor.reset_nonce(nonce + _BLOCK_ZERO)
            return _key_stream(self._encryptor, n)

    def _set_up(self) -> CipherContext:
        key = hmac.digest(self._key, _STREAM_DOMAIN, "sha256")[:STREAM_KEY_BYTES]
        self._key = b""
        return Cipher(algorithms.AES(key), _COUNTER_ZERO).encryptor()

    def __repr__(self) -> str:
        return f"Streams(<secret>, taken={len(self._taken)})"


def seed_words(seed: bytes, name: str, n: int) -> NDArray[np.uint64]:
    """Expand a dealt seed to the ``n`` words that belong to the tensor ``name``.

    Whoever deals a sharing sends this seed in place of an array: dealer and holder expand the
    same words. A function of its arguments alone, hence callable any number of times.

    Args:
        seed: 32 bytes, drawn fresh for each sharing.
        name: the tensor's name within the sharing.
        n: number of words.

    Raises:
        ValueError: the seed does not have 32 bytes.
    """
    return seed_stream(seed, name).words(n)


def seed_stream(seed: bytes, name: str) -> Stream:
    """Return the stream that ``seed_words`` takes its words from: for what is read bit by bit.

    Raises:
        ValueError: the seed does not have 32 bytes.
    """
    if len(seed) != SECRET_BYTES:
        raise ValueError(f"a dealt seed has {SECRET_BYTES} bytes, not {len(seed)}")
    key = hmac.digest(seed, _SEED_DOMAIN + name.encode(), "sha256")
    return Stream(key[:STREAM_KEY_BYTES])


def _key_stream(encryptor: CipherContext, n: int) -> NDArray[np.uint64]:
    """Return the next ``n`` words of a cipher in counter mode, read as little-endian."""
    words = np.empty(n, np.uint64)
    size = n * _WORD_BYTES
    if size:
        out = words.data.cast("B")
        update_into = encryptor.update_into
        if size <= _CHUNK:
            update_into(_ZEROS[:size], out)
        else:
            for start in range(0, size, _CHUNK):
                part = out[start : start + _CHUNK]
                update_into(_ZEROS[: len(part)], part)
    if sys.byteorder == "big":  # the stream is defined as little-endian words
        words.byteswap(inplace=True)
    return words


@lru_cache(maxsize=1 << 14)
def _nonce(label: str, site: str, slice_index: int) -> bytes:
    """Return the nonce of a stream's name: public, and the same in every session."""
    return hashlib.sha256(_encode_name(label, site, slice_index)).digest()[:_NONCE_BYTES]


def _encode_name(label: str, site: str, slice_index: int) -> bytes:
    """Encode a stream's name so that different names never share an encoding."""
    label_bytes = label.encode()
    site_bytes = site.encode()
    return _NAME.pack(len(label_bytes), len(site_bytes), slice_index) + label_bytes + site_bytes
