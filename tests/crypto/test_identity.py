"""Identities: what the certificate says, how files are kept, what is refused."""

from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import IdentityError

JULIA = Identity.generate("julia")


def test_the_certificate() -> None:
    certificate = x509.load_pem_x509_certificate(JULIA.certificate_pem)
    assert certificate.subject.rfc4514_string() == "CN=julia"
    assert certificate.issuer == certificate.subject
    assert certificate.not_valid_after_utc.date() == datetime.date(9999, 12, 31)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    certificate.verify_directly_issued_by(certificate)


def test_the_fingerprint_is_that_of_the_public_key() -> None:
    key = serialization.load_pem_private_key(JULIA.key_pem, None).public_key()
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    assert JULIA.fingerprint == JULIA.public.fingerprint == digest.finalize().hex()


def test_equality_is_that_of_the_key() -> None:
    other = Identity.generate("julia")
    assert other.public != JULIA.public
    assert PublicIdentity.from_pem(JULIA.certificate_pem) == JULIA.public
    assert len({JULIA.public, PublicIdentity.from_pem(JULIA.public.pem), other.public}) == 2
    assert JULIA.public != "julia"


def test_save_and_load(tmp_path: Path) -> None:
    certificate, key = JULIA.save(tmp_path)
    assert (certificate.name, key.name) == ("julia.crt", "julia.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    loaded = Identity.load(certificate, key)
    assert loaded.public == JULIA.public
    assert loaded.key_pem == JULIA.key_pem
    assert PublicIdentity.load(certificate).name == "julia"


def test_the_key_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        _, key = JULIA.save(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("existing", ["julia.crt", "julia.key"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(IdentityError, match="exists and will not be overwritten"):
        JULIA.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "julia.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityError):
        JULIA.save(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    certificate, key = JULIA.save(tmp_path)
    key.chmod(mode)
    with pytest.raises(IdentityError, match=rf"mode {mode:04o}\). Run: chmod 600 .*julia\.key"):
        Identity.load(certificate, key)


def test_key_and_certificate_must_belong_together(tmp_path: Path) -> None:
    certificate, _ = JULIA.save(tmp_path)
    _, key = Identity.generate("greg").save(tmp_path)
    with pytest.raises(IdentityError, match="does not belong to the certificate"):
        Identity.load(certificate, key)
    with pytest.raises(IdentityError, match="found a private key where a certificate"):
        Identity.load(key, key)
    certificate.chmod(0o600)
    with pytest.raises(IdentityError, match="not an unencrypted PEM private key"):
        Identity.load(certificate, certificate)


def test_missing_and_strange_files(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"cannot read the certificate .*No such file"):
        PublicIdentity.load(tmp_path / "none.crt")
    with pytest.raises(IdentityError, match="cannot read the certificate"):
        PublicIdentity.load(tmp_path)
    large = tmp_path / "large.crt"
    large.write_bytes(bytes(100_000))
    with pytest.raises(IdentityError, match="too large for a certificate"):
        PublicIdentity.load(large)
    with pytest.raises(IdentityError, match=r"cannot write .*No such file"):
        JULIA.save(tmp_path / "nowhere")


def _certificate(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, name: str) -> bytes:
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2040, 1, 1))
        .sign(key, algorithm)
        .public_bytes(serialization.Encoding.PEM)
    )


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not a PEM certificate"),
        (b"junk", "not a PEM certificate"),
        (JULIA.key_pem, "found a private key"),
        (JULIA.certificate_pem * 2, "expected one certificate, found 2"),
        (_certificate(ed25519.Ed25519PrivateKey.generate(), "x"), "not on the curve P-256"),
        (_certificate(ec.generate_private_key(ec.SECP384R1()), "x"), "not on the curve P-256"),
        (_certificate(ec.generate_private_key(ec.SECP256R1()), ""), "exactly one name"),
    ],
)
def test_what_is_no_identity(pem: bytes, message: str) -> None:
    with pytest.raises(IdentityError, match=message):
        PublicIdentity.from_pem(pem)


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "-x", "naïve", "x" * 65, "a\nb"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(IdentityError, match="cannot be the name of an identity"):
        Identity.generate(name)


def test_nothing_shows_the_key() -> None:
    for text in (repr(JULIA), str(JULIA), repr(JULIA.public)):
        assert "PRIVATE" not in text
        assert JULIA.key_pem.decode().splitlines()[1][:16] not in text


def test_a_signature_holds_for_its_signer_purpose_and_message_alone() -> None:
    other = Identity.generate("greg")
    signature = JULIA.sign("agreement", b"terms")
    JULIA.public.verify("agreement", b"terms", signature)
    for who, purpose, message, claimed in (
        (other, "agreement", b"terms", signature),
        (JULIA, "withdrawal", b"terms", signature),
        (JULIA, "agreement", b"terms ", signature),
        (JULIA, "agreementt", b"erms", signature),
        (JULIA, "agreement", b"terms", signature[:-1]),
        (JULIA, "agreement", b"terms", b""),
    ):
        with pytest.raises(IdentityError, match=rf"not {who.name} .* signature"):
            who.public.verify(purpose, message, claimed)
