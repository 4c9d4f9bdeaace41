"""The key schedule, against RFC 5869 written out and against golden vectors."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from tercet.crypto.schedule import SessionGuard, pair_key, session_key
from tercet.errors import SecurityError

LOW, HIGH, LINK = b"\1" * 32, b"\2" * 32, b"\3" * 16
FINGERPRINTS = ("aa" * 32, "bb" * 32)
NONCES = (b"\4" * 32, b"\5" * 32, b"\6" * 32)
PROGRAM = b"\7" * 32


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 for one block of output."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")


def test_pair_key() -> None:
    info = b"tercet pair key v1\0" + b"\xaa" * 32 + b"\xbb" * 32
    key = pair_key(LOW, HIGH, LINK, *FINGERPRINTS)
    assert key == hkdf(LOW + HIGH, LINK, info)
    assert key.hex() == "90cbb19622c27864b9307c6c45d570654d0b5b50cb2894a229a2504a6f37442a"


def test_session_key() -> None:
    pair = bytes(range(32))
    key = session_key(pair, NONCES, PROGRAM)
    salt = hashlib.sha256(b"".join(NONCES)).digest()
    assert key == hkdf(pair, salt, b"tercet session key v1\0" + PROGRAM)
    assert key.hex() == "8bb6e63f77c13cd58c8531fc630993524081f391837f32fa033d4a46281d30c4"


def test_every_input_matters() -> None:
    other = b"\x0f" * 32
    keys = {
        pair_key(LOW, HIGH, LINK, *FINGERPRINTS),
        pair_key(HIGH, LOW, LINK, *FINGERPRINTS),
        pair_key(other, HIGH, LINK, *FINGERPRINTS),
        pair_key(LOW, other, LINK, *FINGERPRINTS),
        pair_key(LOW, HIGH, other[:16], *FINGERPRINTS),
        pair_key(LOW, HIGH, LINK, *FINGERPRINTS[::-1]),
        pair_key(LOW, HIGH, LINK, "cc" * 32, FINGERPRINTS[1]),
        session_key(LOW, NONCES, PROGRAM),
        session_key(HIGH, NONCES, PROGRAM),
        session_key(LOW, (other, *NONCES[1:]), PROGRAM),
        session_key(LOW, (NONCES[0], other, NONCES[2]), PROGRAM),
        session_key(LOW, (*NONCES[:2], other), PROGRAM),
        session_key(LOW, (NONCES[1], NONCES[0], NONCES[2]), PROGRAM),
        session_key(LOW, NONCES, other),
    }
    assert len(keys) == 14
    assert {len(key) for key in keys} == {32}


def test_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match="random_low has 31 bytes instead of 32"):
        pair_key(LOW[1:], HIGH, LINK, *FINGERPRINTS)
    with pytest.raises(ValueError, match="link_id has 32 bytes instead of 16"):
        pair_key(LOW, HIGH, LOW, *FINGERPRINTS)
    with pytest.raises(ValueError, match="fingerprint_high has 1 bytes"):
        pair_key(LOW, HIGH, LINK, FINGERPRINTS[0], "bb")
    with pytest.raises(ValueError, match="nonce 1 has 0 bytes"):
        session_key(LOW, (NONCES[0], b"", NONCES[2]), PROGRAM)
    with pytest.raises(ValueError, match="three nonces"):
        session_key(LOW, NONCES[:2], PROGRAM)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a program digest has 1 to 255 bytes"):
        session_key(LOW, NONCES, b"")
    with pytest.raises(ValueError, match="pair_key has 16 bytes"):
        session_key(LINK, NONCES, PROGRAM)


def test_a_session_is_admitted_once() -> None:
    guard = SessionGuard()
    guard.admit(LINK)
    guard.admit(b"\4" * 16)
    with pytest.raises(SecurityError, match=f"session {LINK.hex()} was announced twice"):
        guard.admit(bytearray(LINK))
    assert len(guard) == 2
    SessionGuard().admit(LINK)  # another link
    with pytest.raises(ValueError, match="session has 3 bytes"):
        guard.admit(b"abc")
