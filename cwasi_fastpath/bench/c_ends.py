"""Runs the cases in which C is at both ends, a thread each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from .._native import check, ffi, lib
from ..channel import open_channel
from ..receiver import Receiver
from ..sender import Sender
from .case import P50, P99, RATE, SHARE, Case, How, Kind, Sample
from .cores import run_both
from .stats import quantile_of

BURST_NS = 10_000
"""Between two messages of a burst."""

BURST_MESSAGES = 100
"""1 ms: well below the time slice of another process that wants the core (4 ms at 250 Hz). A longer burst would meet
one nearly every time, and its p99 would be what is left of that slice.
"""

_WARM_BYTES = 4 << 20
"""A message that touches every page of a ring."""


Open = Callable[[str, Case], tuple[Sender, Receiver]]
"""Makes a channel of that name for a case."""


def _open(name: str, case: Case) -> tuple[Sender, Receiver]:
    return open_channel(name, case.path)


def measure(case: Case, count: int, channel: Open = _open) -> Sample:
    """One run of `case` with `count` messages, or of `count` milliseconds where it is idle. Raises what calls raise."""
    runs = {Kind.LATENCY: _latency, Kind.THROUGHPUT: _throughput, Kind.BURST: _burst, Kind.IDLE: _idle}
    with _sides(case, channel) as sides:
        return runs[case.kind](case, count, sides)


@dataclass(frozen=True, slots=True)
class _Side:
    """Both ends that one thread has."""

    tx: Sender
    rx: Receiver
    message: bytearray

    def drive(self, loop: str, size: int, count: int, timeout: int, took: Any = ffi.NULL, *more: int) -> None:
        """Runs cwasi_drive_<loop>. A failure takes the other side along."""
        fields = (self.tx.pointer, self.rx.pointer, ffi.from_buffer(self.message), size, count, timeout, took)
        try:
            check(getattr(lib, f"cwasi_drive_{loop}")(ffi.new("cwasi_drive *", fields), *more), loop)
        except BaseException:
            for end in (self.tx, self.rx):
                end.finish(failed=True, linger=0.0)
            raise

    def warm(self, loop: str) -> None:
        self.drive(loop, _WARM_BYTES, 1, -1, ffi.new("uint64_t[1]"))


_Sides = tuple[_Side, _Side]


@contextmanager
def _sides(case: Case, channel: Open) -> Iterator[_Sides]:
    there, back = channel("there", case), channel("back", case)
    # Written: memory that is only zero may be one page, over and over.
    messages = [bytearray(b"\7") * max(case.size, _WARM_BYTES) for _ in range(2)]
    with there[0], there[1], back[0], back[1]:
        yield _Side(there[0], back[1], messages[0]), _Side(back[0], there[1], messages[1])


def _timeout(case: Case) -> int:
    return 0 if case.how is How.SPINNING else -1


def _latency(case: Case, count: int, sides: _Sides) -> Sample:
    first, second = sides
    took = ffi.new("uint64_t[]", count)

    def ping() -> None:
        first.warm("ping")
        first.drive("ping", case.size, count, _timeout(case), took)

    def pong() -> None:
        second.warm("pong")
        second.drive("pong", case.size, count, _timeout(case))

    run_both(case.cores, ping, pong)
    ways = sorted(trip / 2 for trip in took)
    return Sample(2 * count, sum(took) / 1e9, {P50: quantile_of(ways, 0.5), P99: quantile_of(ways, 0.99)})


def _throughput(case: Case, count: int, sides: _Sides) -> Sample:
    took = _stream(case, count, sides, 0, [ffi.NULL])
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _burst(case: Case, count: int, sides: _Sides) -> Sample:
    """From the start of each send to the return of its receive: nobody answers. Medians over the bursts."""
    bursts, messages = max(1, count // BURST_MESSAGES), min(count, BURST_MESSAGES)
    ways = [ffi.new("uint64_t[]", messages) for _ in range(bursts)]
    took = _stream(case, messages, sides, BURST_NS, ways)
    ordered = [sorted(burst) for burst in ways]
    figures = {name: median(quantile_of(burst, q) for burst in ordered) for name, q in ((P50, 0.5), (P99, 0.99))}
    return Sample(bursts * messages, took / 1e9, figures)


def _stream(case: Case, count: int, sides: _Sides, period_ns: int, runs: Sequence[Any]) -> int:
    """The nanoseconds from the first send to the receiver's answer to the last message, of all runs.

    runs: for each, where to put how long each message was under way, or NULL.
    """
    first, second = sides
    took = [ffi.new("uint64_t[1]") for _ in runs]

    def source() -> None:
        first.warm("ping")
        for one in took:
            first.drive("source", case.size, count, _timeout(case), one, period_ns)

    def sink() -> None:
        second.warm("pong")
        for ways in runs:
            second.drive("sink", case.size, count, _timeout(case), ways)

    run_both(case.cores, source, sink)
    return sum(int(one[0]) for one in took)


def _idle(case: Case, count: int, sides: _Sides) -> Sample:
    """The share of a core that a receiver takes while nothing comes."""
    _, second = sides

    def wait() -> tuple[int, int]:
        start, cpu = time.monotonic_ns(), time.thread_time_ns()
        lib.cwasi_channel_recv(second.rx.pointer, ffi.from_buffer(second.message), case.size, count * 1_000_000)
        return time.thread_time_ns() - cpu, time.monotonic_ns() - start

    (cpu, ns), _nothing = run_both(case.cores, wait, lambda: None)
    return Sample(count, ns / 1e9, {SHARE: cpu / ns})
