"""Two threads with both ends of two channels, for measuring: each runs loops in C on its ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ._native import check, ffi, lib
from .channel import open_channel
from .core_pair import pair, topology
from .endpoint import Endpoint
from .errors import Unavailable
from .modes import Transport
from .policy import Cores, Way
from .policy.way import FREE_RING

LONGEST = 4.0
"""Seconds after which a machine is too busy to be measured."""

LATEST = 20.0
"""Seconds that any single step may take."""


def in_time(until: float) -> None:
    """Raises Unavailable on a machine on which others keep us from the cores: what is measured there says nothing."""
    if time.monotonic() > until:
        raise Unavailable(
            f"this machine is too busy to be measured: what takes less than a second took {LONGEST:g} s; try it when "
            "its cores are free"
        )


def places(way: Way) -> tuple[set[int], set[int]]:
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


@dataclass(frozen=True, slots=True)
class Side:
    """A thread and its ends."""

    thread: ThreadPoolExecutor
    tx: Endpoint
    rx: Endpoint
    message: Any
    waits: tuple[int, ...]
    """How its calls may wait: time-outs, ns; 0 polls."""
    saw: Any = field(default_factory=lambda: ffi.new("cwasi_driven *"))
    """What it saw in its last loop."""

    def drive(self, loop: str, size: int, count: int, wait: int, took: Any, *more: int) -> Future[int]:
        """Has its thread run cwasi_drive_<loop>; the CPU time that it took there, ns."""
        fields = (self.tx.pointer, self.rx.pointer, self.message, size, count, wait, took, self.saw)
        return self.thread.submit(self._drive, getattr(lib, f"cwasi_drive_{loop}"), ffi.new("cwasi_drive *", fields),
                                  *more)

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


def both(one: Future[int], other: Future[int]) -> int:
    """The sum of what they return. Raises Unavailable where that takes too long."""
    try:
        return one.result(LATEST) + other.result(LATEST)
    except TimeoutError as error:
        raise Unavailable(
            f"messages that take less than a second did not come in {LATEST:g} s; where there is a Redis server, look "
            "whether it answers"
        ) from error


def together(first: Side, second: Side) -> float:
    """Whether both were on the same core in their last loop: 0 or 1, or 0.5 where one of them was moved."""
    pairs = ((first.saw.begun, second.saw.begun), (first.saw.ended, second.saw.ended))
    return [one == other for one, other in pairs].count(True) / len(pairs)


@contextmanager
def threads(where: tuple[set[int], set[int]]) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Never the caller's: where that may run stays as it is."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(ThreadPoolExecutor(1, "cwasi calibration", os.sched_setaffinity, (0, place)))
            for place in where
        )
        yield one, other


@contextmanager
def two_sides(way: Way, redis: str | None, largest: int) -> Iterator[tuple[Side, Side]]:
    """largest: bytes of a message."""
    target = redis if way.transport is Transport.REDIS and redis else str(way.transport)
    with threads(places(way)) as (one, other):
        there, back = open_channel("calibration", target), open_channel("calibration.answers", target)
        with there[0], there[1], back[0], back[1]:
            # Written: memory that is only zero may be one page, over and over.
            messages = [ffi.from_buffer(bytearray(b"\7") * largest) for _ in range(2)]
            waits = (0, -1) if way.cores is Cores.TWO else (-1,)
            yield (Side(one, there[0], back[1], messages[0], waits),
                   Side(other, back[0], there[1], messages[1], waits))
