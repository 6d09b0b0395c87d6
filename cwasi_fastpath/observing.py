"""What channels did since the last look: differences of what their ends count in C, as observations for a policy."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from operator import add
from typing import NamedTuple

from ._native import ffi, lib
from .endpoint import Endpoint, told_pointers
from .metrics import Observation

_ROW = struct.Struct("=QQQQQQ")
assert _ROW.size == ffi.sizeof("cwasi_observed")
_GONE = _ROW.pack(*(2**64 - 1,) * 6)
"""That of an end that was closed."""
ROW_BYTES = _ROW.size


class Counts(NamedTuple):
    """What ends have counted since they were opened."""

    messages: int = 0
    bytes: int = 0
    waits: int = 0
    parks: int = 0
    timed: int = 0
    timed_ns: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(add, self, other))

    @classmethod
    def of_plain(cls, plain: object) -> Counts | None:
        """What another process says that its end has counted; None for what is none."""
        match plain:
            case [int(), int(), int(), int(), int(), int()] if all(0 <= one < 1 << 64 for one in plain):
                return cls(*plain)
        return None


class Ends:
    """Of many channels: what they have counted, and which have counted anything since they were asked before."""

    def __init__(self, ends: Sequence[Endpoint]) -> None:
        self._ends = ends
        self._rows = ffi.new("cwasi_observed[]", len(ends))
        self._bytes = ffi.buffer(self._rows)
        self._bytes[:] = b"\xff" * len(self._bytes)   # as of ends that are gone: each that is not is new at first
        self._changed = ffi.new("unsigned[]", len(ends))

    def changed(self) -> list[int]:
        """Those that are not as they were the last time, by number, ascending. One call for all; nothing is made in
        Python for what has not changed.
        """
        pointers = told_pointers(self._ends)   # held no longer than this takes: who closes an end frees it
        news = lib.cwasi_observe(pointers, len(pointers), self._rows, self._changed)
        return ffi.unpack(self._changed, news) if news else []

    def counts(self, number: int) -> Counts | None:
        """As it was at that time; None for one that was closed."""
        return _of_row(self._bytes[number * _ROW.size : (number + 1) * _ROW.size])

    def rows(self) -> bytes:
        """Of all of them now, for another process."""
        self.changed()
        return bytes(self._bytes)


def of_rows(rows: bytes) -> list[Counts | None]:
    """What another process says by Ends.rows() of so many ends. Each figure is one that could be counted, and may be
    a lie.
    """
    return [_of_row(rows[place : place + ROW_BYTES]) for place in range(0, len(rows), ROW_BYTES)]


def _of_row(row: bytes) -> Counts | None:
    return None if row == _GONE else Counts._make(_ROW.unpack(row))


def total(counts: Iterable[Counts | None]) -> Counts | None:
    """Of several ends; None where one of them was closed."""
    first, *more = counts
    for one in more:
        if first is None or one is None:
            return None
        first = first.plus(one)
    return first


def counts(end: Endpoint) -> Counts | None:
    """Of one."""
    one = Ends([end])
    one.changed()
    return one.counts(0)


def observation(
    sent: tuple[Counts, Counts], received: tuple[Counts, Counts], seconds: float, contention: float | None = None,
    others: float | None = None, cpu_ns: float | None = None
) -> Observation | None:
    """What senders and receivers of a channel did in a window: what each had counted before, and has now.

    None where nothing was sent, or a counter went back, which no honest one does. cpu_ns: of both ends in that time.
    """
    messages, size = sent[1].messages - sent[0].messages, sent[1].bytes - sent[0].bytes
    taken, parks = received[1].messages - received[0].messages, received[1].parks - received[0].parks
    timed, times = received[1].timed - received[0].timed, received[1].timed_ns - received[0].timed_ns
    if messages <= 0 or seconds <= 0 or min(size, taken, parks, timed, times) < 0:
        return None
    return Observation(
        messages=messages,
        mean_bytes=size / messages,
        parked=min(1.0, parks / max(1, taken)),
        seconds=seconds,
        latency_ns=times / timed if timed else None,
        rate=messages / seconds,
        contention=contention,
        others=others,
        cpu_ns=None if cpu_ns is None else cpu_ns / messages,
    )
