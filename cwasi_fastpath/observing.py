"""What channels did since the last look: differences of what their ends count in C, as observations for a policy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ._native import ffi, lib
from .endpoint import Endpoint
from .metrics import Observation

_ROW = struct.Struct("=QQQQQQ")
assert _ROW.size == ffi.sizeof("cwasi_observed")


@dataclass(frozen=True, slots=True)
class Counts:
    """What ends have counted since they were opened."""

    messages: int = 0
    bytes: int = 0
    waits: int = 0
    parks: int = 0
    timed: int = 0
    timed_ns: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.messages + other.messages,
            self.bytes + other.bytes,
            self.waits + other.waits,
            self.parks + other.parks,
            self.timed + other.timed,
            self.timed_ns + other.timed_ns,
        )


    @classmethod
    def of_plain(cls, plain: object) -> Counts | None:
        """What another process says that its end has counted; None for what is none."""
        match plain:
            case [int(), int(), int(), int(), int(), int()] if all(0 <= one < 1 << 64 for one in plain):
                return cls(*plain)
        return None


_QUEUED = 2.0
"""Messages on their way at a time, on average, with which each waits for others."""


def counts(ends: Sequence[Endpoint]) -> list[Counts | None]:
    """Of each, in one call; None for one that was closed."""
    # Who holds a pointer keeps what it points to, also while another thread closes the end.
    pointers = [end.told_pointer for end in ends]
    live = [pointer for pointer in pointers if pointer is not None]
    out = ffi.new("cwasi_observed[]", len(live))
    lib.cwasi_observe(ffi.new("cwasi_channel *[]", live), len(live), out)
    rows = _ROW.iter_unpack(bytes(ffi.buffer(out)))
    return [None if pointer is None else Counts(*next(rows)) for pointer in pointers]


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


def queued(seen: Observation) -> bool:
    """Whether there was a queue all the time (Little's law): its receivers take no more, and how long a message takes
    says only how much the queue holds.
    """
    return seen.latency_ns is not None and (seen.rate or 0.0) * seen.latency_ns * 1e-9 >= _QUEUED
