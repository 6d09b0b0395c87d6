"""Policies to compare with: what others do, and what is fixed."""

from __future__ import annotations

from ..errors import BadSpec
from ..modes import Locality, Transport
from .cost import CostPolicy
from .costs import Costs
from .decision import Decision, Policy, Request
from .history import EdgeHistory
from .model import ASSUMED_BYTES
from .way import Cores, Way

NAMES = "cost, static, thresholds, always:WAY"


class _Preference(Policy):
    """Takes the first possible way of a list."""

    def decide(self, request: Request) -> Decision | None:
        """The first of these that can be, else the first of all that can."""
        rest = [Way(transport, cores) for transport in Transport for cores in Cores]
        for way in (*self.preferred(request), *rest):
            if request.obstacle(way) is None:
                return Decision.for_way(request, way, self.reason)
        return None

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        """It remembers nothing."""
        history, current = request.history or EdgeHistory(), request.current
        if current is None or self.preferred(request)[0] != current or request.obstacle(current) is not None:
            decision = self.decide(request)
            current = None if decision is None else decision.way
        return history, current

    reason = ""

    def preferred(self, request: Request) -> list[Way]:
        """The better first."""
        raise NotImplementedError


class StaticPolicy(_Preference):
    """By locality alone: shared memory on one node, the network between nodes."""

    reason = "by locality"

    def preferred(self, request: Request) -> list[Way]:
        if request.facts.locality is Locality.ELSEWHERE:
            return [Way(Transport.TCP)]
        return [Way(Transport.RING), Way(Transport.PIPE)]


class ThresholdPolicy(_Preference):
    """By fixed bounds, as somebody would set them once: large messages on one core, whose cache has them; small ones on
    two; and between nodes what is large through a server."""

    reason = "by the size of messages"

    def __init__(self, large: float = 65536.0) -> None:
        self.large = large

    def preferred(self, request: Request) -> list[Way]:
        seen = request.observation
        size = ASSUMED_BYTES if seen is None or not seen.messages else seen.mean_bytes
        if request.facts.locality is Locality.ELSEWHERE:
            return [Way(Transport.REDIS if size > self.large else Transport.TCP)]
        return [Way(Transport.RING, Cores.ONE if size > self.large else Cores.TWO), Way(Transport.RING)]


class AlwaysPolicy(_Preference):
    """One way, wherever it is possible; else by locality."""

    reason = "always"

    def __init__(self, way: Way) -> None:
        self.way = way

    def preferred(self, request: Request) -> list[Way]:
        return [self.way, *StaticPolicy().preferred(request)]


def policy_named(name: str, costs: Costs) -> Policy:
    """The policy of that name: see NAMES. Raises BadSpec."""
    if name == "cost":
        return CostPolicy(costs)
    if name == "static":
        return StaticPolicy()
    if name == "thresholds":
        return ThresholdPolicy()
    if name.startswith("always:"):
        return AlwaysPolicy(Way.parse(name.removeprefix("always:")))
    raise BadSpec(f"policy {name!r} is unknown: use {NAMES}")
