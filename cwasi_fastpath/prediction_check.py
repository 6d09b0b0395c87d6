"""How far the cost model is off on this machine: at sizes that were not calibrated, and at rates, for each way."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from . import timed_ways
from .policy import Conditions, Cores, Costs, Way
from .policy.model import estimate

SIZES = (256, 4096, 32 << 10, 128 << 10, 768 << 10, 2 << 20)
"""Between the classes that are calibrated."""

RATED_SIZES = (256, 64 << 10)
RATES = (1_000, 5_000, 20_000)
"""Messages a second: at the lowest receivers sleep in between."""

_BUSIEST = 0.5
"""Of what the way can carry; above that the queue is what counts, and it is never the same twice."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prediction, and what was measured; ns."""

    way: str
    size: int
    rate: int
    """Messages a second; 0: one at a time, to and fro."""
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """As a part of what was measured."""
        return abs(self.predicted - self.measured) / self.measured


def check(costs: Costs, redis: str | None = None) -> list[Case]:
    """Raises what calibrate raises."""
    ways = timed_ways.ways(redis)
    found = timed_ways.message_times(ways, redis, SIZES)
    cases = [
        _case(costs, way, Conditions(float(size), way=way), message.latency.ns)
        for way, messages in found.items()
        for size, message in messages.items()
    ]
    for way in ways:
        if way.cores is not Cores.ONE:   # who keeps time there keeps the receiver from its core
            cases += _at_rates(costs, way, redis)
    return cases


def _at_rates(costs: Costs, way: Way, redis: str | None) -> list[Case]:
    found = []
    for size in RATED_SIZES:
        able = [rate for rate in RATES if rate * estimate(costs, way, Conditions(float(size))).stream < _BUSIEST * 1e9]
        for rate, (latencies, parked) in timed_ways.paced_times(way, redis, size, able).items():
            conditions = Conditions(float(size), parked=parked, rate=float(rate), burst=0.0, way=way)
            found.append(_case(costs, way, conditions, median(latencies)))
    return found


def _case(costs: Costs, way: Way, conditions: Conditions, measured: float) -> Case:
    predicted = estimate(costs, way, conditions).latency
    return Case(str(way), int(conditions.size), int(conditions.rate), predicted, measured)
