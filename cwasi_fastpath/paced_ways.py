"""Measures what messages cost that come one at a time, with pauses in which receivers fall asleep and caches get cold:
on the same two sides as timed_ways, and as a message costs more than one of a ping-pong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ._native import ffi
from .calibrated import Rest
from .modes import Transport
from .policy import Cores, Way
from .policy.way import FREE_RING, TWO_CORES
from .timed_ways import Sides, trips_between
from .two_sides import LONGEST, Side, both, in_time, together

SIZES = (1024, 96 << 10)
"""A message that is small, and one of which most of the cost is that of its bytes."""

PAUSES = {2_000_000: (10, 6), 300_000: (24, 12)}
"""Between messages, ns: such after which the core has fallen asleep, and such after which the receiver has. With each,
how many messages of either size are sent. The long ones first: while a core was busy a moment ago, it is woken sooner.
"""

_SETTLES = 150
"""Messages with the shorter pause before any count: cores that were busy just now are woken sooner for some time. Not
again before the shorter pauses, as the longer ones come before them.
"""

_SLEEPS = 0.9
"""Of the messages at least, or nothing is learnt of what a sleeper costs."""
_BUSIEST = 0.5
"""Of a pause: with less of it left, the next message waits for the one before."""
_STALLED_NS = 250_000.0
"""No wakes take so long: who is that much later waited for a core that others had, for a part of their slice."""
_UNDISTURBED = 0.75
"""Of the messages at least, or others had the cores."""
_WARM_BYTES = 3 << 20
"""Sent before anything is measured: a channel's memory is there when it was used once."""
_FEWEST_TRIPS, _MOST_TRIPS = 3, 64


@dataclass(frozen=True, slots=True)
class Paced:
    """Messages that came one at a time."""

    ns: float
    """The mean time under way of those that did not wait for somebody else."""
    parked: float
    """How often (0 to 1) the receiver slept when one came."""
    together: float
    """Whether both ends were on the same core, 0 to 1."""


def paced(first: Side, second: Side, size: int, pause: int, count: int) -> Paced | None:
    """So many messages with pauses of so many ns; None where others had the cores. size: at least 8. Raises what
    channels raise.
    """
    took, whole = ffi.new("uint64_t[]", count), ffi.new("uint64_t[1]")
    both(first.drive("source", size, count, -1, whole, pause), second.drive("sink", size, count, -1, took))
    ns = undisturbed(list(took))
    return None if ns is None else Paced(ns, min(1.0, second.saw.parks / count), together(first, second))


def warm(first: Side, second: Side, size: int) -> None:
    """So that the messages that follow do not tell what new memory costs."""
    trips_between(first, second, size, -1, max(_FEWEST_TRIPS, min(_MOST_TRIPS, _WARM_BYTES // size)))


def undisturbed(times: Sequence[float]) -> float | None:
    """The mean of those that did not wait for somebody else: of such that found a sleeper, and such that did not."""
    ordered = sorted(times)
    longest = _STALLED_NS + 3 * ordered[len(ordered) // 10]
    kept = [one for one in ordered if one <= longest]
    return fmean(kept) if len(kept) >= _UNDISTURBED * len(ordered) else None


def rest_times(sides: Sides, ready: Callable[[Way, int], float]) -> dict[Way, tuple[Rest, ...]]:
    """What a message costs more after a pause, by way; on a ring, where the receiver sleeps. ready: without one, ns.
    Not of ends that share a core: who keeps time there keeps the receiver from it. Raises Unavailable.
    """
    found: dict[Way, list[Rest]] = {}
    until = time.monotonic() + LONGEST
    if TWO_CORES in sides:
        paced(*sides[TWO_CORES], SIZES[0], min(PAUSES), _SETTLES)
    for pause, counts in PAUSES.items():
        for way, pair in sides.items():
            in_time(until)
            rest = None if way.cores is Cores.ONE else _rest(way, pair, pause, counts, ready)
            if rest is not None:
                found.setdefault(way, []).insert(0, rest)
    return {way: tuple(rests) for way, rests in found.items()}


def _rest(
    way: Way, pair: tuple[Side, Side], pause: int, counts: tuple[int, int], ready: Callable[[Way, int], float]
) -> Rest | None:
    """None where nothing was learnt."""
    placed = TWO_CORES if way == FREE_RING else way   # where the kernel has them on one nothing is
    small, large = (
        _more(way, pair, size, pause, count, ready(placed, size)) for size, count in zip(SIZES, counts, strict=True)
    )
    if small is None:
        return None
    return Rest(float(pause), small, 0.0 if large is None else max(0.0, (large - small) / (SIZES[1] - SIZES[0])))


def _more(way: Way, pair: tuple[Side, Side], size: int, pause: int, count: int, ready: float) -> float | None:
    """None: a pause after which nobody sleeps, or that is none, or others had the cores, or the kernel had the ends on
    one.
    """
    if ready > _BUSIEST * pause:
        return None
    warm(*pair, size)
    seen = paced(*pair, size, pause, count)
    if seen is None or (way.transport is Transport.RING and seen.parked < _SLEEPS):
        return None
    if way == FREE_RING and seen.together:
        return None
    more = max(0.0, seen.ns - ready)
    return more if more <= _STALLED_NS else None
