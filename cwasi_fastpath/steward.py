"""Asks the policy again while guests run, and does what it says: another transport, other cores.

One thread a host, as long as guests of it run. It looks at what the ends have counted, several times a second while
messages come, and takes no more than a 200th of a core for that. Nothing of it is on the path of a message. A channel
is changed as a whole; one that the user has chosen something for is left alone. Cores are chosen for two guests that
have channels with nobody else.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Protocol

from . import observing
from .channel import Channel, Edge
from .cpu import usable_cores
from .errors import BadSpec, Error
from .explanation import Explanation, WhatIf, alternatives, what_if
from .feed import Feed, with_told
from .guest import Guest
from .kept import Kept, functions_of, pairs_of, placed_ways, total
from .metrics import Observation
from .modes import EdgeFacts, Transport, mode_of
from .observing import Counts
from .placing import Load, Ran, last_core, ran, sets
from .policy import Cores, Decision, EdgeHistory, Limits, Objective, Policy, Request, Way
from .policy.decision import available, ruled_out_way

THREAD = "cwasi steward"
"""The name of the thread."""

QUICKEST, SLOWEST = 0.05, 1.0
"""Seconds between two looks: while messages come, and while none do."""
_SHARE = 0.005
"""Of a core, which it may take."""
_LONGEST = 30.0
_APART = 0.25
"""Seconds from one change of a channel to its next."""
_SWITCH_SECONDS = 0.5
"""For a switch; the guests may be done by then."""
_PATIENCE = 5.0
"""Seconds for the thread to end."""
_BACK_OFF = 60.0
_LONGEST_WORDS = 400
_THREADS = 64
"""Whose time in the run queue is looked at; with more guests than that it is not."""

_log = logging.getLogger(__name__)


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


class Steward:
    """Of one host."""

    def __init__(self, host: Stewarded) -> None:
        self._host = host
        self._feed = Feed()
        self._lock = threading.Lock()
        """Guards the thread, who needs it, and which channels are known."""
        self._needed = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._kept: dict[str, Kept] = {}
        self._active: list[Kept] = []
        """Those between guests that run."""
        self._running: frozenset[str] = frozenset()
        self._ran: dict[str, Ran] = {}
        """By guest."""
        self._looked_at: float | None = None
        self._usable = sorted(os.sched_getaffinity(os.getpid()))   # not of this thread alone
        self._load = Load(self._usable)
        # Made once: a policy that is asked often sees at once that they are the same.
        self._offered = available(host.redis)
        self._free = frozenset(map(Way, self._offered))
        self._placed = self._free | placed_ways(min(len(self._usable), math.floor(usable_cores())))

    # ---- its life ----

    def begin(self) -> None:
        """Guests begin to run. For each begin() an end() follows."""
        with self._lock:
            self._needed += 1
            if self._thread is None:
                self._stop = threading.Event()
                thread = threading.Thread(target=self._run, args=(self._stop,), name=THREAD, daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:
                    _log.warning("what was chosen stays: %s", error)

    def end(self) -> None:
        """They have ended. With the last of them the thread ends, before this returns, unless the policy hangs."""
        with self._lock:
            self._needed -= 1
            thread = self._thread if self._needed == 0 else None
            if thread is not None:
                self._thread = None
                self._stop.set()
        if thread is not None:
            thread.join(_PATIENCE)

    def _run(self, stop: threading.Event) -> None:
        interval = QUICKEST
        while not stop.wait(interval):
            start = time.thread_time()
            try:
                busy = self._look(time.monotonic(), stop)
            except Exception:   # guests go on without us
                _log.exception("the steward looks again later")
                busy = False
            cost = (time.thread_time() - start) / _SHARE
            interval = min(_LONGEST, max(cost, QUICKEST if busy else min(SLOWEST, 2 * interval)))
        self._looked_at = None
        for kept in self._active:   # a guest that could not be ended runs on
            with suppress(OSError):
                self._place(kept, Cores.FREE)

    # ---- looking ----

    def _look(self, now: float, stop: threading.Event) -> bool:
        """Whether any message was sent since the last time."""
        guests = self._host.running()
        if frozenset(guests) != self._running or self._looked_at is None:
            self._learn(guests)
        seconds = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        times = self._times(guests, now)
        found = iter(observing.counts([end for kept in self._active for end in kept.ends]))
        windows = []
        for kept in self._active:
            if kept.cores is not Cores.FREE and kept.channel.transport is not Transport.RING:
                self._place(kept, Cores.FREE)   # the user has switched it
            counts = [next(found) for _ in kept.ends]
            windows.append((kept, self._observed(kept, counts, seconds, times)))
        busy = self._traced([(kept, seen) for kept, seen in windows if seen is not None], guests, now)
        for kept, seen in busy:
            if stop.is_set():
                break
            kept.saw(replace(seen, burst=0.0) if _answered(kept, seen, busy) else seen, now)
            self._consider(kept, now)
        return bool(busy)

    def _learn(self, guests: Mapping[str, Guest]) -> None:
        """Which channels there are between guests that run."""
        self._running, before, self._active = frozenset(guests), self._active, []
        pairs, led = self._pairs(guests), set()
        for channel in self._host.channels:
            kept = self.known(channel) if functions_of(channel) <= self._running else None
            if kept is None:
                continue
            ends = (*channel.senders.values(), *channel.receivers.values())
            if ends != kept.ends:
                kept.ends, kept.senders, kept.counted = ends, len(channel.senders), None
            pair = functions_of(channel) if functions_of(channel) in pairs else frozenset()
            self._pair(kept, tuple(guests[name] for name in sorted(pair)))
            kept.leads = bool(pair) and pair not in led
            led.add(pair)
            self._active.append(kept)
        for kept in before:
            if kept not in self._active:
                self._pair(kept, ())

    def _pairs(self, guests: Mapping[str, Guest]) -> set[frozenset[str]]:
        """Of functions that run here and have channels with each other and with nobody else."""
        channels = self._host.channels
        ends = {id(end) for channel in channels for end in (*channel.senders.values(), *channel.receivers.values())}
        alone = {name for name, guest in guests.items() if all(id(end) in ends for end in guest.ends)}
        return {pair for pair in pairs_of(channels) if pair <= alone}

    def _pair(self, kept: Kept, pair: tuple[Guest, ...]) -> None:
        """Its guests from now on; those before may run where they might."""
        if pair != kept.pair:
            with suppress(OSError):
                self._place(kept, Cores.FREE)
            kept.pair = pair

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

    def _times(self, guests: Mapping[str, Guest], now: float) -> dict[str, Ran]:
        """What the thread of each guest did since the last look; and how busy the cores are with other things."""
        if not any(kept.leads for kept in self._active) or len(guests) > _THREADS:
            return {}
        found, ours = {}, dict.fromkeys(self._usable, 0.0)
        for name, guest in guests.items():
            number = guest.thread.number
            if number is None or (total := ran(number)) is None:
                continue
            found[name] = total.since(self._ran.get(name, total))
            self._ran[name] = total
            core = last_core(number)
            if core in ours:
                ours[core] += found[name].ran
        self._load.look(now, ours)
        return found

    def _observed(
        self, kept: Kept, counts: Sequence[Counts | None], seconds: float, times: Mapping[str, Ran]
    ) -> Observation | None:
        """What a channel did since the last look; None where an end was closed, or nothing was sent."""
        sent, received = total(counts[: kept.senders]), total(counts[kept.senders :])
        if sent is None or received is None:
            return None
        before, kept.counted = kept.counted, (sent, received)
        if before is None:
            return None
        mine = [times[guest.name] for guest in kept.pair if guest.name in times]
        contention = others = cpu = None
        if len(mine) == len(kept.pair) > 0:
            cpu = float(sum(one.ran for one in mine))
            waited = sum(one.waited for one in mine)
            contention = waited / (cpu + waited) if cpu + waited else 0.0
            others = sum(self._load.others.values())
        seen = observing.observation((before[0], sent), (before[1], received), seconds, contention, others, cpu)
        if seen is not None:
            kept.counts_as_full(observing.queued(seen))
        return seen

    def _traced(
        self, busy: list[tuple[Kept, Observation]], guests: Mapping[str, Guest], now: float
    ) -> list[tuple[Kept, Observation]]:
        """With what a tracer tells of their functions, where there is one."""
        spent = self._feed.latest(guests, now)
        if not spent:
            return busy
        # Of a guest with other ends, too, it is not known how many messages its time went into.
        ends = {id(end) for kept in self._active for end in kept.ends}
        spent = {name: one for name, one in spent.items() if all(id(end) in ends for end in guests[name].ends)}
        rates: Counter[str] = Counter()
        for kept, seen in busy:
            rates.update(dict.fromkeys(functions_of(kept.channel), seen.rate or 0.0))
        return [(kept, with_told(seen, kept.channel, spent, rates)) for kept, seen in busy]

    # ---- explaining, from any thread ----

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
            lacked=tuple(dict.fromkeys((*self._feed.lack(now), *decision.lacked))),
            queued=kept.queued,
            trouble=trouble,
        )

    def what_if(self, channel: Channel, wish: WhatIf) -> dict[str, Any]:
        """What it costs, and what it would cost. Raises BadSpec."""
        kept = self.known(channel)
        if kept is None:
            raise BadSpec(f"channel {channel.name!r}: not all of its ends are in this process")
        return what_if(self._host.policy, self.request(kept, time.monotonic()), wish)

    # ---- deciding ----

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
            lacked=self._feed.lack(now),
        )

    def _consider(self, kept: Kept, now: float) -> None:
        """Asks, and does it."""
        request = self.request(kept, now)
        try:
            way = self._wanted(kept, request)
            if now >= kept.not_before:
                kept.trouble = ""
            if way is None:
                return
            if not kept.settled(now):
                if kept.history.trying is not None:   # it is not tried yet
                    trials = EdgeHistory().trials if request.history is None else request.history.trials
                    kept.history = kept.history._replace(trials=trials, trying=None)
                return
            decision = self._host.policy.decide(replace(request, history=kept.history))
            if not isinstance(decision, Decision) or decision.way != way:
                mode = mode_of(way.transport, kept.facts.locality)
                decision = Decision(mode, way.transport, "the policy chose it", cores=way.cores)
        except Exception as error:
            self._trouble(kept, f"the policy failed, and {kept.way} is held: {type(error).__name__}: {error}")
            return
        self._change(kept, decision, now)

    def _wanted(self, kept: Kept, request: Request) -> Way | None:
        """Another way than that in use. Raises what the policy raises, and where it answers what cannot be."""
        history, way = self._host.policy.step(request)
        if not isinstance(history, EdgeHistory) or not isinstance(way, Way | None):
            raise TypeError(f"it answered {history!r:.80}, {way!r:.80}")
        kept.history = history
        if way is None or way == request.current or request.pinned:
            return None
        if (obstacle := ruled_out_way(request, way)) is not None:
            raise ValueError(f"it chose {way}, which cannot be: {obstacle}")
        return way

    def _change(self, kept: Kept, decision: Decision, now: float) -> None:
        way = decision.way
        try:
            if way.transport is not kept.channel.transport:
                target = self._host.redis if way.transport is Transport.REDIS else str(way.transport)
                self._host.change(kept.channel, target or "", _SWITCH_SECONDS)
            if way.cores is not kept.cores:
                self._place(kept, way.cores)
        except (Error, OSError) as error:
            kept.failures += 1
            kept.not_before = now + min(_BACK_OFF, 2.0**kept.failures)
            self._trouble(kept, f"a change to {way} failed, and {kept.way} is held: {error}")
            return
        kept.channel.redecided(decision)
        kept.failures, kept.trouble = 0, ""
        kept.changes, kept.changed_at, kept.not_before = kept.changes + 1, now, now + _APART
        kept.began_at, kept.met = now, 0
        kept.history = kept.history.switched(now, way)
        _log.info("channel %r goes by %s now: %s", kept.channel.name, way, decision.reason)

    def _place(self, kept: Kept, cores: Cores) -> None:
        """Raises OSError."""
        taken = Counter(core for other in self._active if other is not kept for core in other.places)
        usable = set.intersection(set(self._usable), *(guest.thread.allowed() for guest in kept.pair))
        places = sets(cores, [core for core in self._load.freest(taken) if core in usable])
        try:
            for number, guest in enumerate(kept.pair):
                guest.thread.place(None if places is None else places[number])
        except OSError:
            for guest in kept.pair:
                guest.thread.place(None)
            kept.cores, kept.places = Cores.FREE, ()
            raise
        kept.cores, kept.places = cores, () if places is None else tuple(core for one in places for core in one)

    def _trouble(self, kept: Kept, words: str) -> None:
        """Said once in the log, and to who asks for an explanation until it is over."""
        words = words[:_LONGEST_WORDS]
        if not kept.trouble:
            _log.warning("channel %r: %s", kept.channel.name, words)
        kept.trouble = words


def _answered(kept: Kept, seen: Observation, busy: Sequence[tuple[Kept, Observation]]) -> bool:
    """Whether each of its messages waits for an answer to the one before: as many come back between its two guests."""
    return bool(kept.pair) and any(
        other.pair == kept.pair
        and other.channel.senders.keys() == kept.channel.receivers.keys()
        and abs(back.messages - seen.messages) <= 0.05 * seen.messages + 2
        for other, back in busy
        if other is not kept
    )
