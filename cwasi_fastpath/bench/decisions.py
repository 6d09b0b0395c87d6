"""What the policy's decision costs, for as many edges as a busy node has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

from ..metrics import Observation
from ..modes import EdgeFacts, Locality, Transport
from ..policy import Conditions, Cores, CostPolicy, Costs, EdgeHistory, Request, Way
from ..policy.generate import generate
from ..policy.model import estimate
from ..policy.noise import Noise

_RING = Transport.RING
_WAYS = frozenset({
    Way(_RING), Way(_RING, Cores.ONE), Way(_RING, Cores.TWO), Way(Transport.PIPE), Way(Transport.TCP),
    Way(Transport.REDIS),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one decision, CPU time."""

    edges: int
    steady_us: float
    """Where nothing has changed; the median of the windows."""
    changed_us: float
    """Where the conditions of all edges have."""
    core: float
    """The part of a core that all edges take, decided about once a second, where nothing changes."""


def measure(edges: int, windows: int = 20) -> Cost:
    """Every edge has messages of its own size and rate, and noise; then all of them get larger."""
    noise = Noise(1)
    costs = generate("steady", seconds=0.1).costs
    policy = CostPolicy(costs)
    here = EdgeFacts(Locality.PROCESS)
    base = Request(here, available=frozenset(Transport), ways=_WAYS, current=Way(_RING, Cores.TWO))
    sizes = [64.0 * 2 ** (8 * noise.uniform()) for _ in range(edges)]
    requests = [base] * edges
    times = []
    for number in range(windows + 1):
        grown = 64.0 if number == windows else 1.0
        asked = [
            replace(one, observation=_seen(noise, one, size * grown, costs), now=float(number))
            for one, size in zip(requests, sizes, strict=True)
        ]
        begin = time.thread_time()
        answers = [policy.step(one) for one in asked]
        times.append((time.thread_time() - begin) / edges * 1e6)
        requests = list(_followed(asked, answers, float(number)))
    steady = median(times[windows // 2 : windows])
    return Cost(edges, steady, times[windows], steady * edges / 1e6)


def _seen(noise: Noise, request: Request, size: float, costs: Costs) -> Observation:
    """As the model says, and noise."""
    rate, way = 1000.0 * noise.factor(0.03), request.current
    assert way is not None
    latency = estimate(costs, way, Conditions(size, rate=rate, way=way)).latency * noise.factor(0.05)
    return Observation(
        1000, size, 0.0, seconds=1.0, latency_ns=latency, rate=rate, burst=1.0, contention=0.0,
        others=0.05 * noise.uniform(),
    )  # fmt: skip


def _followed(
    asked: list[Request], answers: list[tuple[EdgeHistory, Way | None]], now: float
) -> Iterator[Request]:
    for request, (history, way) in zip(asked, answers, strict=True):
        moved = way is not None and way != request.current
        yield replace(request, history=history.switched(now, way) if moved and way else history, current=way)
