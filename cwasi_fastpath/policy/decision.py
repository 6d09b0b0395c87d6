"""What a policy is asked and what it answers, and the constraints that hold for every policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from .. import errors
from ..metrics import Observation
from ..modes import EdgeFacts, Locality, Mode, Transport, mode_of, nearest_mode

RECEIVERS_MAX = 60
"""Of one sender, where no server has the messages for all of them: CWASI_READERS_MAX of the data plane."""


@dataclass(frozen=True, slots=True)
class Request:
    """One edge for which a transport is wanted."""

    facts: EdgeFacts
    observation: Observation | None = None
    """None before anything was measured."""
    mode: Mode | None = None
    """Only transports of this mode, where the user asks for one."""
    transport: Transport | None = None
    """Only this transport, where the user asks for one."""
    available: frozenset[Transport] = field(default=frozenset({Transport.RING, Transport.PIPE, Transport.TCP}))
    """What this host can offer; redis only where a server is known."""
    receivers: int = 1
    """How many the sender has on this channel: what carries its messages is the same for all of them."""
    missing: Mapping[Transport, str] = field(default_factory=dict, hash=False)
    """What of that is not there for this edge, and why."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice with its reason."""

    mode: Mode
    transport: Transport
    reason: str
    alternatives: tuple[str, ...] = ()
    """A line for each transport that was not chosen: its predicted cost, or what ruled it out."""

    def explain(self) -> str:
        """All of it as text."""
        lines = [f"{self.mode}, {self.transport}: {self.reason}"]
        return "\n".join([*lines, *(f"  not {line}" for line in self.alternatives)])


class Policy(Protocol):
    """Chooses among the transports that the constraints leave."""

    def decide(self, request: Request) -> Decision | None:
        """None where no transport is left; ruled_out() then says why."""


def ruled_out(request: Request, transport: Transport) -> str | None:
    """The constraint that forbids `transport` for this edge, or None."""
    facts = request.facts
    mode = mode_of(transport, facts.locality)
    if transport not in request.available:
        return "no server is configured (give a Redis URL)" if transport is Transport.REDIS else "not available"
    if transport in request.missing:
        return request.missing[transport]
    if not facts.same_user and mode is not Mode.REMOTE:
        return "the functions belong to different users"
    if facts.locality is Locality.ELSEWHERE and mode is not Mode.REMOTE:
        return "the peer is on another node"
    if not facts.same_trust and transport is Transport.RING:
        return "the functions are in different trust domains and may not share memory"
    if request.receivers > RECEIVERS_MAX and transport is not Transport.REDIS:
        return f"it has at most {RECEIVERS_MAX} receivers, not {request.receivers}"
    if request.mode is not None and mode is not request.mode:
        if request.mode < nearest_mode(facts.locality):
            return f"{request.mode} was asked for, but the peer is {facts.locality}"
        return f"{request.mode} was asked for, and this would be {mode}"
    if request.transport is not None and transport is not request.transport:
        return f"{request.transport} was asked for"
    return None


def for_several(requests: Sequence[Request]) -> Transport:
    """The best that all edges of a channel with several receivers can have; the last where there is none."""
    kinds = list(Transport)   # the better first
    possible = [kind for kind in kinds if all(ruled_out(request, kind) is None for request in requests)]
    return possible[0] if possible else kinds[-1]


def available(redis: str | None) -> frozenset[Transport]:
    """What a host has to offer. redis: the URL of a server, if it knows one."""
    return frozenset(kind for kind in Transport if kind is not Transport.REDIS or redis)


def decide(
    policy: Policy,
    facts: EdgeFacts,
    what: str,
    *,
    mode: Mode | None = None,
    asked: Transport | None = None,
    redis: str | None = None,
    observation: Observation | None = None,
    receivers: int = 1,
    missing: Mapping[Transport, str] = MappingProxyType({}),
) -> Decision:
    """Asks the policy for one edge. what: names the edge. missing: what this edge cannot have of what a host has.

    Raises NoTransport with every obstacle.
    """
    request = Request(facts, observation, mode, asked, available(redis), receivers, missing)
    decision = policy.decide(request)
    if decision is not None and (obstacle := ruled_out(request, decision.transport)) is not None:
        raise errors.NoTransport(f"{what}: the policy chose {decision.transport}, which cannot be: {obstacle}")
    if decision is None:
        obstacles = "; ".join(f"{kind}: {ruled_out(request, kind)}" for kind in Transport)
        raise errors.NoTransport(f"{what}: nothing can carry it. {obstacles}")
    return decision
