"""The first message on each connection of a link: who, to whom, which link, which direction.

Two connections make a link. The worker with the lower index of the two opens both and names them
by a random link id; on the first one each side contributes 32 random bytes to the pair key. 72
bytes each way, little-endian:

    magic               8 bytes
    version             u16
    status              u8    0 in a request; in a reply 1 is yes
    direction           u8    1 opener to acceptor, 2 acceptor to opener
    sender, receiver    u8    worker indices
    reserved            10 bytes, 0
    link id             16 bytes
    random              32 bytes; 0 on the second connection
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Protocol

from tercet.errors import TransportError
from tercet.net.transport import allocate

VERSION: Final = 1

REQUEST: Final = 0
ACCEPTED: Final = 1
WRONG_VERSION: Final = 2
WRONG_WORKER: Final = 3
WRONG_LINK: Final = 4

FORWARD: Final = 1
"""Direction of the frames on the first connection: opener to acceptor."""

BACKWARD: Final = 2
"""Direction of the frames on the second one."""

_MAGIC: Final = b"tercet\0\1"
_LAYOUT: Final = struct.Struct("<8sHBBBB10x16s32s")
_MEANINGS: Final = {
    WRONG_WORKER: "has another index for one of the two workers",
    WRONG_LINK: "does not know this link",
}
_REMEDIES: Final = {
    WRONG_VERSION: "Install the same version of Tercet on both",
    WRONG_WORKER: "Give all three workers the same cluster.toml",
    WRONG_LINK: "It will be tried again",
}


class WrongVersion(TransportError):
    """The peer speaks another version of the worker protocol."""


class Connection(Protocol):
    """What a hello needs of a connection; a ``TlsStream`` has it."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read at most ``len(buffer)`` bytes and return how many; 0 at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Write all of ``data``."""


@dataclass(frozen=True)
class Hello:
    """One hello, request or reply."""

    status: int
    direction: int
    sender: int
    receiver: int
    link_id: bytes
    random: bytes = bytes(32)

    def __repr__(self) -> str:
        return f"Hello(status={self.status}, {self.sender} -> {self.receiver}, <secret>)"

    def reply(self, status: int, random: bytes = bytes(32)) -> Hello:
        """Return the answer to this request."""
        return Hello(status, self.direction, self.receiver, self.sender, self.link_id, random)


def write(connection: Connection, hello: Hello) -> None:
    """Send a hello.

    Raises:
        OSError: the connection failed.
    """
    connection.sendall(
        _LAYOUT.pack(
            _MAGIC,
            VERSION,
            hello.status,
            hello.direction,
            hello.sender,
            hello.receiver,
            hello.link_id,
            hello.random,
        )
    )


def read(connection: Connection) -> Hello:
    """Receive a hello.

    Raises:
        WrongVersion: it is of another version.
        TransportError: it is not one.
        OSError: the connection failed or ended.
    """
    data = allocate(_LAYOUT.size)
    filled = 0
    while filled < len(data):
        got = connection.recv_into(data[filled:])
        if not got:
            raise ConnectionResetError("connection closed during the hello")
        filled += got
    magic, version, status, direction, sender, receiver, link_id, random = _LAYOUT.unpack(data)
    if magic != _MAGIC:
        raise TransportError("the peer does not speak the worker protocol", "Check the port")
    if version != VERSION:
        raise WrongVersion(
            f"the peer speaks version {version} of the worker protocol, not {VERSION}",
            _REMEDIES[WRONG_VERSION],
        )
    return Hello(status, direction, sender, receiver, link_id, random)


def refuse_version(connection: Connection) -> None:
    """Answer a hello of another version: this one's own number tells the peer which it is.

    Raises:
        OSError: the connection failed.
    """
    write(connection, Hello(WRONG_VERSION, 0, 0, 0, bytes(16)))


def ask(connection: Connection, request: Hello) -> Hello:
    """Send a request and return the reply to it.

    Raises:
        TransportError: the peer says no, or answers something else.
        OSError: the connection failed or ended.
    """
    write(connection, request)
    answer = read(connection)
    if answer.status != ACCEPTED:
        raise TransportError(
            f"the peer {_MEANINGS.get(answer.status, 'refused the link')}",
            _REMEDIES.get(answer.status, "See its log"),
        )
    if answer != request.reply(ACCEPTED, answer.random):
        raise TransportError("the peer answered to another hello", "It will be tried again")
    return answer
