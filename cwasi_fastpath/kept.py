"""What a steward remembers of a channel, and which channels belong together. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .channel import Channel
from .endpoint import Endpoint
from .guest import Guest
from .metrics import Observation
from .modes import EdgeFacts, Locality, Mode, Transport
from .named_channel import Counted, NamedChannel
from .policy import Cores, EdgeHistory, Objective, Way
from .policy.known_network import KnownNetwork
from .policy.way import way_of
from .spanned import SpannedChannel
from .transport.tcp_info import Network

_MESSAGES, _SECONDS = 1000, 10.0
"""That a channel is looked at on a way, whichever comes first, before it leaves that."""
_SURE = 2
"""Windows in a row that tell that messages are queued, or are no longer."""
_TRIALS = 100
"""That a policy may remember; there are fewer ways."""


Steered = Channel | NamedChannel | SpannedChannel
"""What a steward looks after: a channel of whose host it has all ends, one by name of which it has the sender, or one
between processes that this one has started.
"""


@dataclass(slots=True)
class Kept:
    """What is remembered of a channel."""

    channel: Steered
    facts: EdgeFacts
    receivers: int
    offered: frozenset[Transport]
    ways: frozenset[Way]
    """The same, where the kernel places the threads."""
    functions: frozenset[str] = frozenset()
    """At its ends, where a host has made it."""
    wanted: Mode | None = None
    """Only transports of this mode, where the user asks for one."""
    ends: tuple[Endpoint, ...] = ()
    senders: int = 0
    """How many of the ends send; these come first."""
    pair: tuple[Guest, ...] = ()
    """Its two guests, if they have channels with nobody else."""
    leads: bool = False
    """It is the channel that decides on their cores."""
    cores: Cores = Cores.FREE
    places: tuple[int, ...] = ()
    """The cores that its guests are kept to."""
    history: EdgeHistory = field(default_factory=EdgeHistory)
    """What its policy remembers, which may be anybody's: what stands in it may be anything."""
    new: bool = True
    """By that, its last window was unlike those before."""
    counted: Counted | None = None
    """What was sent and what was received at the last look at which both were known, or until which nothing was."""
    waits: bool = False
    """It was busy since, and others had their turn first."""
    full: int = 0
    """Windows in a row in which messages were queued; or, below 0, were not."""
    queued: bool = False
    """They have been for some time."""
    stream: Objective | None = None
    """What is to be small then."""
    known: KnownNetwork[Network] = field(default_factory=KnownNetwork)
    observation: Observation | None = None
    observed_at: float | None = None
    began_at: float | None = None
    """When it was first seen on its way,"""
    met: int = 0
    """and the messages since then."""
    changes: int = 0
    changed_at: float | None = None
    not_before: float = 0.0
    failures: int = 0
    trouble: str = ""
    """Why the last choice is held, where something went wrong."""

    def met_network(self, found: Network | None, now: float, far: bool) -> None:
        """See KnownNetwork.met()."""
        self.known.met(found, now, far)

    @property
    def network(self) -> Network | None:
        """What is known of it, for people."""
        seen = self.known.seen
        return None if seen is None else replace(seen, bytes_per_second=self.known.gives)

    def begins_to_wait(self, before: float) -> None:
        """Until its turn. before: when its ends had counted nothing new, if it did not wait by then."""
        if not self.waits and self.counted is not None and isinstance(self.channel, Channel):
            self.counted = self.counted._replace(at=before)
        self.waits = True

    def saw(self, seen: Observation, now: float) -> None:
        """In one more window."""
        self.observation, self.observed_at = seen, now
        self.began_at = now if self.began_at is None else self.began_at
        self.met += seen.messages

    def remember(self, history: EdgeHistory) -> None:
        """As its policy says. Raises ValueError and more for what we could not go on with; then nothing has changed."""
        if not isinstance(history.trials, tuple) or len(history.trials) > _TRIALS:
            raise ValueError(f"its history has no more than {_TRIALS} trials, in a tuple")
        self.new, self.history = not history.idle, history

    def switched(self, way: Way, now: float) -> None:
        """It has gone to that way; which its policy forgets all else for, if it remembers nonsense."""
        try:
            self.history = self.history.switched(now, way)
        except Exception:
            self.history = EdgeHistory().switched(now, way)

    def settled(self, now: float) -> bool:
        """Whether it is known well enough to be changed; a run of a few messages never is, but where the way was a
        mistake, or is only tried to see how its network is.
        """
        long = self.began_at is not None and now - self.began_at >= _SECONDS
        brief = self.history.bars(self.way, now) or self.history.looks(self.way, now)
        return now >= self.not_before and (long or brief or self.met >= _MESSAGES)

    def counts_as_full(self, full: bool) -> None:
        """For one window; after the first a single one changes nothing."""
        first = self.full == 0
        self.full = max(0, self.full) + 1 if full else min(0, self.full) - 1
        if first or abs(self.full) >= _SURE:
            self.queued = full

    def objective(self, wish: Objective) -> Objective:
        """What is to be small. In a full queue it is not the latency, which a smaller queue would make less, but the
        time of one message in a stream.
        """
        if not self.queued:
            return wish
        if self.stream is None or self.stream.throughput != wish.throughput + wish.latency:
            self.stream = replace(wish, latency=0.0, throughput=wish.throughput + wish.latency)
        return self.stream

    @property
    def far(self) -> bool:
        """Whether its receiver is on another node."""
        return isinstance(self.channel, NamedChannel) and self.channel.facts.locality is Locality.ELSEWHERE

    @property
    def mixed(self) -> bool:
        """Whether its senders go by different transports: a change has failed in the middle."""
        return not isinstance(self.channel, NamedChannel) and self.channel.mixed

    @property
    def way(self) -> Way:
        """In use."""
        return way_of(self.channel.transport, self.cores)


def placed_ways(cores: int) -> frozenset[Way]:
    """The ways of two guests with so many cores."""
    kinds = [Cores.ONE, *([Cores.TWO] if cores > 1 else [])]
    return frozenset(Way(Transport.RING, kind) for kind in kinds)


def functions_of(channel: Channel | SpannedChannel) -> frozenset[str]:
    """Those at its ends."""
    return frozenset(name for edge in channel.decisions for name in edge)


def pairs_of(channels: Iterable[Channel | SpannedChannel]) -> set[frozenset[str]]:
    """Two functions each, which have channels with each other and with nobody else."""
    together = {functions_of(channel) for channel in channels}
    met = Counter(name for one in together for name in one)
    return {one for one in together if len(one) == 2 and all(met[name] == 1 for name in one)}


def answered(kept: Kept, seen: Observation, busy: Sequence[tuple[Kept, Observation]]) -> bool:
    """Whether each of its messages waits for an answer to the one before: as many come back between its two guests."""
    return bool(kept.pair) and any(
        other.pair == kept.pair
        and _opposite(other.channel, kept.channel)
        and abs(back.messages - seen.messages) <= 0.05 * seen.messages + 2
        for other, back in busy
        if other is not kept
    )


def _opposite(one: Steered, other: Steered) -> bool:
    return (
        isinstance(one, Channel) and isinstance(other, Channel) and one.senders.keys() == other.receivers.keys()
    )
