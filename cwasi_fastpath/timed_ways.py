"""Measures what a message costs on each way that this node can have: real channels, two threads, C at both ends.

A message goes to and fro between two threads that are ready for it; half of that is one way. What a way costs when its
receiver sleeps, or has a queue, is for a model to say, from what paced_ways measures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

from ._native import ffi, lib
from .calibrated import Message, Timed
from .channel import open_channel
from .descriptors import allow_many
from .modes import Transport
from .policy import Cores, Way
from .policy.way import FREE_RING
from .two_sides import LATEST, LONGEST, Side, both, in_time, places, threads, together, two_sides

SIZES = (
    *(64, 1024, 3584, 5 << 10, 12 << 10, 16 << 10, 40 << 10, 64 << 10, 256 << 10, 512 << 10),
    *(896 << 10, 1 << 20, 4 << 20),
)
"""More where costs bend: at 4 KiB a ring begins to use more of its memory, at 16 KiB a pipe is lent pages, at 32 KiB
one end copies for the other, at 512 KiB both do; a pipe holds 1 MiB, and about there caches end.
"""

SECONDS = 0.004
"""For one size on one way, in all passes."""

_PASSES = 3
_DEAR = 0.05
"""Seconds: what takes so long in a pass is measured once. It is little noise to that, and others wait for the rest."""
_FEWEST, _MOST = 3, 192
_SETTLES = 2
"""Trips that do not count: the first wakes the other, in the second the clock was looked at."""
_LOW, _HIGH = 0.1, 0.9
_SWITCHES = 3
_YIELDS = 100

Sides = Mapping[Way, tuple[Side, Side]]


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


@contextmanager
def all_sides(ways: Sequence[Way], redis: str | None = None, largest: int = max(SIZES)) -> Iterator[Sides]:
    """Two sides for each way. Raises what channels raise."""
    allow_many()
    with ExitStack() as stack:
        yield {way: stack.enter_context(two_sides(way, redis, largest)) for way in ways}


def message_times(
    sides: Sides, sizes: Sequence[int] = SIZES, seconds: float = SECONDS
) -> dict[Way, dict[int, Message]]:
    """One message one way, by way and size. Raises what channels raise, Unavailable.

    Others may need the cores at times: everything is measured in several passes, and that in the middle counts. Where
    the kernel chooses the cores, it may choose others each time: the interval is that of all passes.
    """
    passes: dict[tuple[Way, int], list[Message]] = {}
    until, dear = time.monotonic() + LONGEST, set()
    for _ in range(_PASSES):
        for way, pair in sides.items():
            for size in sizes:
                if (way, size) in dear:
                    continue
                in_time(until)
                start = time.monotonic()
                passes.setdefault((way, size), []).append(_message(*pair, size, seconds / _PASSES, until))
                if time.monotonic() - start > _DEAR:
                    dear.add((way, size))
    return {way: {size: _middle(passes[way, size], way) for size in sizes} for way in sides}


def _middle(passes: Sequence[Message], way: Way) -> Message:
    middle = sorted(passes, key=lambda one: one.latency.ns)[len(passes) // 2]
    if way != FREE_RING:
        return replace(middle, stream=median(one.stream for one in passes), cpu=median(one.cpu for one in passes))
    low, high = min(one.latency.low for one in passes), max(one.latency.high for one in passes)
    return replace(middle, latency=replace(middle.latency, low=low, high=high))


def _message(first: Side, second: Side, size: int, seconds: float, until: float) -> Message:
    """Between ends that are ready, as they are while they poll, or, for large messages, wait."""
    found = [_timed(first, second, size, seconds / len(first.waits), wait, until) for wait in first.waits]
    return min(found, key=lambda one: one.latency.ns)


def _timed(first: Side, second: Side, size: int, seconds: float, wait: int, until: float) -> Message:
    """Half of the time for trips, as many as the first few let expect: nobody knows before how slow a machine is."""
    trips, cpu = _settled(first, second, size, wait, _FEWEST, until)
    count = min(_MOST, int(seconds * 1e9 / 2 / median(trips)))
    if count > _FEWEST:
        trips, cpu = _settled(first, second, size, wait, count, until)
    sent = 2 * (len(trips) + _SETTLES)
    slept, beside = (first.saw.parks + second.saw.parks) / sent, together(first, second)
    stream = _stream(first, second, size, wait, sent // 2)
    return Message(timed([trip / 2 for trip in trips]), stream, cpu / sent, min(1.0, slept), beside)


def _settled(
    first: Side, second: Side, size: int, wait: int, count: int, until: float
) -> tuple[list[int], int]:
    """So many round trips between sides that are awake, each ns; and the CPU time of both, also before these."""
    while True:
        trips, cpu = trips_between(first, second, size, wait, count + _SETTLES)
        if min(trips[_SETTLES:]) > 0:
            return trips[_SETTLES:], cpu
        in_time(until)   # what the clock takes is taken off, and was measured when others had the core


def trips_between(first: Side, second: Side, size: int, wait: int, count: int) -> tuple[list[int], int]:
    """So many round trips, each ns; and the CPU time of both for all of them."""
    took = ffi.new("uint64_t[]", count)
    cpu = both(first.drive("ping", size, count, wait, took), second.drive("pong", size, count, wait, ffi.NULL))
    return list(took), cpu


def _stream(first: Side, second: Side, size: int, wait: int, count: int) -> float:
    """A message of so many, ns."""
    took = ffi.new("uint64_t[1]")
    both(first.drive("source", size, count, wait, took, 0), second.drive("sink", size, count, wait, ffi.NULL))
    return float(took[0] / count)


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
    tx.switch(target, LATEST)
    tx.send(b"first by the new way")
    rx.recv(LATEST)
    return float(time.perf_counter_ns() - start)


def turn_time() -> Timed:
    """Two threads on one core take turns and give the core away in between: one turn."""
    here, _ = places(Way(Transport.RING, Cores.ONE))
    turn = ffi.new("uint32_t *")
    rounds, until = [], time.monotonic() + LONGEST
    with threads((here, here)) as (one, other):
        for _ in range(_PASSES):
            in_time(until)
            turn[0] = 0
            first = one.submit(lib.cwasi_drive_yield, turn, 0, _YIELDS)
            second = other.submit(lib.cwasi_drive_yield, turn, 1, _YIELDS)
            rounds.append(both(first, second) / (4 * _YIELDS))
    return timed(rounds)
