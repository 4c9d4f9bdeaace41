"""Key schedule: from a connection between two workers to the key of one session.

    pair key     = HKDF-SHA256(32 random bytes from each side, link id, both public keys)
    session key  = HKDF-SHA256(pair key, salt = SHA-256(n0 | n1 | n2), info = program digest)

(RFC 5869.) The two ends of a link know its pair key and the third worker does not. Each worker
puts a fresh nonce of its own into every session, so that no two others can make it use a session
key again, and the program's digest, so that a key serves one program only.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tercet.crypto.prg import SECRET_BYTES
from tercet.errors import SecurityError

KEY_BYTES: Final = SECRET_BYTES
"""Length of every key made here."""

RANDOM_BYTES: Final = 32
"""Length of a side's contribution to a pair key, and of a session nonce."""

LINK_ID_BYTES: Final = 16
SESSION_ID_BYTES: Final = 16

_PAIR: Final = b"tercet pair key v1\0"
_SESSION: Final = b"tercet session key v1\0"

Nonces = tuple[bytes, bytes, bytes]
"""The nonces of workers 0, 1 and 2, 32 bytes each."""


def pair_key(
    random_low: bytes,
    random_high: bytes,
    link_id: bytes,
    fingerprint_low: str,
    fingerprint_high: str,
) -> bytes:
    """Return the 32-byte key that the two ends of one link share.

    Args:
        random_low: 32 fresh bytes of the worker with the lower index.
        random_high: 32 fresh bytes of the other one.
        link_id: the link's 16 random bytes.
        fingerprint_low: public key of the worker with the lower index, as
            ``PublicIdentity.fingerprint``.
        fingerprint_high: the other's.

    Raises:
        ValueError: an argument has the wrong length.
    """
    _length("random_low", random_low, RANDOM_BYTES)
    _length("random_high", random_high, RANDOM_BYTES)
    _length("link_id", link_id, LINK_ID_BYTES)
    low, high = bytes.fromhex(fingerprint_low), bytes.fromhex(fingerprint_high)
    _length("fingerprint_low", low, 32)
    _length("fingerprint_high", high, 32)
    return _hkdf(random_low + random_high, salt=link_id, info=_PAIR + low + high)


def session_key(pair_key: bytes, nonces: Nonces, program_digest: bytes) -> bytes:
    """Return the 32-byte key that one pair of workers uses for one session.

    Args:
        pair_key: the 32 bytes that the two share.
        nonces: 32 fresh bytes of each of the three workers, in the order of their indices.
        program_digest: digest of the program that the session runs, 1 to 255 bytes.

    Raises:
        ValueError: an argument has the wrong length.
    """
    _length("pair_key", pair_key, KEY_BYTES)
    return _hkdf(pair_key, _salt(nonces), _SESSION + _digest(program_digest))


class SessionGuard:
    """Refuses a session id that was seen before on the same link.

    It lives as long as its link does, for a new link has a new pair key. It costs about 80 bytes
    a session.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[bytes, object] = {}

    def admit(self, session: bytes) -> None:
        """Note a session id.

        Raises:
            SecurityError: the id was admitted before.
            ValueError: it does not have 16 bytes.
        """
        _length("session", session, SESSION_ID_BYTES)
        mine = object()
        if self._seen.setdefault(bytes(session), mine) is not mine:
            raise SecurityError(
                f"session {session.hex()} was announced twice",
                "Start each run with a session id drawn at random; "
                "if it was, another worker replays old messages",
            )

    def __len__(self) -> int:
        return len(self._seen)


def _salt(nonces: Nonces) -> bytes:
    if len(nonces) != 3:
        raise ValueError(f"a session has three nonces, not {len(nonces)}")
    for i, nonce in enumerate(nonces):
        _length(f"nonce {i}", nonce, RANDOM_BYTES)
    return hashlib.sha256(b"".join(nonces)).digest()


def _digest(program_digest: bytes) -> bytes:
    if not 1 <= len(program_digest) <= 255:
        raise ValueError(f"a program digest has 1 to 255 bytes, not {len(program_digest)}")
    return program_digest


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


def _length(what: str, value: bytes, expected: int) -> None:
    if len(value) != expected:
        raise ValueError(f"{what} has {len(value)} bytes instead of {expected}")
