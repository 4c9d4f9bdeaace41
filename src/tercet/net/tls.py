"""TLS 1.3 between parties that know each other's exact public key.

Both sides present a certificate and both check that it is on a list: the trust store of a context
holds the accepted certificates themselves and nothing else. With ``VERIFY_X509_PARTIAL_CHAIN``
OpenSSL takes such a certificate as its own trust anchor, though it is no authority; one that a
pinned key has *signed* is refused, because CA:FALSE forbids it to sign. No host names: an address
says where a worker is, not who it is.

No session is resumed and no ticket is issued, so that every connection proves its keys anew.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import IdentityError, SecurityError
from tercet.net.text import printable

# OpenSSL's reasons, in the words of people who run a worker.
_REASONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "certificate is not on the list",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate was presented",
    "UNSUPPORTED_PROTOCOL": "protocol version too old (TLS 1.3 is required)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "protocol version too old (TLS 1.3 is required)",
    "HTTP_REQUEST": "not TLS (plain HTTP)",
    "HTTPS_PROXY_REQUEST": "not TLS (an HTTP proxy request)",
    "WRONG_VERSION_NUMBER": "not TLS",
    "BAD_RECORD_TYPE": "not TLS",
    "PACKET_LENGTH_TOO_LONG": "not TLS",
    "RECORD_TOO_SMALL": "not TLS",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not have our certificate on its list",
    "TLSV1_ALERT_CERTIFICATE_UNKNOWN": "it does not have our certificate on its list",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not have our certificate on its list",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not have our certificate on its list",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate",
    "UNEXPECTED_EOF_WHILE_READING": "connection closed during the handshake",
}


def server_context(identity: Identity, accepted: Sequence[PublicIdentity]) -> ssl.SSLContext:
    """Return a context for accepting connections of the identities in ``accepted`` alone.

    Raises:
        IdentityError: key or certificate of ``identity`` cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, accepted)
    context.num_tickets = 0
    return context


def client_context(identity: Identity, expected: PublicIdentity) -> ssl.SSLContext:
    """Return a context for connecting to ``expected`` and nobody else.

    Raises:
        IdentityError: key or certificate of ``identity`` cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, [expected])


def peer_identity(
    connection: ssl.SSLObject | ssl.SSLSocket | None, accepted: Sequence[PublicIdentity]
) -> PublicIdentity:
    """Return which of ``accepted`` is at the other end, by exact public key.

    To be called after every handshake. TLS has checked the certificate by then; this says whose
    it is, and stays right if the list has become shorter since.

    Raises:
        SecurityError: none of them.
    """
    certificate = None if connection is None else connection.getpeercert(binary_form=True)
    if connection is None or certificate is None or connection.version() != "TLSv1.3":
        raise SecurityError(
            "the peer is not authenticated", "Connect with TLS 1.3 and a certificate"
        )
    try:
        peer = _parse(certificate)
    except IdentityError as error:
        raise SecurityError(f"the peer's certificate: {error.message}", error.remedy) from None
    for identity in accepted:
        if identity.public_key == peer.public_key:
            return identity
    raise SecurityError(
        f"{printable(peer.name)!r} with key {peer.fingerprint[:16]} is not on the list",
        "Add its certificate to the accepted identities if it should be",
    )


@lru_cache(maxsize=1024)
def _parse(certificate: bytes) -> PublicIdentity:
    """Parse a certificate once, not at every request of its holder."""
    return PublicIdentity.from_der(certificate)


def explain(error: BaseException) -> str:
    """Say in plain English why a TLS handshake or connection failed."""
    if isinstance(error, SecurityError):
        return error.message
    if isinstance(error, TimeoutError):
        return "time-out during the handshake"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in _REASONS:
            return _REASONS[reason]
        if isinstance(error, ssl.SSLEOFError):
            return "connection closed during the handshake"
        return f"TLS failed ({reason.lower().replace('_', ' ') or type(error).__name__})"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionError | EOFError):
        return "connection closed during the handshake"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _context(
    protocol: ssl._SSLMethod, identity: Identity, accepted: Sequence[PublicIdentity]
) -> ssl.SSLContext:
    # Not create_default_context: that one loads the system's authorities.
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    if accepted:
        context.load_verify_locations(cadata=b"".join(who.certificate for who in accepted))
    with _key_file(identity) as path:
        try:
            context.load_cert_chain(path)
        except (ssl.SSLError, OSError) as error:
            raise IdentityError(
                f"TLS cannot use the key of {identity.name!r}: {explain(error)}",
                "Make a new identity with `tercet keygen`",
            ) from None
    return context


@contextlib.contextmanager
def _key_file(identity: Identity) -> Iterator[str]:
    """A file with key and certificate for as long as OpenSSL reads it, in memory if possible."""
    data = identity.key_pem + identity.certificate_pem
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with os.fdopen(os.memfd_create("tercet-key"), "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.TemporaryDirectory(prefix="tercet-") as folder:  # mode 0700
        path = os.path.join(folder, "identity.pem")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        yield path
