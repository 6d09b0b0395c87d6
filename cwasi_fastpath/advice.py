"""What a steward knows of its host's channels, and what can be asked of that: what the policy is told, why a channel
goes as it goes, and what would be if things were otherwise.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from .channel import Channel, Edge
from .cpu import usable_cores
from .errors import BadSpec
from .explanation import Explanation, WhatIf, explained, what_if
from .guest import Guest
from .kept import Kept, Steered, functions_of, placed_ways
from .modes import EdgeFacts, Transport
from .named_channel import NamedChannel
from .policy import Decision, Limits, Objective, Policy, Request, Way
from .policy.decision import available
from .spanned import SpannedChannel

_CLOCKS = "two nodes have two clocks: how long a message took is not seen, but for the network's part"


class Stewarded(Protocol):
    """A host."""

    policy: Policy
    redis: str | None
    objective: Objective
    limits: Limits

    @property
    def channels(self) -> Sequence[Channel]:
        """All that were opened there."""

    def running(self) -> Mapping[str, Guest]:
        """The guests that run, by name."""

    def facts_of(self, channel: Channel) -> Mapping[Edge, EdgeFacts] | None:
        """Of every edge; None where an end is in another process."""

    def change(self, channel: Steered, decision: Decision, timeout: float) -> None:
        """Takes it to another transport. Raises what Host.switch raises."""


class Advice:
    """Of one host."""

    def __init__(self, host: Stewarded, cores: int, lacks: Callable[[float, Iterable[str]], tuple[str, ...]]) -> None:
        """cores: on which guests may run. lacks: what nobody observes of functions, at a time."""
        self._host = host
        self._lacks = lacks
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, type], Kept] = {}
        """By name and kind of channel."""
        # Made once: a policy that is asked often sees at once that they are the same.
        self._offered = available(host.redis)
        self._free = frozenset(map(Way, self._offered))
        self._placed = self._free | placed_ways(min(cores, math.floor(usable_cores())))

    def known(self, channel: Steered) -> Kept | None:
        """What is remembered of a channel; None of one that a host has made and of which not all ends are here."""
        with self._lock:
            key = channel.name, type(channel)
            kept = self._kept.get(key)
            if kept is None or kept.channel is not channel:
                kept = self._begun_by_name(channel) if isinstance(channel, NamedChannel) else self._begun(channel)
                if kept is not None:
                    self._kept[key] = kept
            return kept

    def _begun(self, channel: Channel | SpannedChannel) -> Kept | None:
        facts = self._host.facts_of(channel) if isinstance(channel, Channel) else channel.facts
        if facts is None:
            return None
        strictest = min(facts.values(), key=lambda one: (one.same_user, one.same_trust))
        receivers = len({receiver for _, receiver in channel.decisions})
        wanted = channel.wanted if isinstance(channel, SpannedChannel) else None
        return Kept(channel, strictest, receivers, self._offered, self._free, functions_of(channel), wanted)

    def _begun_by_name(self, channel: NamedChannel) -> Kept:
        ways = frozenset(map(Way, channel.offered))
        return Kept(channel, channel.facts, 1, channel.offered, ways)

    def request(self, kept: Kept, now: float) -> Request:
        """What the policy is asked."""
        seen = kept.observation
        if kept.queued and seen is not None:
            seen = replace(seen, latency_ns=None)   # it is of the queue, and what fills that are the guests
        by_name = kept.channel if isinstance(kept.channel, NamedChannel) else None   # its receiver may have moved
        return Request(
            facts=kept.facts if by_name is None else by_name.facts,
            observation=seen,
            mode=kept.wanted,
            available=kept.offered,
            receivers=kept.receivers,
            missing=kept.channel.missing,
            ways=self._placed if kept.leads else kept.ways,
            current=kept.way,
            history=kept.history,
            now=now,
            objective=kept.objective(self._host.objective),
            limits=self._host.limits,
            pinned=bool(kept.channel.pinned),
            lacked=self._lacked_of(kept, now),
        )

    def _lacked_of(self, kept: Kept, now: float) -> tuple[str, ...]:
        return (*self._lacks(now, kept.functions), *((_CLOCKS,) if kept.far else ()))

    def explain(self, channel: Steered) -> Explanation | None:
        """Of a channel all of whose ends are here, or whose sender is, or whose ends are in processes of ours."""
        kept = self.known(channel)
        if kept is None:
            return None
        now = time.monotonic()
        told = Explanation(
            channel=channel.name,
            way=str(kept.way),
            mode=str(channel.mode),
            pinned=channel.pinned,
            changes=kept.changes,
            seconds=None if kept.changed_at is None else now - kept.changed_at,
            observation={} if kept.observation is None else asdict(kept.observation),
            age_seconds=None if kept.observed_at is None else now - kept.observed_at,
            lacked=self._lacked_of(kept, now),
            queued=kept.queued,
            trouble=kept.trouble or _silence(kept, now),
            network=_of_network(kept, now),
        )
        return explained(self._host.policy, self.request(kept, now), told, channel.decision)

    def what_if(self, channel: Steered, wish: WhatIf) -> dict[str, Any]:
        """What it costs, and what it would cost. Raises BadSpec."""
        kept = self.known(channel)
        if kept is None:
            raise BadSpec(f"channel {channel.name!r}: not all of its ends are in this process")
        return what_if(self._host.policy, self.request(kept, time.monotonic()), wish)


def _silence(kept: Kept, now: float) -> str:
    """Who does not tell what its ends have counted, in words: the last choice is held as long."""
    return "; ".join(kept.channel.lacks(now)) if isinstance(kept.channel, SpannedChannel) else ""


def _of_network(kept: Kept, now: float) -> str:
    """In words."""
    if kept.network is None:
        return ""
    if kept.channel.transport is Transport.TCP:
        return str(kept.network)
    how = "sounded" if kept.known.by_sounding else "seen"
    return f"{kept.network}, {how} {kept.known.age(now) or 0.0:.1f} s ago"
