"""Identities: a P-256 key and a certificate that it signed itself.

Trust rests on the exact public key, as in ssh; the certificate only carries it through TLS. It is
no authority (CA:FALSE) and does not expire (9999-12-31, the "no well-defined expiration date" of
RFC 5280, section 4.1.2.5), because a deadline would say nothing about whether a pinned key is
still trusted. To stop trusting a key, take it off the lists that name it.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tercet.crypto.prg import fresh
from tercet.errors import IdentityError

_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NEVER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_MAX_NAME: Final = 64  # ub-common-name of RFC 5280, appendix A
_MAX_FILE: Final = 64 * 1024
_SIGNATURE: Final = b"tercet signature v1\0"
_REGENERATE: Final = "Ask its owner for the .crt file that `tercet keygen` wrote"


@dataclass(frozen=True)
class PublicIdentity:
    """Who somebody is: a name for people and a public key for machines.

    Two of them are equal when their public keys are, whatever they are called.

    Attributes:
        certificate: the self-signed certificate, DER.
    """

    certificate: bytes = field(repr=False)

    @classmethod
    def from_der(cls, certificate: bytes) -> PublicIdentity:
        """Check and wrap a DER certificate.

        Raises:
            IdentityError: not a certificate, or not one with a P-256 key and a name.
        """
        identity = cls(bytes(certificate))
        _ = identity.name, identity.fingerprint  # both raise on what cannot be an identity
        return identity

    @classmethod
    def from_pem(cls, text: str | bytes) -> PublicIdentity:
        """Parse the one certificate of a PEM text.

        Raises:
            IdentityError: no certificate, several, or one that cannot be an identity.
        """
        data = text.encode() if isinstance(text, str) else text
        if b"PRIVATE KEY" in data:
            raise IdentityError(
                "found a private key where a certificate was expected",
                "Name the .crt file; a .key file must never be handed out",
            )
        try:
            certificates = x509.load_pem_x509_certificates(data)
        except ValueError:
            raise IdentityError("this is not a PEM certificate", _REGENERATE) from None
        if len(certificates) != 1:
            raise IdentityError(
                f"expected one certificate, found {len(certificates)}",
                "An identity is a single self-signed certificate, not a chain: keep one",
            )
        return cls.from_der(certificates[0].public_bytes(serialization.Encoding.DER))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PublicIdentity:
        """Read a certificate file (PEM).

        Raises:
            IdentityError: the file cannot be read or does not hold an identity.
        """
        data = _read(Path(path), "certificate")
        try:
            return cls.from_pem(data)
        except IdentityError as error:
            raise IdentityError(f"{path}: {error.message}", error.remedy) from None

    @cached_property
    def _parsed(self) -> x509.Certificate:
        try:
            return x509.load_der_x509_certificate(self.certificate)
        except ValueError:
            raise IdentityError("this is not an X.509 certificate", _REGENERATE) from None

    @cached_property
    def name(self) -> str:
        """The common name in the certificate. A label that anyone can choose, no proof."""
        names = self._parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(names) != 1 or not isinstance(names[0].value, str):
            raise IdentityError("the certificate does not carry exactly one name", _REGENERATE)
        return names[0].value

    @cached_property
    def public_key(self) -> bytes:
        """The SubjectPublicKeyInfo, DER."""
        try:
            key = self._parsed.public_key()
        except Exception:  # the parser's errors for broken keys are of several kinds
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise IdentityError("the certificate's key is not on the curve P-256", _REGENERATE)
        return key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, 64 lower-case hex digits."""
        return hashlib.sha256(self.public_key).hexdigest()

    @cached_property
    def pem(self) -> str:
        """The certificate as PEM text."""
        return self._parsed.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def verify(self, purpose: str, message: bytes, signature: bytes) -> None:
        """Check what the holder of the private key signed with ``Identity.sign``.

        Raises:
            IdentityError: it did not sign this message for this purpose.
        """
        key = serialization.load_der_public_key(self.public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(signature, _signed(purpose, message), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise IdentityError(
                f"this is not {self}'s signature of the {purpose}",
                "Sign it again with that identity's own key",
            ) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicIdentity):
            return NotImplemented
        return self.public_key == other.public_key

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"PublicIdentity({self.name!r}, {self.fingerprint[:16]}...)"

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint[:16]})"


@dataclass(frozen=True, eq=False)
class Identity:
    """One's own identity: the certificate together with its private key.

    Attributes:
        public: what others may know of it.
        key_pem: the private key, PKCS#8 PEM, not encrypted.
    """

    public: PublicIdentity
    key_pem: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The common name in the certificate."""
        return self.public.name

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.public.pem.encode("ascii")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, hex."""
        return self.public.fingerprint

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Make a new key and certificate.

        Args:
            name: 1 to 64 letters, digits, dots, dashes and underscores, starting with a letter
                or digit; it becomes the file name as well.

        Raises:
            IdentityError: the name cannot be used.
        """
        _check_name(name)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(fresh(16), "big") | 1)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NEVER)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGNATURE_ONLY, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(key_id, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return cls(
            PublicIdentity.from_der(certificate.public_bytes(serialization.Encoding.DER)),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def save(self, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write NAME.crt and NAME.key (mode 0600) and return their paths in that order.

        Raises:
            IdentityError: one of the files exists, or cannot be written. Nothing is overwritten.
        """
        folder = Path(directory)
        certificate, key = folder / f"{self.name}.crt", folder / f"{self.name}.key"
        if certificate.exists():
            raise _exists(certificate)
        _create(key, self.key_pem, 0o600)
        try:
            _create(certificate, self.certificate_pem, 0o644)
        except IdentityError:
            key.unlink()
            raise
        return certificate, key

    @classmethod
    def load(cls, cert_path: str | os.PathLike[str], key_path: str | os.PathLike[str]) -> Identity:
        """Read the two files of an identity.

        Raises:
            IdentityError: a file cannot be read, the key does not belong to the certificate, or
                others than its owner may read the key file.
        """
        public = PublicIdentity.load(cert_path)
        data = _read(Path(key_path), "private key", private=True)
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError):  # TypeError: the key is encrypted
            raise IdentityError(
                f"{key_path} is not an unencrypted PEM private key",
                "Name the .key file that `tercet keygen` wrote",
            ) from None
        own = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if own != public.public_key:
            raise IdentityError(
                f"the key in {key_path} does not belong to the certificate in {cert_path}",
                "Use the .key and .crt files that were written together",
            )
        return cls(public, data)

    def sign(self, purpose: str, message: bytes) -> bytes:
        """Return a signature (ECDSA on P-256 with SHA-256, DER) that anybody can check.

        Args:
            purpose: what the signature is for, such as ``"agreement"``: one that was given for
                one purpose says nothing under another.
            message: what is signed.
        """
        key = serialization.load_pem_private_key(self.key_pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.sign(_signed(purpose, message), ec.ECDSA(hashes.SHA256()))

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, {self.fingerprint[:16]}...)"


_SIGNATURE_ONLY: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _signed(purpose: str, message: bytes) -> bytes:
    """Return what is signed: no two pairs of purpose and message give the same bytes."""
    encoded = purpose.encode()
    return _SIGNATURE + len(encoded).to_bytes(8, "little") + encoded + message


def _check_name(name: str) -> None:
    plain = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not plain or not name[0].isalnum() or len(name) > _MAX_NAME:
        raise IdentityError(
            f"{name[:_MAX_NAME]!r} cannot be the name of an identity",
            f"Use 1 to {_MAX_NAME} letters, digits, dots, dashes and underscores, "
            "starting with a letter or digit",
        )


def _read(path: Path, what: str, private: bool = False) -> bytes:
    """Read a small file, and a private one only if it is private."""
    try:
        with path.open("rb") as file:
            # Asked of the open file, so that it cannot be exchanged between check and use.
            mode = os.fstat(file.fileno()).st_mode
            if private and os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise IdentityError(
                    f"others on this machine have access to the private key {path} "
                    f"(mode {stat.S_IMODE(mode):04o})",
                    f"Run: chmod 600 {path}",
                )
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise IdentityError(
            f"cannot read the {what} {path}: {error.strerror or error}",
            "Check the path and who may read it; `tercet keygen` makes a new identity",
        ) from None
    if len(data) > _MAX_FILE:
        raise IdentityError(f"{path} is too large for a {what}", "Check the path")
    return data


def _create(path: Path, data: bytes, mode: int) -> None:
    """Create a file that must not exist yet, with its mode from the first moment on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise IdentityError(
            f"cannot write {path}: {error.strerror or error}",
            "Name a directory that exists and that you may write to",
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _exists(path: Path) -> IdentityError:
    return IdentityError(
        f"{path} exists and will not be overwritten",
        "Choose another name or directory, or move the old identity away",
    )
