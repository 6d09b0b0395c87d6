"""What the model says of all ways that are left for an edge; made anew only where that may have changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..metrics import Observation
from ..modes import Transport
from .costs import SIZES, Costs
from .decision import Objective, Request, ruled_out_way
from .history import kind_of
from .model import Conditions, Estimate, estimate, ways_of
from .way import Way

_UNKNOWN_SWITCH_NS = 1e6
"""What a switch to a transport takes, where nobody has measured it."""
_PLACE_NS = 50_000.0
"""What it takes to have the threads on other cores."""

_OF_CALLS = (Transport.PIPE, Transport.TCP)


class Outlook(NamedTuple):
    """Of one edge under given conditions."""

    asked: tuple[Any, ...]
    """All of the request that the constraints and the objective come from."""
    costs: Costs
    conditions: Conditions
    kind: int
    """The class of size."""
    ways: tuple[Way, ...]
    """Those that are possible."""
    cost_ns: tuple[float, ...]
    """Of each, what the objective makes of a message."""
    estimates: tuple[Estimate, ...]

    def holds(self, costs: Costs, request: Request, conditions: Conditions) -> bool:
        """Whether it would be the same if it was made now."""
        return self.conditions is conditions and self.costs is costs and self.asked == asked_of(request)

    @property
    def objective(self) -> Objective:
        """What the costs are weighed by."""
        found: Objective = self.asked[_OBJECTIVE]
        return found

    def kind_at(self, index: int) -> int:
        """The kind of conditions on that way."""
        return self.kind + len(SIZES) * self.estimates[index].level

    def place(self, way: Way | None) -> int | None:
        """Where it stands among the ways."""
        for index, one in enumerate(self.ways):
            if one is way:   # as a rule; comparing takes longer
                return index
        return self.ways.index(way) if way in self.ways else None


def asked_of(request: Request) -> tuple[Any, ...]:
    """What `possible` depends on, to compare quickly."""
    pinned = request.current if request.pinned else None
    return (
        request.facts, request.ways, request.available, request.limits, request.objective, request.mode,
        request.transport, request.receivers, request.missing, pinned,
    )  # fmt: skip


_OBJECTIVE = 4
"""Where it stands in that."""


def look(costs: Costs, request: Request, conditions: Conditions, old: Outlook | None) -> Outlook:
    """The outlook of an edge. old: the last one."""
    asked = asked_of(request)
    if old is not None and old.costs is costs and old.asked == asked:
        if old.conditions is conditions:
            return old
        ways = old.ways
    else:
        ways = tuple(way for way in ways_of(request.ways) if ruled_out_way(request, way) is None)
    found = tuple([estimate(costs, way, conditions) for way in ways])
    return Outlook(
        asked,
        costs,
        conditions,
        kind_of(conditions),
        ways,
        tuple([weighed(request.objective, one) for one in found]),
        found,
    )


def weighed(objective: Objective, found: Estimate) -> float:
    """The cost of a message, ns."""
    return (
        objective.latency * found.latency + objective.throughput * found.stream + objective.cpu * found.cpu
    )


def measured_ns(
    objective: Objective, observation: Observation, found: Estimate, transport: Transport
) -> float | None:
    """What the objective makes of what was measured, and of the model for the rest; None without a latency.

    Where only the time in a stream counts: at least what its system calls take, on a transport that is made of them.
    """
    if observation.latency_ns is None:
        calls = observation.syscalls_ns
        if calls is None or objective.latency or objective.cpu or transport not in _OF_CALLS:
            return None
        return objective.throughput * max(calls, found.stream)
    if not objective.cpu and not objective.throughput:
        return objective.latency * observation.latency_ns
    cpu = found.cpu if observation.cpu_ns is None else observation.cpu_ns
    # Who asks for throughput alone says by "latency" what one of a stream took.
    stream = found.stream if objective.latency else observation.latency_ns
    return weighed(objective, Estimate(observation.latency_ns, stream, cpu, 0.0))


def switch_ns(costs: Costs, source: Way | None, target: Way) -> float:
    """What it takes to go from one way to another."""
    if source is None or source == target:
        return 0.0
    if source.transport is target.transport:
        return _PLACE_NS
    return costs.switch.get(target.transport, _UNKNOWN_SWITCH_NS)
