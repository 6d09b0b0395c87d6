"""How far the cost model is off on this machine: at sizes that were not calibrated, and at rates, for each way.

Everything is measured twice: no prediction can be nearer than two measurements are to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import paced_ways, timed_ways
from .policy import Conditions, Cores, Costs, Way
from .policy.model import estimate
from .policy.way import FREE_RING, TWO_CORES
from .two_sides import Side

SIZES = (256, 4096, 32 << 10, 128 << 10, 768 << 10, 2 << 20)
"""Between the classes that are calibrated."""

RATED_SIZES = (256, 8 << 10, 64 << 10)
RATES = (1_000, 5_000, 20_000)
"""Messages a second: at the lowest receivers sleep in between."""

_BUSIEST = 0.5
"""Of what the way can carry; above that the queue is what counts, and it is never the same twice."""
_PACED, _PACED_SECONDS, _FEWEST = 400, 0.05, 3
"""Messages, and seconds, at most for one rate."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One prediction, and what was measured; ns."""

    way: str
    size: int
    rate: int
    """Messages a second; 0: one at a time, to and fro."""
    predicted: float
    measured: float
    again: float
    """What was measured the second time."""
    parked: float = 0.0
    """How often (0 to 1) the receiver slept, the first time; a prediction is told."""

    @property
    def error(self) -> float:
        """As a part of what was measured."""
        return abs(self.deviation)

    @property
    def deviation(self) -> float:
        """The same; above 0 where too much was predicted."""
        return (self.predicted - self.measured) / self.measured

    @property
    def noise(self) -> float:
        """How far off the second measurement is, as a prediction of the first."""
        return abs(self.again - self.measured) / self.measured


@dataclass(frozen=True, slots=True)
class _Seen:
    """A measurement, and under which conditions it came about."""

    ns: float
    conditions: Conditions
    together: float | None = None
    """Of ends that the kernel places: for what part (0 to 1) they shared a core."""


def check(costs: Costs, redis: str | None = None) -> list[Case]:
    """What others have disturbed is left out. Raises what calibrate raises."""
    ways = timed_ways.ways(redis)
    rounds = []
    for _ in range(2):
        with timed_ways.all_sides(ways, redis, max(SIZES)) as sides:
            rounds.append([*_at_sizes(sides), *_at_rates(sides, costs)])
    return [_case(costs, one, again) for one, again in zip(*rounds, strict=True) if one and again]


def _at_sizes(sides: timed_ways.Sides) -> Iterator[_Seen]:
    for way, messages in timed_ways.message_times(sides, SIZES).items():
        for size, message in messages.items():
            yield _seen(way, size, message.latency.ns, message.parked, message.together)


def _at_rates(sides: timed_ways.Sides, costs: Costs) -> Iterator[_Seen | None]:
    for way, pair in sides.items():
        if way.cores is Cores.ONE or TWO_CORES not in sides:   # who keeps time there keeps the receiver from its core
            continue
        for size in RATED_SIZES:
            paced_ways.warm(*pair, size)
            for rate in RATES:
                if rate * estimate(costs, way, Conditions(float(size))).stream < _BUSIEST * 1e9:
                    yield _at_rate(way, pair, size, rate)


def _at_rate(way: Way, pair: tuple[Side, Side], size: int, rate: int) -> _Seen | None:
    """None where others had the cores, each time; or the kernel had the ends on one core."""
    count = max(_FEWEST, min(_PACED, int(rate * _PACED_SECONDS)))
    for _ in range(_TRIES):
        seen = paced_ways.paced(*pair, size, 1_000_000_000 // rate, count)
        if seen is not None and (way != FREE_RING or seen.together == 0):
            return _seen(way, size, seen.ns, seen.parked, seen.together, rate)
    return None


def _seen(way: Way, size: int, ns: float, parked: float, together: float, rate: int = 0) -> _Seen:
    """Regular, and with nothing in the way."""
    conditions = Conditions(float(size), parked=parked, rate=float(rate), burst=0.0, way=way)
    return _Seen(ns, conditions, together if way == FREE_RING else None)


def _case(costs: Costs, one: _Seen, again: _Seen) -> Case:
    seen = one.conditions
    assert seen.way is not None
    predicted = estimate(costs, seen.way, seen, one.together).latency
    return Case(str(seen.way), int(seen.size), int(seen.rate), predicted, one.ns, again.ns, seen.parked)
