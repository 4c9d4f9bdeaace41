"""TLS over a socket by way of memory: many records in one system call.

An ``SSLSocket`` makes a system call for each record of 16 KB that it writes and two for each that
it reads. Here OpenSSL works on buffers in memory, and what it leaves or wants moves between them
and the socket up to 256 KB at a time.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
from typing import Final

_READ: Final = 256 << 10
_TIMEVAL: Final = struct.Struct("@ll")
_ALERT_WAIT: Final = 1.0


class TlsStream:
    """One TLS connection. One thread may read while another writes a different stream's; a
    single stream is used by one thread at a time, as OpenSSL demands.

    Made by ``handshake``.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side)
        self._unsent = memoryview(b"")
        self._buffer = memoryview(bytearray(_READ))

    @classmethod
    def handshake(
        cls, plain: socket.socket, context: ssl.SSLContext, *, server_side: bool = False
    ) -> TlsStream:
        """Finish the handshake on a connected socket, within its time-out, and return the stream.

        Raises:
            OSError: it failed; the socket is left open.
        """
        stream = cls(plain, context, server_side)
        while True:
            try:
                stream.tls.do_handshake()
            except ssl.SSLWantReadError:
                stream._flush_all()
                if not stream._receive():
                    raise ConnectionAbortedError(
                        errno.ECONNABORTED, "connection closed during the handshake"
                    ) from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the alert, so that the peer hears why
                    plain.settimeout(_ALERT_WAIT)
                    stream._flush_all()
                raise
            else:
                stream._flush_all()
                return stream

    # -- reading ---------------------------------------------------------------------------

    def read(self, length: int, buffer: memoryview) -> int:
        """Read at least one and at most ``length`` bytes into ``buffer``; 0 at the end.

        Raises:
            TimeoutError: nothing came within the time-out.
            OSError: the connection failed.
        """
        filled = 0
        while filled < length:
            if not self.pending():  # asked first: an exception costs more than a small record
                if filled:
                    break
                if not self._receive():
                    return 0
            try:
                got = self.tls.read(length - filled, buffer[filled:] if filled else buffer)
            except ssl.SSLWantReadError:  # part of a record: OpenSSL has taken it in
                continue
            except ssl.SSLZeroReturnError:
                break
            if not got:
                break
            filled += int(got)
        return filled

    def recv_into(self, buffer: memoryview) -> int:
        """Read at most ``len(buffer)`` bytes; 0 at the end."""
        return self.read(len(buffer), buffer)

    def pending(self) -> int:
        """Bytes that have come and were not read, encrypted or not."""
        return self.tls.pending() + self._incoming.pending

    def _receive(self) -> int:
        try:
            got = self._plain.recv_into(self._buffer)
        except BlockingIOError as error:  # the kernel's word for a time-out
            raise TimeoutError(error.errno, "nothing came in time") from None
        if got:
            self._incoming.write(self._buffer[:got])
        return got

    # -- writing ---------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Whether the socket has not taken all yet: ``flush`` when it is writable."""
        return bool(self._unsent)

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt ``data`` and hand the socket what it takes at once; nothing may be unsent.

        Raises:
            OSError: the connection failed.
        """
        self.tls.write(data)
        self._unsent = memoryview(self._outgoing.read())
        self.flush()

    def flush(self) -> None:
        """Hand the socket what it takes at once of what is unsent."""
        while self._unsent:
            try:
                done = self._plain.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[done:]

    def sendall(self, data: bytes) -> None:
        """Encrypt and send ``data``, waiting as long as the socket's time-out allows.

        For what is said before ``set_read_timeout``, which ends that time-out.
        """
        self.tls.write(data)
        self._flush_all()

    def _flush_all(self) -> None:
        if self._outgoing.pending:
            self._plain.sendall(self._outgoing.read())

    # -- the socket ------------------------------------------------------------------------

    def set_read_timeout(self, seconds: float) -> None:
        """Block in reading for so long at most.

        The kernel keeps the time: with ``settimeout`` Python asks by a system call of its own
        before it reads.
        """
        micros = max(1, round(seconds * 1e6))  # 0 would mean for ever
        interval = _TIMEVAL.pack(*divmod(micros, 1_000_000))
        self._plain.settimeout(None)
        self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)

    def setblocking(self, flag: bool) -> None:
        """Choose between waiting and not."""
        self._plain.setblocking(flag)

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._plain.fileno()

    def shutdown(self) -> None:
        """End both directions of the socket, which wakes whoever reads or writes."""
        self._plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._plain.close()
