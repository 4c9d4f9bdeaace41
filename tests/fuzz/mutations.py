"""Seeded mutations of valid samples: the same seed gives the same cases everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

#: Bytes at which formats change their mind: msgpack's types, signs, the ends of ranges.
_EDGES = bytes([0x00, 0x01, 0x7F, 0x80, 0x90, 0xA2, 0xC0, 0xC1, 0xC4, 0xC7, 0xCB, 0xCF, 0xD3])
_EDGES += bytes([0xD9, 0xDD, 0xDF, 0xE0, 0xFE, 0xFF])
_LARGEST = 1 << 16


def mutate(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return ``data`` after one to four mutations; ``others`` lend pieces of theirs."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(result) + 1)
        end = min(len(result), at + rng.choice((1, 2, 4, 8, 64)))
        match rng.randrange(9):
            case 0:
                result[at:end] = bytes([rng.randrange(256)] * (end - at))
            case 1:
                result[at:end] = bytes(b ^ (1 << rng.randrange(8)) for b in result[at:end])
            case 2:
                result[at:end] = bytes(rng.choice(_EDGES) for _ in range(end - at))
            case 3:
                del result[at:end]
            case 4:
                result[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
            case 5:
                result[at:at] = result[at:end] * rng.choice((1, 2, 16))
            case 6:
                del result[at:]
            case 7:
                result[at:end] = rng.choice((0, 1, 1 << 31, 1 << 63, (1 << 64) - 1)).to_bytes(
                    8, rng.choice(("little", "big"))
                )
            case _:
                other = rng.choice(others) if others else data
                start = rng.randrange(len(other) + 1)
                result[at:end] = other[start : start + rng.choice((1, 4, 32, 256))]
    return bytes(result[:_LARGEST])


def mutations(seed: int, samples: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Return ``count`` mutated samples."""
    rng = Random(seed)
    for _ in range(count):
        yield mutate(rng, rng.choice(samples), samples)
