"""Records a trace for policies: real messages between two threads, by every way in turn, while something changes.

A block has two short runs on each way, in turn, so that all of them meet the same time, and the noise of one half is
not in the other. In a run each message waits for the one before it to be answered, with C at both ends. Where the
receiver is on another node, only ways that lead there are measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from statistics import median

from .. import calibration
from ..errors import BadSpec
from ..modes import EdgeFacts, Locality, Mode, Transport, mode_of
from ..neighbour import neighbours
from ..policy import Cores, Costs, Way
from ..policy.trace import Block, Measured, Trace
from .busy import Busy
from .environment import environment
from .road import LARGEST, Road, rate_of, road_of
from .wire import Wire, a_wire

SMALL, MIDDLE, LARGE = 64, 1024, LARGEST
_FIRST_ROUNDS = 40
"""Before the trace begins: what a calibration would know."""
_FAR = Locality.ELSEWHERE
_SLOW_DELAY, _SLOW_RATE = 0.002, 8e6
"""Seconds, and bytes a second, of a network that got worse."""


class Network(Enum):
    """What is between two nodes."""

    NONE = auto()
    """The loopback."""
    GOOD = auto()
    SLOW = auto()


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a recording."""

    size: int = SMALL
    crowded: bool = False
    """Another process wants one of the cores all the time."""
    pause: float = 0.0
    """Seconds from an answer to the next message."""
    place: Locality = Locality.PROCESS
    """Where the receiver is."""
    network: Network = Network.NONE
    """Between it and the sender."""


_SELDOM = Phase(pause=0.002)
_LINKED = Phase(MIDDLE, place=_FAR, network=Network.GOOD)
SCENARIOS: dict[str, tuple[Phase, ...]] = {
    "steady": (Phase(),),
    "bursty": (_SELDOM, Phase()) * 4,
    "size-shift": (Phase(SMALL), Phase(LARGE), Phase(SMALL)),
    "contention": (Phase(), Phase(crowded=True), Phase()),
    "link": (_LINKED, replace(_LINKED, network=Network.SLOW), _LINKED),
    "migration": (Phase(), Phase(place=_FAR), Phase()),
}


def usable_ways(redis: str | None) -> list[Way]:
    """What can be measured here. redis: a server's URL."""
    ways = [Way(Transport.RING), Way(Transport.RING, Cores.ONE)]
    if len(os.sched_getaffinity(0)) > 1:
        ways.append(Way(Transport.RING, Cores.TWO))
    return [*ways, Way(Transport.PIPE), Way(Transport.TCP), *([Way(Transport.REDIS)] if redis else [])]


def record(scenario: str, seconds: float, ways: Sequence[Way], redis: str | None = None) -> Trace:
    """A trace of about that length, on the ways given. Raises what channels raise, BadSpec, Unavailable."""
    if scenario not in SCENARIOS:
        raise BadSpec(f"scenario {scenario!r} cannot be recorded: use {', '.join(SCENARIOS)}")
    phases = SCENARIOS[scenario]
    sizes = sorted({phase.size for phase in phases})
    if not all(any(_leads(way, phase.place) for way in ways) for phase in phases):
        raise BadSpec(f"scenario {scenario!r} needs a way to another node: tcp, or redis")
    with ExitStack() as stack:
        wire = stack.enter_context(a_wire()) if any(phase.network is not Network.NONE for phase in phases) else None
        usable = [way for way in ways if any(_leads(way, phase.place) for phase in phases)]
        roads = [stack.enter_context(road_of(way, redis)) for way in usable]
        costs = _calibrated(roads, sizes, redis)
        if wire is not None:
            roads = [_over(wire, road, sizes, stack) for road in roads]
        blocks: list[Block] = []
        changes = []
        start = time.monotonic()
        for number, phase in enumerate(phases):
            until = start + seconds * (number + 1) / len(phases)
            taken = [road for road in roads if _leads(road.way, phase.place)]
            if wire is not None:
                wire.becomes(*((_SLOW_DELAY, _SLOW_RATE) if phase.network is Network.SLOW else ()))
            others = neighbours([max(os.sched_getaffinity(0))] if phase.crowded else [])
            with others as beside, closing(Busy(beside)) as busy:
                if number:
                    changes.append(round(time.monotonic() - start, 6))
                while not blocks or time.monotonic() < until or blocks[-1].at < (changes or [0.0])[-1]:
                    blocks.append(_block(taken, phase, start, busy))
    about = {"recorded": scenario, **environment()}
    return Trace(f"{scenario}, recorded", costs, tuple(blocks), tuple(changes), about)


def _leads(way: Way, place: Locality) -> bool:
    """Whether it leads to there."""
    return place is Locality.PROCESS or mode_of(way.transport, place) is Mode.REMOTE


def _over(wire: Wire, road: Road, sizes: Sequence[int], stack: ExitStack) -> Road:
    """The same way by a wire, if it is one that goes directly. A server is reached as before."""
    if road.way.transport is not Transport.TCP:
        return road
    far = stack.enter_context(road_of(road.way, None, wire))
    for size in sizes:
        far.knows(size, median(far.run(size).latency_ns for _ in range(_FIRST_ROUNDS)))
    return far


def _block(roads: Sequence[Road], phase: Phase, start: float, busy: Busy) -> Block:
    """Stands for what an edge does in its time whose messages come with these pauses, or as fast as the best way
    usually carries them.
    """
    begin = time.monotonic()
    runs = [
        {road.way: busy.beside(partial(road.run, phase.size, phase.pause)) for road in roads} for _ in range(2)
    ]
    end = time.monotonic()
    unknown = busy.unknown()
    measured = {road.way: _both(*(_beside(run[road.way], unknown) for run in runs)) for road in roads}
    rate = 1 / phase.pause if phase.pause else rate_of(min(road.usual_ns[phase.size] for road in roads))
    seen = next((found for road in roads if (found := road.network)), None) if phase.place is _FAR else None
    return Block(
        round(begin - start, 6), round(end - begin, 6), max(1, round((end - begin) * rate)), float(phase.size),
        measured, EdgeFacts(phase.place), burst=0.0,
        srtt_ns=None if seen is None else seen.srtt_ns,
        bytes_per_second=None if seen is None else seen.bytes_per_second,
    )  # fmt: skip


def _beside(one: Measured, unknown: float) -> Measured:
    """With what others took that we have not started."""
    return replace(one, others=round((one.others or 0.0) + unknown, 3))


def _both(one: Measured, other: Measured) -> Measured:
    latency = round((one.latency_ns + other.latency_ns) / 2, 1)
    return Measured(
        latency_ns=latency,
        cpu_ns=_mean(one.cpu_ns, other.cpu_ns, 1),
        contention=_mean(one.contention, other.contention, 3),
        parked=round((one.parked + other.parked) / 2, 3),
        rate=None if one.rate is None else rate_of(latency),
        others=_mean(one.others, other.others, 3),
        halves=(one, other),
    )


def _mean(one: float | None, other: float | None, digits: int) -> float | None:
    return None if one is None or other is None else round((one + other) / 2, digits)


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
