"""What the policy's decision costs, for as many edges as a busy node has."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from ..metrics import Observation
from ..modes import EdgeFacts, Locality, Transport
from ..policy import Conditions, Cores, CostPolicy, Costs, EdgeHistory, Request, Way
from ..policy.generate import generate
from ..policy.model import estimate
from ..policy.noise import Noise
from ..policy.way import way_of

_RING = Transport.RING
_WAYS = frozenset({
    way_of(_RING), way_of(_RING, Cores.ONE), way_of(_RING, Cores.TWO), way_of(Transport.PIPE), way_of(Transport.TCP),
    way_of(Transport.REDIS),
})  # fmt: skip
_SETTLED, _WINDOWS = 10, 50
"""After a change, until nothing changes any more; then of a minute, at one a second, the rest."""
_GROWN = 64.0

Known = tuple[EdgeHistory, Way]
"""What is remembered of an edge, and its way."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one decision, CPU time in us."""

    steady: float
    """Where nothing is new; the median of the windows."""
    mean: float
    """The mean of all windows in which nothing changes: in some of them all ways are compared."""
    changed: float
    """Where the size of all messages has changed."""


class Deciding:
    """About edges with messages of their own size and rate, and noise."""

    def __init__(self, edges: int) -> None:
        self._noise = Noise(1)
        self._costs = generate("steady", seconds=0.1).costs
        self._policy = CostPolicy(self._costs)
        self._sizes = [64.0 * 2 ** (8 * self._noise.uniform()) for _ in range(edges)]
        here = EdgeFacts(Locality.PROCESS)
        self._edge = Request(here, available=frozenset(Transport), ways=_WAYS)
        self._known: list[Known] = [(EdgeHistory(), way_of(_RING, Cores.TWO))] * edges
        self._now = 0.0
        self._grown = False

    def round(self) -> Cost:
        """Windows in which nothing changes, and one in which all messages get larger; or smaller, every other time."""
        for _ in range(_SETTLED):
            self._window()
        steady = [self._window() for _ in range(_WINDOWS)]
        self._grown = not self._grown
        return Cost(median(steady), mean(steady), self._window())

    def _window(self) -> float:
        """What a decision took, us."""
        self._now += 1.0
        grown = _GROWN if self._grown else 1.0
        asked: list[Any] = [   # each is replaced by its answer
            replace(self._edge, observation=self._seen(way, size * grown), now=self._now, history=history, current=way)
            for (history, way), size in zip(self._known, self._sizes, strict=True)
        ]
        before = [way for _, way in self._known]
        self._known = []
        begin = time.thread_time()
        for index, one in enumerate(asked):
            asked[index] = self._policy.step(one)   # what was remembered before is let go, as by the steward
        took = time.thread_time() - begin
        self._known = [
            _followed(history, chosen, way, self._now)
            for (history, chosen), way in zip(asked, before, strict=True)
        ]
        return took / len(before) * 1e6

    def _seen(self, way: Way, size: float) -> Observation:
        """As the model says, and noise."""
        noise = self._noise
        rate = 1000.0 * noise.factor(0.03)
        latency = _latency(self._costs, way, size, rate) * noise.factor(0.05)
        return Observation(
            1000, size, 0.0, seconds=1.0, latency_ns=latency, rate=rate, burst=1.0, contention=0.0,
            others=0.05 * noise.uniform(),
        )  # fmt: skip


def _latency(costs: Costs, way: Way, size: float, rate: float) -> float:
    return estimate(costs, way, Conditions(size, rate=rate, way=way)).latency


def _followed(history: EdgeHistory, chosen: Way | None, way: Way, now: float) -> Known:
    return (history, way) if chosen is None or chosen == way else (history.switched(now, chosen), chosen)
