"""Measures what a message costs on each way that this node can have: real channels, two threads, C at both ends.

A message goes to and fro between two threads that are ready for it; half of that is one way. What a way costs when its
receiver sleeps, or has a queue, is for a model to say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from ._native import check, ffi, lib
from .calibrated import Message, Timed
from .channel import open_channel
from .core_pair import pair, topology
from .descriptors import allow_many
from .endpoint import Endpoint
from .errors import Unavailable
from .modes import Transport
from .policy import Cores, Way

SIZES = (64, 1024, 16 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20, 4 << 20)
"""More where caches end, and costs bend."""

FREE_RING = Way(Transport.RING)

SECONDS = 0.012
"""For one size on one way, in all passes."""

LONGEST = 4.0
"""Seconds after which a machine is too busy to be measured."""

_PASSES = 3
_FEWEST, _MOST = 3, 192
_LOW, _HIGH = 0.1, 0.9
_PACED, _PACED_SECONDS = 400, 0.05
"""Messages, and seconds, at most for one rate."""
_SWITCHES = 3
_YIELDS = 100
_LATEST = 20.0
"""Seconds that any single step may take."""


def timed(values: Sequence[float]) -> Timed:
    """Of measured values, at least one."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Timed(median(ordered), ordered[round(_LOW * last)], ordered[round(_HIGH * last)], len(ordered))


def ways(redis: str | None = None) -> tuple[Way, ...]:
    """What this node can have. redis: only where a server's URL is known."""
    two = len(os.sched_getaffinity(0)) > 1
    placed = [Way(Transport.RING, Cores.ONE), *([Way(Transport.RING, Cores.TWO)] if two else [])]
    free = [Way(kind) for kind in Transport if kind is not Transport.REDIS or redis]
    return (*placed, *free)


def _places(way: Way) -> tuple[set[int], set[int]]:
    """Where the threads of both ends may run.

    Of a pipe, tcp or a server, on two cores where there are two: the ends of functions that both work are there. If
    they do nothing but wait for each other, the kernel may bring them together, and is faster then.
    """
    usable = sorted(os.sched_getaffinity(0))
    if way == FREE_RING:
        return set(usable), set(usable)
    if way.cores is Cores.ONE or len(usable) == 1:
        return {usable[0]}, {usable[0]}
    one, other = pair(usable, topology())
    return {one}, {other}


def message_times(
    ways: Sequence[Way], redis: str | None = None, sizes: Sequence[int] = SIZES, seconds: float = SECONDS
) -> dict[Way, dict[int, Message]]:
    """One message one way, by way and size. Raises what channels raise, Unavailable.

    Others may need the cores at times: everything is measured in several passes, and the fastest of them counts.
    Where the kernel chooses the cores, it may choose others each time: the interval is that of all passes.
    """
    allow_many()
    passes: dict[tuple[Way, int], list[Message]] = {}
    with ExitStack() as stack:
        sides = {way: stack.enter_context(_two_sides(way, redis, max(sizes))) for way in ways}
        until = time.monotonic() + LONGEST
        for _ in range(_PASSES):
            for way, both in sides.items():
                for size in sizes:
                    in_time(until)
                    passes.setdefault((way, size), []).append(_message(*both, size, seconds / _PASSES, until))
    return {way: {size: _best(passes[way, size], way) for size in sizes} for way in ways}


def in_time(until: float) -> None:
    """Raises Unavailable on a machine on which others keep us from the cores: what is measured there says nothing."""
    if time.monotonic() > until:
        raise Unavailable(
            f"this machine is too busy to be measured: what takes less than a second took {LONGEST:g} s; try it when "
            "its cores are free"
        )


def _best(passes: Sequence[Message], way: Way) -> Message:
    fastest = min((one.latency for one in passes), key=lambda one: one.ns)
    if way == FREE_RING:
        low, high = min(one.latency.low for one in passes), max(one.latency.high for one in passes)
        fastest = replace(fastest, low=low, high=high)
    return Message(fastest, min(one.stream for one in passes), min(one.cpu for one in passes))


def paced_times(
    way: Way, redis: str | None, size: int, rates: Sequence[int]
) -> dict[int, tuple[list[int], float]]:
    """By rate, how long messages were under way that come one at a time at that rate, ns; and how often the receiver
    slept. size: at least 8. Raises what channels raise, Unavailable.
    """
    allow_many()
    found, until = {}, time.monotonic() + LONGEST
    with _two_sides(way, redis, size) as (first, second):
        _trips(first, second, size, -1, _FEWEST)
        for rate in rates:
            in_time(until)
            count = max(_FEWEST, min(_PACED, int(rate * _PACED_SECONDS)))
            before, took = second.rx.metrics(), ffi.new("uint64_t[]", count)
            whole = ffi.new("uint64_t[1]")
            _both(
                first.drive("source", size, count, -1, whole, 1_000_000_000 // rate),
                second.drive("sink", size, count, -1, took),
            )
            after = second.rx.metrics()
            slept = (after.parks - before.parks) / max(1, after.messages - before.messages)
            found[rate] = list(took), min(1.0, slept)
    return found


def switch_times(redis: str | None = None) -> dict[Transport, Timed]:
    """A switch to each transport, of a channel that is in use: as long as messages may be held up."""
    targets = {kind: redis if kind is Transport.REDIS else str(kind) for kind in Transport}
    found: dict[Transport, list[float]] = {}
    allow_many()
    for kind, target in targets.items():
        if target is None:
            continue
        tx, rx = open_channel("calibration", "pipe" if kind is Transport.RING else "ring")
        with tx, rx:
            for _ in range(_SWITCHES):
                before = str(Transport.PIPE if kind is Transport.RING else Transport.RING)
                found.setdefault(kind, []).append(_switch(tx, rx, target))
                _switch(tx, rx, before)
    return {kind: timed(times) for kind, times in found.items()}


def _switch(tx: Any, rx: Any, target: str) -> float:
    start = time.perf_counter_ns()
    tx.switch(target, _LATEST)
    tx.send(b"first by the new way")
    rx.recv(_LATEST)
    return float(time.perf_counter_ns() - start)


def turn_time() -> Timed:
    """Two threads on one core take turns and give the core away in between: one turn."""
    here, _ = _places(Way(Transport.RING, Cores.ONE))
    turn = ffi.new("uint32_t *")
    rounds, until = [], time.monotonic() + LONGEST
    with _threads((here, here)) as (one, other):
        for _ in range(_PASSES):
            in_time(until)
            turn[0] = 0
            first = one.submit(lib.cwasi_drive_yield, turn, 0, _YIELDS)
            second = other.submit(lib.cwasi_drive_yield, turn, 1, _YIELDS)
            rounds.append(_both(first, second) / (4 * _YIELDS))
    return timed(rounds)


# ---- two threads, with both ends of two channels ----


@dataclass(frozen=True, slots=True)
class _Side:
    """A thread and its ends."""

    thread: ThreadPoolExecutor
    tx: Endpoint
    rx: Endpoint
    message: Any
    waits: tuple[int, ...]
    """How its calls may wait: time-outs, ns; 0 polls."""

    def drive(self, loop: str, size: int, count: int, wait: int, took: Any, *more: int) -> Future[int]:
        """Has its thread run cwasi_drive_<loop>; the CPU time that it took there, ns."""
        drive = ffi.new("cwasi_drive *", (self.tx.pointer, self.rx.pointer, self.message, size, count, wait, took))
        return self.thread.submit(self._drive, getattr(lib, f"cwasi_drive_{loop}"), drive, *more)

    def _drive(self, loop: Callable[..., int], drive: Any, *more: int) -> int:
        """A failure takes the other side along."""
        start = time.thread_time_ns()
        try:
            check(loop(drive, *more), "calibration")
        except BaseException:
            self.stop()
            raise
        return time.thread_time_ns() - start

    def stop(self) -> None:
        for end in (self.tx, self.rx):
            end.stop()


@contextmanager
def _threads(places: tuple[set[int], set[int]]) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Never the caller's: where that may run stays as it is."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(ThreadPoolExecutor(1, "cwasi calibration", os.sched_setaffinity, (0, place)))
            for place in places
        )
        yield one, other


@contextmanager
def _two_sides(way: Way, redis: str | None, largest: int) -> Iterator[tuple[_Side, _Side]]:
    target = redis if way.transport is Transport.REDIS and redis else str(way.transport)
    with _threads(_places(way)) as (one, other):
        there, back = open_channel("calibration", target), open_channel("calibration.answers", target)
        with there[0], there[1], back[0], back[1]:
            # Written: memory that is only zero may be one page, over and over.
            messages = [ffi.from_buffer(bytearray(b"\7") * largest) for _ in range(2)]
            waits = (0, -1) if way.cores is Cores.TWO else (-1,)
            yield (_Side(one, there[0], back[1], messages[0], waits),
                   _Side(other, back[0], there[1], messages[1], waits))


def _message(first: _Side, second: _Side, size: int, seconds: float, until: float) -> Message:
    """Between ends that are ready, as they are while they poll, or, for large messages, wait."""
    found = [_timed(first, second, size, seconds, wait, until) for wait in first.waits]
    return min(found, key=lambda one: one.latency.ns)


def _timed(first: _Side, second: _Side, size: int, seconds: float, wait: int, until: float) -> Message:
    """More and more trips at a time, while there is time: nobody knows before how slow a busy machine is."""
    began, count = time.monotonic(), _FEWEST
    _trips(first, second, size, wait, 1)   # touches pages
    while True:
        start = time.monotonic()
        trips, cpu = _trips(first, second, size, wait, count)
        now = time.monotonic()
        if min(trips) <= 0:   # what the clock takes is taken off, and was measured when others had the core
            in_time(until)
            continue
        if count >= _MOST or now - began + 2 * (now - start) > seconds / 2:
            break
        count *= 2
    stream = _stream(first, second, size, wait, 2 * count)
    return Message(timed([trip / 2 for trip in trips[1:]]), stream, cpu / (2 * count))   # the first wakes the other


def _trips(first: _Side, second: _Side, size: int, wait: int, count: int) -> tuple[list[int], int]:
    """So many round trips, each ns; and the CPU time of both for all of them."""
    took = ffi.new("uint64_t[]", count)
    cpu = _both(first.drive("ping", size, count, wait, took), second.drive("pong", size, count, wait, ffi.NULL))
    return list(took), cpu


def _stream(first: _Side, second: _Side, size: int, wait: int, count: int) -> float:
    """A message of so many, ns."""
    took = ffi.new("uint64_t[1]")
    _both(first.drive("source", size, count, wait, took, 0), second.drive("sink", size, count, wait, ffi.NULL))
    return float(took[0] / count)


def _both(one: Future[int], other: Future[int]) -> int:
    """The sum of what they return."""
    return one.result(_LATEST) + other.result(_LATEST)
