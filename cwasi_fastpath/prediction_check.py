"""How far the cost model is off on this machine: at sizes that were not calibrated, and at rates, for each way.

Machines are not the same from one second to the next. So in each of several rounds the machine is calibrated anew, and
then measured; what counts are the medians. No prediction can be nearer than two measurements are to each other: how far
apart those of every other round are is told, too, and how far off predictions are by what was calibrated before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from . import calibration, paced_ways, timed_ways
from .policy import Conditions, Cores, Costs, Way
from .policy.model import estimate
from .policy.way import FREE_RING, TWO_CORES
from .two_sides import Side

SIZES = (256, 4096, 32 << 10, 128 << 10, 768 << 10, 2 << 20)
"""Between the classes that are calibrated."""

RATED_SIZES = (256, 8 << 10, 64 << 10)
RATES = (1_000, 5_000, 20_000)
"""Messages a second: at the lowest receivers sleep in between."""

ROUNDS = 8

_BUSIEST = 0.5
"""Of what the way can carry; above that the queue is what counts, and it is never the same twice."""
_PACED, _PACED_SECONDS, _FEWEST = 400, 0.05, 3
"""Messages, and seconds, at most for one rate."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One prediction, and what was measured; ns, medians of the rounds."""

    way: str
    size: int
    rate: int
    """Messages a second; 0: one at a time, to and fro."""
    predicted: float
    """By what was calibrated in the same round."""
    kept: float
    """By what was calibrated before."""
    measured: float
    once: float
    """What was measured in every other round;"""
    again: float
    """and in the others."""
    parked: float = 0.0
    """How often (0 to 1) the receiver slept; predictions are told."""

    @property
    def error(self) -> float:
        """As a part of what was measured."""
        return abs(self.deviation)

    @property
    def deviation(self) -> float:
        """The same; above 0 where too much was predicted."""
        return (self.predicted - self.measured) / self.measured

    @property
    def error_kept(self) -> float:
        """The error by what was calibrated before."""
        return abs(self.kept - self.measured) / self.measured

    @property
    def noise(self) -> float:
        """How far off the second measurement is, as a prediction of the first."""
        return abs(self.again - self.once) / self.once


@dataclass(frozen=True, slots=True)
class _Seen:
    """A measurement, and under which conditions it came about."""

    ns: float
    conditions: Conditions
    together: float | None = None
    """Of ends that the kernel places: for what part (0 to 1) they shared a core."""

    @property
    def way(self) -> Way:
        assert self.conditions.way is not None
        return self.conditions.way

    @property
    def size(self) -> int:
        return int(self.conditions.size)

    @property
    def rate(self) -> int:
        return int(self.conditions.rate)

    def predicted(self, costs: Costs) -> float:
        """What it should have been."""
        return estimate(costs, self.way, self.conditions, self.together).latency


@dataclass(frozen=True, slots=True)
class _Compared:
    """A measurement, and what was predicted, ns."""

    round: int
    seen: _Seen
    fresh: float
    kept: float


def check(kept: Costs, redis: str | None = None, rounds: Iterable[object] = range(ROUNDS)) -> list[Case]:
    """kept: what was calibrated before. rounds: two at least. What others have disturbed in each round is left out.
    Raises what calibrate raises.
    """
    ways, cells = timed_ways.ways(redis), dict[tuple[Way, int, int], list[_Compared]]()
    for number, _ in enumerate(rounds):
        fresh = calibration.costs_by(calibration.calibrate(redis), redis)
        with timed_ways.all_sides(ways, redis, max(SIZES)) as sides:
            for seen in (*_at_sizes(sides), *_at_rates(sides, kept)):
                cell = cells.setdefault((seen.way, seen.size, seen.rate), [])
                cell.append(_Compared(number, seen, seen.predicted(fresh), seen.predicted(kept)))
    return [case for cell in cells.values() if (case := _case(cell)) is not None]


def _at_sizes(sides: timed_ways.Sides) -> Iterator[_Seen]:
    for way, messages in timed_ways.message_times(sides, SIZES).items():
        for size, message in messages.items():
            yield _seen(way, size, message.latency.ns, message.parked, message.together)


def _at_rates(sides: timed_ways.Sides, costs: Costs) -> Iterator[_Seen]:
    for way, pair in sides.items():
        if way.cores is Cores.ONE or TWO_CORES not in sides:   # who keeps time there keeps the receiver from its core
            continue
        for size in RATED_SIZES:
            paced_ways.warm(*pair, size)
            for rate in RATES:
                if rate * estimate(costs, way, Conditions(float(size))).stream >= _BUSIEST * 1e9:
                    continue
                if (seen := _at_rate(way, pair, size, rate)) is not None:
                    yield seen


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


def _case(cell: Sequence[_Compared]) -> Case | None:
    """None where there are not two measurements."""
    once, again = ([one.seen.ns for one in cell if one.round % 2 == half] for half in (0, 1))
    if not once or not again:
        return None
    seen = cell[0].seen
    return Case(
        str(seen.way), seen.size, seen.rate,
        predicted=median(one.fresh for one in cell),
        kept=median(one.kept for one in cell),
        measured=median([*once, *again]), once=median(once), again=median(again),
        parked=fmean(one.seen.conditions.parked for one in cell),
    )  # fmt: skip
