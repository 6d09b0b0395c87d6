"""What a policy is asked and what it answers, and the constraints that hold for every policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from .. import errors
from ..metrics import Observation
from ..modes import EdgeFacts, Locality, Mode, Transport, mode_of, nearest_mode
from .way import Cores, Way

if TYPE_CHECKING:
    from .history import EdgeHistory
    from .model import Prediction

RECEIVERS_MAX = 60
"""Of one sender, where no server has the messages for all of them: CWASI_READERS_MAX of the data plane."""

RING_BYTES = 4 << 20
"""What a ring takes of memory."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What is to be small, each a weight: the cost of a message is their weighted sum, ns."""

    latency: float = 1.0
    """The time from send to receipt."""
    throughput: float = 0.0
    """The time of a message in a stream of them."""
    cpu: float = 0.0
    """The time of both ends on their cores."""

    def __post_init__(self) -> None:
        weights = (self.latency, self.throughput, self.cpu)
        if not all(0 <= weight < inf for weight in weights) or not any(weights):
            raise errors.BadSpec(f"weights of an objective are numbers from 0, one of them above; not {weights}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold, whatever it costs."""

    durable: bool = False
    """Messages outlive the processes: only a server has them."""
    isolated: bool = False
    """The ends share no memory."""
    memory_bytes: int | None = None
    """What a transport may take."""


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
    ways: frozenset[Way] = frozenset()
    """What this host can place; empty: every transport, its threads where the kernel puts them."""
    current: Way | None = None
    """In use now; None before the channel is made."""
    history: EdgeHistory | None = None
    """What was learnt of the edge so far."""
    now: float = 0.0
    """When this is asked, in the seconds of any clock that the history has, too."""
    objective: Objective = Objective()
    limits: Limits = Limits()
    pinned: bool = False
    """The user wants what is in use to stay."""
    lacked: tuple[str, ...] = ()
    """What could not be observed here, and why: "no tracer", ..."""

    def obstacle(self, way: Way) -> str | None:
        """The constraint that forbids `way` for this edge, or None: a policy may choose it."""
        return ruled_out_way(self, way)


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice with its reason."""

    mode: Mode
    transport: Transport
    reason: str
    alternatives: tuple[str, ...] = ()
    """A line for each transport that was not chosen: its predicted cost, or what ruled it out."""
    cores: Cores = Cores.FREE
    predictions: tuple[Prediction, ...] = ()
    """Of each way, that which was chosen too: its cost and interval, or what ruled it out."""
    basis: str = ""
    """The observations that were used, and how old they are."""
    lacked: tuple[str, ...] = ()
    """What was not known, and would have told more."""

    @classmethod
    def for_way(cls, request: Request, way: Way, reason: str) -> Self:
        """The choice of `way` for this edge."""
        return cls(mode_of(way.transport, request.facts.locality), way.transport, reason, cores=way.cores)

    @property
    def way(self) -> Way:
        """The transport and its cores."""
        return Way(self.transport, self.cores)

    def explain(self) -> str:
        """All of it as text."""
        lines = [f"{self.mode}, {self.transport}: {self.reason}"]
        return "\n".join([*lines, *(f"  not {line}" for line in self.alternatives)])


class Policy(ABC):
    """Chooses among the ways that the constraints leave. Pure: all that it may use is in the request."""

    @abstractmethod
    def decide(self, request: Request) -> Decision | None:
        """None where no transport is left; ruled_out() then says why."""

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        """A window of an edge in use is over: request.observation is of it, request.history of what was before.

        The history with that window in it, and the way to be on from now on. A host calls this often, and `decide` with
        that history where it then differs from the way in use, or somebody wants it explained.
        """
        from .history import EdgeHistory

        history = (request.history or EdgeHistory()).observed(request.now, request.observation, None)
        decision = self.decide(replace(request, history=history))
        return history, None if decision is None else decision.way


def ruled_out_way(request: Request, way: Way) -> str | None:
    """The constraint that forbids `way` for this edge, or None."""
    if (obstacle := ruled_out(request, way.transport)) is not None:
        return obstacle
    if request.pinned and request.current is not None and way != request.current:
        return f"pinned to {request.current} by the user"
    if (request.ways and way not in request.ways) or (not request.ways and way.cores is not Cores.FREE):
        return "the threads of its ends cannot be placed from here"
    return None


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
    limits = request.limits
    if limits.durable and transport is not Transport.REDIS:
        return "messages are to be durable"
    if limits.isolated and transport is Transport.RING:
        return "the ends may not share memory"
    if limits.memory_bytes is not None and transport is Transport.RING and limits.memory_bytes < RING_BYTES:
        return f"it takes {RING_BYTES >> 20} MiB of memory, over the limit"
    if request.pinned and request.current is not None and transport is not request.current.transport:
        return f"pinned to {request.current} by the user"
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
    objective: Objective | None = None,
    limits: Limits | None = None,
) -> Decision:
    """Asks the policy for one edge. what: names the edge. missing: what this edge cannot have of what a host has.

    Raises NoTransport with every obstacle.
    """
    request = Request(
        facts, observation, mode, asked, available(redis), receivers, missing,
        objective=objective or Objective(), limits=limits or Limits(),
    )  # fmt: skip
    decision = policy.decide(request)
    if decision is not None and (obstacle := ruled_out(request, decision.transport)) is not None:
        raise errors.NoTransport(f"{what}: the policy chose {decision.transport}, which cannot be: {obstacle}")
    if decision is None:
        obstacles = "; ".join(f"{kind}: {ruled_out(request, kind)}" for kind in Transport)
        raise errors.NoTransport(f"{what}: nothing can carry it. {obstacles}")
    return decision
