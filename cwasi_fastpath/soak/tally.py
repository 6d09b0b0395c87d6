"""What one end has done so far, in memory that outlives its process."""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from typing import Self

STREAMS_MAX = 8
_WORDS = 8 + STREAMS_MAX


class Ending(IntEnum):
    """How an end came to its end."""

    RUNNING = 0
    """Also: it was killed."""
    TOLD = 1
    CLOSED = 2
    """By the other side."""
    DIED = 3
    """The other side did."""
    CANCELLED = 4
    UNEXPECTED = 5


class Tally:
    """Counters with one writer, the end, but for `told`, which is for who started it."""

    _BEGUN, _BYTES, _CORRUPT, _LOST, _DOUBLED, _ENDING, _UNREAD, _TOLD = range(8)

    def __init__(self, fd: int | None = None) -> None:
        """fd: of a tally that another process made; a duplicate is not kept."""
        if fd is None:
            self.fd = os.memfd_create("cwasi-tally", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, 8 * _WORDS)
        else:
            self.fd = fd
        self._map = mmap.mmap(self.fd, 8 * _WORDS)
        self._words = memoryview(self._map).cast("Q")

    @property
    def begun(self) -> int:
        """Messages whose send has begun."""
        return self._words[self._BEGUN]

    @begun.setter
    def begun(self, value: int) -> None:
        self._words[self._BEGUN] = value

    @property
    def bytes(self) -> int:
        """Sent or received."""
        return self._words[self._BYTES]

    @property
    def corrupt(self) -> int:
        """Messages that were not what was sent."""
        return self._words[self._CORRUPT]

    @property
    def lost(self) -> int:
        """Messages that were left out before one that came."""
        return self._words[self._LOST]

    @property
    def doubled(self) -> int:
        """Messages that came when a later one had come, or a second time."""
        return self._words[self._DOUBLED]

    @property
    def ending(self) -> Ending:
        """How it ended."""
        return Ending(self._words[self._ENDING])

    @property
    def unread(self) -> int:
        """What a sender found unread when it ended."""
        return self._words[self._UNREAD]

    @property
    def told(self) -> bool:
        """Whether it shall close after the message in hand."""
        return bool(self._words[self._TOLD])

    def tell(self) -> None:
        """To close after the message in hand."""
        self._words[self._TOLD] = 1

    def done(self, stream: int) -> int:
        """Messages of one stream that were sent or received."""
        return self._words[8 + stream]

    def count(self, stream: int, number: int, size: int) -> None:
        """Message `number` of a stream was sent or received."""
        expected = self._words[8 + stream]
        self._words[self._BYTES] += size
        if number < expected:
            self._words[self._DOUBLED] += 1
        else:
            self._words[self._LOST] += number - expected
            self._words[8 + stream] = number + 1

    def count_corrupt(self) -> None:
        """One that is not what was sent."""
        self._words[self._CORRUPT] += 1

    def end(self, ending: Ending, unread: int = 0) -> None:
        """To be called once."""
        self._words[self._UNREAD] = unread
        self._words[self._ENDING] = ending

    def close(self) -> None:
        """Gives the memory back."""
        self._words.release()
        self._map.close()
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
