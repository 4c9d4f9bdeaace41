"""Where sockets are made: listening ones, outgoing ones, and the options of both."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from tercet.errors import TransportError

BACKLOG: Final = 128
SOCKET_BUFFER: Final = 4 << 20
"""Kernel buffer asked for in each direction, in bytes; the system may grant less."""

# A peer whose machine vanished sends no FIN: notice within about 25 s.
_KEEP_IDLE: Final = 10
_KEEP_INTERVAL: Final = 5
_KEEP_COUNT: Final = 3


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at this address.

    Args:
        host: an address or name of this machine; ``""`` for all IPv4 addresses.
        port: the port, or 0 for any free one.

    Raises:
        TransportError: the address is not this machine's, or the port is in use.
    """
    try:
        if not 0 <= port < 1 << 16:  # getaddrinfo would wrap it around
            raise OverflowError("the port is out of range")
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, OverflowError) as error:
        raise TransportError(
            f"cannot listen on {address(host, port)}: {error}",
            "Give an address of this machine and a port from 0 to 65535",
        ) from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _large_buffers(listener)  # accepted sockets inherit them
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            remedy = "The port is in use: stop the other program or choose another port"
        elif error.errno == errno.EACCES:
            remedy = "Choose a port above 1023"
        else:
            remedy = "Give an address of this machine and a free port"
        raise TransportError(
            f"cannot listen on {address(host, port)}: {error.strerror}", remedy
        ) from None
    return listener


def from_fd(fd: int) -> socket.socket:
    """Return the listening socket with this file descriptor, which it owns from now on.

    For a socket that a parent process or the system's service manager has opened.

    Raises:
        TransportError: the descriptor is not a listening socket. It is left open.
    """
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise TransportError(
            f"file descriptor {fd} is not a socket: {error.strerror}",
            "Pass the descriptor of a listening TCP socket",
        ) from None
    stream = listener.family in (socket.AF_INET, socket.AF_INET6) and (
        listener.type == socket.SOCK_STREAM
    )
    if not stream or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise TransportError(
            f"file descriptor {fd} is not a listening TCP socket",
            "Pass a socket on which listen() was called",
        )
    os.set_inheritable(fd, False)
    return listener


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Return a socket that is connected to this address.

    Raises:
        OSError: it cannot be reached within ``timeout`` seconds.
    """
    connection = socket.create_connection((host, port), timeout)
    tune(connection)
    return connection


def tune(connection: socket.socket) -> None:
    """Set the options of a data connection: no delay, large buffers, keep-alive."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _large_buffers(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEP_IDLE),
        ("TCP_KEEPINTVL", _KEEP_INTERVAL),
        ("TCP_KEEPCNT", _KEEP_COUNT),
        # Keep-alive is silent while data waits for its acknowledgement; this is not. In ms.
        ("TCP_USER_TIMEOUT", 1000 * (_KEEP_IDLE + _KEEP_INTERVAL * _KEEP_COUNT)),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def address(host: str, port: int) -> str:
    """Write an address as people do: ``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"


def _large_buffers(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
