"""Records a trace for policies: real messages between two threads, by every way in turn, while something changes.

A block has two short runs on each way, in turn, so that all of them meet the same time, and the noise of one half is
not in the other. In a run each message waits for the one before it to be answered, with C at both ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from .. import calibration
from ..errors import BadSpec
from ..modes import EdgeFacts, Locality, Transport
from ..policy import Cores, Costs, Way
from ..policy.trace import Block, Measured, Trace
from .crowd import Busy, crowd
from .environment import environment
from .road import LARGEST, Road, rate_of, road_of

SMALL, LARGE = 64, LARGEST
_FIRST_ROUNDS = 40
"""Before the trace begins: what a calibration would know."""
_HERE = EdgeFacts(Locality.PROCESS)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a recording."""

    size: int = SMALL
    crowded: bool = False
    """Another process wants one of the cores all the time."""
    pause: float = 0.0
    """Seconds from an answer to the next message."""


_SELDOM = Phase(pause=0.002)
SCENARIOS: dict[str, tuple[Phase, ...]] = {
    "steady": (Phase(),),
    "bursty": (_SELDOM, Phase()) * 4,
    "size-shift": (Phase(SMALL), Phase(LARGE), Phase(SMALL)),
    "contention": (Phase(), Phase(crowded=True), Phase()),
}


def usable_ways(redis: str | None) -> list[Way]:
    """What can be measured here. redis: a server's URL."""
    ways = [Way(Transport.RING), Way(Transport.RING, Cores.ONE)]
    if len(os.sched_getaffinity(0)) > 1:
        ways.append(Way(Transport.RING, Cores.TWO))
    return [*ways, Way(Transport.PIPE), Way(Transport.TCP), *([Way(Transport.REDIS)] if redis else [])]


def record(scenario: str, seconds: float, ways: Sequence[Way], redis: str | None = None) -> Trace:
    """A trace of about that length, on the ways given. Raises what channels raise, BadSpec."""
    if scenario not in SCENARIOS:
        raise BadSpec(f"scenario {scenario!r} cannot be recorded: use {', '.join(SCENARIOS)}")
    phases = SCENARIOS[scenario]
    with ExitStack() as stack:
        roads = [stack.enter_context(road_of(way, redis)) for way in ways]
        busy = Busy()
        costs = _calibrated(roads, sorted({phase.size for phase in phases}), redis)
        blocks: list[Block] = []
        changes = []
        start = time.monotonic()
        for number, phase in enumerate(phases):
            until = start + seconds * (number + 1) / len(phases)
            with crowd(phase.crowded):
                if number:
                    changes.append(round(time.monotonic() - start, 6))
                while not blocks or time.monotonic() < until or blocks[-1].at < (changes or [0.0])[-1]:
                    rate = 1 / phase.pause if phase.pause else _fastest(costs, phase.size)
                    blocks.append(_block(roads, phase, start, busy, rate))
    about = {"recorded": scenario, **environment()}
    return Trace(f"{scenario}, recorded", costs, tuple(blocks), tuple(changes), about)


def _block(roads: Sequence[Road], phase: Phase, start: float, busy: Busy, rate: float) -> Block:
    """Stands for what an edge does in its time that has so many messages a second."""
    begin = time.monotonic()
    runs = [{road.way: road.run(phase.size, phase.pause) for road in roads} for _ in range(2)]
    end = time.monotonic()
    measured = {road.way: _both(*(run[road.way] for run in runs)) for road in roads}
    messages = max(1, round((end - begin) * rate))
    return Block(
        round(begin - start, 6), round(end - begin, 6), messages, float(phase.size), measured, _HERE, burst=0.0,
        others=busy.others(),
    )  # fmt: skip


def _both(one: Measured, other: Measured) -> Measured:
    latency = round((one.latency_ns + other.latency_ns) / 2, 1)
    return Measured(
        latency_ns=latency,
        cpu_ns=_mean(one.cpu_ns, other.cpu_ns, 1),
        contention=_mean(one.contention, other.contention, 3),
        parked=round((one.parked + other.parked) / 2, 3),
        rate=None if one.rate is None else rate_of(latency),
        halves=(one, other),
    )


def _mean(one: float | None, other: float | None, digits: int) -> float | None:
    return None if one is None or other is None else round((one + other) / 2, digits)


def _fastest(costs: Costs, size: int) -> float:
    """Of the way that was the best before the trace."""
    return rate_of(min(curve.latency_ns[curve.sizes.index(size)] for curve in costs.curves.values()))


# ---- what is known before ----


def _calibrated(roads: Sequence[Road], sizes: Sequence[int], redis: str | None) -> Costs:
    """As a calibration has it, and messages of these sizes as they are on these roads."""
    known = calibration.calibrate(redis)
    before = known.curves(redis)
    found: dict[tuple[Way, int], list[Measured]] = {}
    for _ in range(_FIRST_ROUNDS):
        for road in roads:
            for size in sizes:
                found.setdefault((road.way, size), []).append(road.run(size))
    curves = {
        road.way: replace(
            before[road.way],
            sizes=tuple(map(float, sizes)),
            # Of runs that nobody disturbed: what others on the cores do to a way is known apart from this.
            latency_ns=tuple(median(one.latency_ns for one in found[road.way, size][3:]) for size in sizes),
            stream_ns=(),
            cpu_ns=(),
            error=0.1,
        )
        for road in roads
    }
    for road in roads:
        latencies = zip(sizes, curves[road.way].latency_ns, strict=True)
        for size, latency in latencies:
            road.knows(size, latency)
    transports = {road.way.transport for road in roads}
    switch = {kind: took.ns for kind, took in known.switches.items() if kind in transports}
    costs = calibration.costs(redis)
    return replace(costs, wake=known.wake, curves=curves, switch=switch, cores=len(os.sched_getaffinity(0)))
