"""What is particular to TLS by way of memory."""

from __future__ import annotations

import socket
import ssl

import pytest

from tercet.net.stream import TlsStream


@pytest.mark.parametrize("seconds", [5e-7, 1e-6, 0.02])
def test_reading_ends_with_its_time_out(seconds: float) -> None:
    """Also one that is shorter than the kernel counts: 0 would mean for ever."""
    one, other = socket.socketpair()
    with one, other:
        stream = TlsStream(one, ssl.create_default_context(), server_side=False)
        stream.set_read_timeout(seconds)
        with pytest.raises(TimeoutError):
            stream.recv_into(memoryview(bytearray(8)))
