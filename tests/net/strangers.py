"""Clients that must be turned away, and certificates that should not count."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.net.tls import client_context


def signed_by(issuer: Identity, name: str) -> Identity:
    """An identity whose certificate a pinned key has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = serialization.load_pem_private_key(issuer.key_pem, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    parent = x509.load_der_x509_certificate(issuer.public.certificate)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(parent.not_valid_before_utc)
        .not_valid_after(parent.not_valid_after_utc)
        .sign(signer, hashes.SHA256())
    )
    return Identity(
        PublicIdentity.from_der(certificate.public_bytes(serialization.Encoding.DER)),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def anonymous(newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client without a certificate that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    return context


def knock(where: tuple[str, int], context: ssl.SSLContext) -> bytes:
    """Connect and read until the end; errors count as the end."""
    with socket.create_connection(where, 5) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                return connection.recv(100)
        except OSError:
            return b""


def shout(where: tuple[str, int], text: bytes) -> bytes:
    """Send plain text."""
    with socket.create_connection(where, 5) as plain:
        try:
            plain.sendall(text)
            return plain.recv(100)
        except OSError:
            return b""


def refused_clients(
    server: Identity, accepted: Identity
) -> dict[str, tuple[Callable[[tuple[str, int]], bytes], str]]:
    """Clients by name, each with the reason that the log has to give."""

    def with_identity(who: Identity) -> Callable[[tuple[str, int]], bytes]:
        return lambda where: knock(where, client_context(who, server.public))

    old = ssl.TLSVersion.TLSv1_2
    return {
        "stranger": (with_identity(Identity.generate("eve")), "certificate is not on the list"),
        "right name, other key": (
            with_identity(Identity.generate(accepted.name)),
            "certificate is not on the list",
        ),
        "signed by a pinned key": (
            with_identity(signed_by(accepted, "eve")),
            "certificate is not on the list",
        ),
        "signed by a pinned key, its name": (
            with_identity(signed_by(accepted, accepted.name)),
            "certificate is not on the list",
        ),
        "no certificate": (
            lambda where: knock(where, anonymous()),
            "no certificate was presented",
        ),
        "TLS 1.2": (lambda where: knock(where, anonymous(old)), "protocol version too old"),
        "HTTP": (lambda where: shout(where, b"GET / HTTP/1.1\r\n\r\n"), "not TLS"),
        "garbage": (lambda where: shout(where, b"hello, is anybody there?"), "not TLS"),
        "zeros": (lambda where: shout(where, bytes(64)), "not TLS"),
    }
