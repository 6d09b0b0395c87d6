"""What a steward knows of its host's channels, and what can be asked of that: what the policy is told, why a channel
goes as it goes, and what would be if things were otherwise.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from .channel import Channel, Edge
from .cpu import usable_cores
from .errors import BadSpec
from .explanation import Explanation, WhatIf, alternatives, what_if
from .guest import Guest
from .kept import Kept, placed_ways
from .modes import EdgeFacts
from .policy import Limits, Objective, Policy, Request, Way
from .policy.decision import available


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

    def change(self, channel: Channel, target: str, timeout: float) -> None:
        """Takes it to another transport. Raises what Host.switch raises."""


class Advice:
    """Of one host."""

    def __init__(self, host: Stewarded, cores: int, lacked: tuple[str, ...]) -> None:
        """cores: on which guests may run. lacked: what nobody observes for it."""
        self._host = host
        self._lacked = lacked
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        # Made once: a policy that is asked often sees at once that they are the same.
        self._offered = available(host.redis)
        self._free = frozenset(map(Way, self._offered))
        self._placed = self._free | placed_ways(min(cores, math.floor(usable_cores())))

    def known(self, channel: Channel) -> Kept | None:
        """What is remembered of a channel; None where not all of its ends are here."""
        with self._lock:
            kept = self._kept.get(channel.name)
            if kept is None or kept.channel is not channel:
                facts = self._host.facts_of(channel)
                if facts is None:
                    return None
                strictest = min(facts.values(), key=lambda one: (one.same_user, one.same_trust))
                kept = Kept(channel, strictest, len({receiver for _, receiver in channel.decisions}))
                self._kept[channel.name] = kept
            return kept

    def request(self, kept: Kept, now: float) -> Request:
        """What the policy is asked."""
        seen = kept.observation
        if kept.queued and seen is not None:
            seen = replace(seen, latency_ns=None)   # it is of the queue, and what fills that are the guests
        return Request(
            facts=kept.facts,
            observation=seen,
            available=self._offered,
            receivers=kept.receivers,
            ways=self._placed if kept.leads else self._free,
            current=kept.way,
            history=kept.history,
            now=now,
            objective=kept.objective(self._host.objective),
            limits=self._host.limits,
            pinned=bool(kept.channel.pinned),
            lacked=self._lacked,
        )

    def explain(self, channel: Channel) -> Explanation | None:
        """Of a channel all of whose ends are here."""
        kept = self.known(channel)
        if kept is None:
            return None
        now = time.monotonic()
        request, decision, trouble = self.request(kept, now), channel.decision, kept.trouble
        try:
            ways, fresh = alternatives(self._host.policy, request)
            if fresh is not None and fresh.way == kept.way and kept.observation is not None and not channel.pinned:
                decision = fresh
        except Exception as error:
            ways, trouble = (), trouble or f"the policy failed: {type(error).__name__}: {error}"
        return Explanation(
            channel=channel.name,
            way=str(kept.way),
            mode=str(channel.mode),
            reason=decision.reason,
            decision=decision.explain(),
            pinned=channel.pinned,
            changes=kept.changes,
            seconds=None if kept.changed_at is None else now - kept.changed_at,
            alternatives=ways,
            observation={} if kept.observation is None else asdict(kept.observation),
            age_seconds=None if kept.observed_at is None else now - kept.observed_at,
            lacked=tuple(dict.fromkeys((*self._lacked, *decision.lacked))),
            queued=kept.queued,
            trouble=trouble,
        )

    def what_if(self, channel: Channel, wish: WhatIf) -> dict[str, Any]:
        """What it costs, and what it would cost. Raises BadSpec."""
        kept = self.known(channel)
        if kept is None:
            raise BadSpec(f"channel {channel.name!r}: not all of its ends are in this process")
        return what_if(self._host.policy, self.request(kept, time.monotonic()), wish)
