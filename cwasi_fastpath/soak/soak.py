"""The soak as a whole: lanes under full load, a fault about every second, and what is left at the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from .. import invitation, tidy, watch
from ..endpoint import RECEIVER, SENDER
from ..modes import Transport
from ..transport.ring import CAPACITY
from . import footprint
from .ends import Shape
from .footprint import Footprint
from .functions import Guests, GuestsApart
from .lane import Lane, Play

_SAMPLE_SECONDS = 0.5
_FAULT_SECONDS = (0.5, 1.5)
_END_SECONDS = 90.0
_SETTLE_SECONDS = 5.0
_WARM_UP_SECONDS = 15.0
"""In which caches fill and nothing is judged."""
_JUDGED_SECONDS = 45.0
"""A run that is shorter says nothing about growth."""

PLAYS: tuple[Play, ...] = (
    Shape("ring, threads", Transport.RING),
    Shape("ring, processes", Transport.RING, apart=frozenset({(SENDER, 0), (RECEIVER, 0)})),
    Shape("fan-out", Transport.RING, receivers=3, apart=frozenset({(RECEIVER, 2)})),
    Shape("fan-in", Transport.RING, senders=3, apart=frozenset({(SENDER, 2)})),
    # Nothing longer than a ring: two receivers, each inside such a message of another sender, would wait for ever.
    Shape(
        "several to several",
        Transport.RING,
        senders=2,
        receivers=2,
        apart=frozenset({(SENDER, 1), (RECEIVER, 1)}),
        largest=CAPACITY // 2,
    ),
    Shape("switched, threads", Transport.RING, switches=(Transport.PIPE, Transport.RING)),
    Shape("switched, fan-out", Transport.PIPE, receivers=2, switches=(Transport.RING, Transport.PIPE)),
    Shape("pipe, threads", Transport.PIPE),
    Shape("pipe, processes", Transport.PIPE, apart=frozenset({(SENDER, 0), (RECEIVER, 0)})),
    Shape("fan-out by pipes", Transport.PIPE, receivers=3, apart=frozenset({(RECEIVER, 2)})),
    Guests("windows", ("fill", "check")),
    Guests("windows on a pipe", ("fill", "check"), Transport.PIPE),
    Guests("calls", ("ask", "answer"), calls=True),
    Guests("windows, switched", ("fill", "check"), switches=(Transport.PIPE, Transport.RING, Transport.RING)),
    GuestsApart("windows, processes", ("fill", "check")),
)


@dataclass
class Outcome:
    """What came of a soak."""

    seconds: float
    lanes: list[Lane]
    series: list[Footprint]
    left: list[str] = field(default_factory=list)
    """What was left behind."""

    @property
    def growth(self) -> dict[str, tuple[float, float, bool]]:
        """See footprint.growth."""
        warm = int(len(self.series) * min(0.5, _WARM_UP_SECONDS / self.seconds))
        return footprint.growth(self.series[warm:])

    @property
    def judged(self) -> bool:
        """Whether it was long enough to tell growth."""
        return self.seconds >= _JUDGED_SECONDS

    @property
    def well(self) -> bool:
        """Whether nothing was lost, doubled, corrupt, hung, left behind or growing."""
        flat = not self.judged or all(flat for _, _, flat in self.growth.values())
        return flat and not self.left and all(lane.score.flawless for lane in self.lanes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": 1,
            "well": self.well,
            "seconds": self.seconds,
            "channels": [_row(lane) for lane in self.lanes],
            "growth_judged": self.judged,
            "growth": {
                name: {"middle": middle, "last": last, "flat": flat}
                for name, (middle, last, flat) in self.growth.items()
            },
            "peaks": {name: max(asdict(one)[name] for one in self.series) for name in asdict(self.series[0])},
            "left_behind": self.left,
        }


def _row(lane: Lane) -> dict[str, Any]:
    score = lane.score
    return {
        "name": lane.play.name,
        "channels": score.episodes,
        "messages": score.messages,
        "bytes": score.bytes,
        "faults": {str(fault): count for fault, count in score.faults.items()},
        "lost": score.lost,
        "doubled": score.doubled,
        "corrupt": score.corrupt,
        "hung": score.hung,
        "complaints": score.complaints,
    }


def soak(seconds: float, seed: int, progress: Callable[[float, list[Lane]], None]) -> Outcome:
    """Runs for so many seconds, and some to end in. progress is told now and then: (seconds gone, lanes)."""
    dice = random.Random(seed)
    threads, shared = _threads(), footprint.shared_memory()
    lanes = [Lane(play, dice.randrange(1 << 30)) for play in PLAYS]
    began = time.monotonic()
    series: list[Footprint] = []
    try:
        for lane in lanes:
            lane.start()
        _watch(began, seconds, dice, lanes, series, progress)
    finally:
        for lane in lanes:
            lane.end()
        until = time.monotonic() + _END_SECONDS
        stuck = [lane for lane in lanes if not lane.join(max(0.0, until - time.monotonic()))]
    outcome = Outcome(time.monotonic() - began, lanes, series or [footprint.take()])
    outcome.left = [f"the lane {lane.play.name!r} did not end" for lane in stuck] + _left(threads, shared)
    return outcome


def _watch(
    began: float,
    seconds: float,
    dice: random.Random,
    lanes: list[Lane],
    series: list[Footprint],
    progress: Callable[[float, list[Lane]], None],
) -> None:
    """Until the time is up: a fault now and then, to each lane in turn, and the footprint."""
    next_fault, waiting = began, list[Lane]()
    while (gone := time.monotonic() - began) < seconds:
        if time.monotonic() >= next_fault:
            waiting = waiting or dice.sample(lanes, len(lanes))
            waiting.pop().request.fault()
            next_fault = time.monotonic() + dice.uniform(*_FAULT_SECONDS)
        series.append(footprint.take())
        progress(gone, lanes)
        time.sleep(min(_SAMPLE_SECONDS, max(0.0, seconds - gone)))


def _left(threads: set[str], shared: frozenset[str]) -> list[str]:
    """What is still there, after a while, that was not there before."""
    until = time.monotonic() + _SETTLE_SECONDS
    while (left := _found(threads, shared)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _found(threads: set[str], shared: frozenset[str]) -> list[str]:
    left = [f"process {child.pid}" for child in psutil.Process().children(recursive=True)]
    left += [f"/dev/shm/{name}" for name in footprint.shared_memory() - shared]
    if mapped := footprint.rings_mapped():
        left.append(f"{mapped} mappings of rings")
    return left + [f"thread {name}" for name in sorted(_threads() - threads)]


def _threads() -> set[str]:
    """Their names; not the package's own, which stay."""
    return {thread.name for thread in threading.enumerate()} - {watch.THREAD, tidy.THREAD, invitation.THREAD}
