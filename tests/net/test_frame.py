"""Frames on the wire."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import FrameError
from tercet.net.frame import ABORT, DATA, HEADER_BYTES, MAGIC, Frame, FrameReader, header, parse
from tercet.net.transport import MAX_PAYLOAD, Tag

TAG = Tag(bytes(range(16)), 0x01020304, 0x0506)
GOLDEN = bytes.fromhex(
    "0154 01 00 000102030405060708090a0b0c0d0e0f 04030201 0605 0000 0300000000000000"
)


class Pipe:
    """A connection that gives its bytes in pieces of the given sizes, then ends."""

    def __init__(self, data: bytes, pieces: list[int]) -> None:
        self.data = data
        self.pieces = pieces

    def read(self, length: int, buffer: memoryview) -> int:
        size = self.pieces.pop() if self.pieces else 1 << 20
        part = self.data[: min(size, length)]
        self.data = self.data[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def read_all(reader: FrameReader) -> list[Frame]:
    frames = []
    try:
        while True:
            frame = reader.advance()
            if frame is not None:
                frames.append(frame)
    except EOFError:
        return frames


def test_golden_header() -> None:
    assert header(DATA, TAG, 3) == GOLDEN
    assert len(GOLDEN) == HEADER_BYTES
    assert parse(GOLDEN) == (DATA, TAG, 3)


@given(
    st.lists(st.integers(0, 40_000), max_size=6),
    st.lists(st.integers(1, 20_000), max_size=60),
)
def test_frames_survive_any_fragmentation(sizes: list[int], pieces: list[int]) -> None:
    payloads = [bytes([i]) * size for i, size in enumerate(sizes)]
    data = b"".join(header(DATA, TAG._replace(step=i), len(p)) + p for i, p in enumerate(payloads))
    reader = FrameReader(Pipe(data, pieces))
    frames = read_all(reader)
    assert [bytes(f.payload) for f in frames] == payloads
    assert [f.tag.step for f in frames] == list(range(len(sizes)))
    assert reader.between_frames


@pytest.mark.parametrize("cut", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 2])
def test_a_truncated_frame_is_noticed(cut: int) -> None:
    reader = FrameReader(Pipe((GOLDEN + b"abc")[:cut], []))
    assert read_all(reader) == []
    assert not reader.between_frames


def _packed(**changes: int) -> bytes:
    fields = {"magic": MAGIC, "kind": DATA, "flags": 0, "reserved": 0, "length": 0} | changes
    return struct.pack(
        "<HBB16sIHHQ",
        fields["magic"],
        fields["kind"],
        fields["flags"],
        TAG.session,
        TAG.step,
        TAG.slice,
        fields["reserved"],
        fields["length"],
    )


MALFORMED = {
    "magic": (_packed(magic=0x5402), "starts with 0x5402 instead of 0x5401"),
    "kind": (_packed(kind=9), "unknown kind 9"),
    "flags": (_packed(flags=1), "unknown kind 1"),
    "reserved": (_packed(reserved=1), "unknown kind 1"),
    "oversized": (_packed(length=MAX_PAYLOAD + 1), f"above the limit of {MAX_PAYLOAD}"),
    "oversized abort": (_packed(kind=ABORT, length=2001), "above the limit of 2000"),
    "garbage": (b"GET / HTTP/1.1\r\nHost: some.where\r\n\r\n", "starts with"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_headers(name: str) -> None:
    data, message = MALFORMED[name]
    with pytest.raises(FrameError, match=message):
        parse(data[:HEADER_BYTES])
