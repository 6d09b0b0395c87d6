"""Messages that say which one they are, and tell whether they are whole."""

from __future__ import annotations

import random
import struct
import zlib

from .tally import STREAMS_MAX

_HEADER = struct.Struct("<IIQ")   # stream, checksum of the rest, number
_BLOCK = random.Random(1).randbytes(1 << 20)
_SMALL, _MEDIUM = 1 << 10, 1 << 16
LARGEST = 6 << 20
_LARGE_EVERY = 400


def size_of(number: int, dice: random.Random, largest: int) -> int:
    """Bytes of payload: mostly small ones; one in _LARGE_EVERY up to `largest`."""
    if dice.randrange(_LARGE_EVERY) == 0:
        return dice.randrange(largest)
    return dice.randrange(_SMALL if number % 2 else _MEDIUM)


def make(stream: int, number: int, size: int) -> bytes:
    """Message `number` of a stream."""
    first = number * 8 % 4096
    rest = _BLOCK[first : first + size] if size <= len(_BLOCK) - 4096 else (_BLOCK * (size // len(_BLOCK) + 1))[:size]
    tail = struct.pack("<Q", number) + rest
    return struct.pack("<II", stream, zlib.crc32(tail)) + tail


def parse(message: bytes) -> tuple[int, int] | None:
    """(stream, number) of a message; None for one that is not what was sent."""
    if len(message) < _HEADER.size:
        return None
    stream, checksum, number = _HEADER.unpack_from(message)
    return (stream, number) if stream < STREAMS_MAX and zlib.crc32(memoryview(message)[8:]) == checksum else None
