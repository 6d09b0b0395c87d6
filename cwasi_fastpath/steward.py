"""Asks the policy again while guests run, and does what it says: another transport, other cores.

One thread a host, as long as guests of it run. It looks at what the ends have counted. Nothing of it is on the path of
a message. A channel is changed as a whole; one that the user has chosen something for is left alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from . import errors, observing
from .advice import Advice, Stewarded
from .channel import Channel
from .endpoint import Endpoint
from .feed import Elsewhere, Feed, Here, with_told
from .guest import Guest
from .guest_cores import GuestCores, pairs_among
from .kept import Kept, answered, functions_of, pairs_of
from .metrics import Observation, queued
from .modes import Transport, mode_of
from .named_channel import Counted, NamedChannel
from .observing import Counts, total
from .pace import Pace
from .peeks import Peeks
from .policy import Cores, Decision, EdgeHistory, Request, Way
from .policy.decision import ruled_out_way
from .rota import Rota
from .soundings import Soundings
from .spanned import SpannedChannel
from .thread_watch import Ran, together

THREAD = "cwasi steward"
"""The name of the thread."""

_APART = 0.25
"""Seconds from one change of a channel to its next."""
_SWITCH_SECONDS = 0.5
"""For a switch; the guests may be done by then."""
_PATIENCE = 5.0
"""Seconds for the thread to end."""
_BACK_OFF = 60.0
_LONGEST_WORDS = 400

_log = logging.getLogger(__name__)

Windows = list[tuple[Kept, Observation]]
"""What channels were seen to do."""


class Steward:
    """Of one host."""

    def __init__(self, host: Stewarded, spanned: Sequence[SpannedChannel] = ()) -> None:
        """spanned: channels between processes that this one has started."""
        self._host = host
        self._spanned = spanned
        self._lock = threading.RLock()
        """Guards the thread, and who needs it. Taken by itself: Ctrl-C may come in `with` a condition when that has its
        lock, and nobody would give that back."""
        self._life = threading.Condition(self._lock)
        """Announces changes of these."""
        tallies = {name: tally for channel in spanned for name, tally in channel.tallies.items()}
        self._feed = Feed(Elsewhere(tallies) if spanned else Here())
        self._alone = pairs_of(spanned)
        self._soundings = Soundings()
        self._needed: set[object] = set()
        """By whom."""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._news = threading.Event()
        """Others need it, or nobody does."""
        self._active: list[Kept] = []
        """Those between guests that run."""
        self._leads = False
        """One of them decides on cores."""
        self._rota = Rota([])
        self._peeks = Peeks()
        self._cut: Windows = []
        """What channels did until a rush, since the look before it."""
        self._running: frozenset[str] = frozenset()
        """Guests,"""
        self._functions: frozenset[str] = frozenset()
        """and with these the functions in other processes of ours."""
        self._looked_at: float | None = None
        self._cores = GuestCores()
        self.advice = Advice(host, len(self._cores), self._feed.lack)

    # ---- its life ----

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While guests run, some of which may have begun before."""
        user = object()
        try:   # Ctrl-C may come as it begins
            self._begin(user)
            yield
        finally:
            self._end(user)

    def _begin(self, user: object) -> None:
        with self._lock:
            self._needed.add(user)
            self._stop.clear()
            self._news.set()
            self._life.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:
                    _log.warning("what was chosen stays: %s", error)

    def _end(self, user: object) -> None:
        """With the last of them the thread ends, before this returns. One whose policy hangs is left to end when that
        answers; there is no other one meanwhile.
        """
        with self._lock:
            self._needed.discard(user)
            thread = None if self._needed else self._thread
            if thread is None:
                return
            self._stop.set()
            self._news.set()
            self._life.wait_for(lambda: self._needed or self._thread is None, _PATIENCE)
            if self._thread is thread:
                return
        thread.join()

    def _run(self) -> None:
        pace = Pace()
        while self._goes_on():
            start, busy = time.thread_time(), False
            try:
                busy = pace.wait(self._peeks, self._begin_windows, self._news)
                self._news.clear()
                if not self._stop.wait(pace.rest() if busy else 0.0):
                    busy |= self.look(time.monotonic(), self._stop)
            except Exception:   # guests go on without us
                _log.exception("the steward looks again later")
            pace.looked(busy, time.thread_time() - start)

    def _goes_on(self) -> bool:
        """Whether somebody needs it."""
        with self._lock:
            if self._needed:
                return True
            self._looked_at = None
            for kept in self._active:   # a guest that could not be ended runs on
                kept.waits = False
                with suppress(OSError):
                    self._cores.place(kept, Cores.FREE, self._active)
            self._cores.rest()
            self._soundings.end()
            self._thread = None
            self._life.notify_all()
            return False

    # ---- looking ----

    def look(self, now: float, stop: threading.Event) -> bool:
        """Whether any message was sent since the last time."""
        busy = self._with_cut(self._windows(now))
        self._peeks.looked(now)
        for kept, seen in busy:
            if stop.is_set():
                break
            kept.saw(seen, now)
            self._consider(kept, now)
        return bool(busy)

    def _begin_windows(self, now: float) -> None:
        """What was until now is not what comes: it is left out, but where more was than comes."""
        self._cut = self._with_cut(self._windows(now))

    def _with_cut(self, later: Windows) -> Windows:
        """The same, but for channels of which what seemed a rush was all."""
        cut, self._cut = self._cut, []
        found = {id(kept): (kept, seen) for kept, seen in later}
        for kept, seen in cut:
            _, after = found.get(id(kept), (kept, None))
            if after is None or (after.rate or 0.0) < (seen.rate or 0.0):
                found[id(kept)] = kept, seen
        return list(found.values())

    def _windows(self, now: float) -> Windows:
        """What channels did until now: those that were busy, and had their turn."""
        guests = self._host.running()
        if frozenset(guests) != self._running or self._looked_at is None:
            self._learn(guests)
        before, self._looked_at = now if self._looked_at is None else self._looked_at, now
        times = self._cores.times(guests, now) if self._leads else {}
        for kept in self._active:
            if kept.cores is not Cores.FREE and (kept.channel.pinned or kept.channel.transport is not Transport.RING):
                self._cores.place(kept, Cores.FREE, self._active)   # the user has switched it
            elif kept.leads and times:
                with suppress(OSError):   # then the kernel places them
                    if self._cores.avoid_others(kept, self._active):
                        self._moved(kept.pair, now)
        windows = [(kept, self._observed(kept, counts, now, times)) for kept, counts in self._rota.next(before)]
        busy = self._traced([(kept, seen) for kept, seen in windows if seen is not None], guests, now)
        return [
            (kept, replace(seen, burst=0.0) if answered(kept, seen, busy) else seen) for kept, seen in busy
        ]

    def _moved(self, pair: tuple[Guest, ...], now: float) -> None:
        """To another core. What they did until then says nothing of where they are now, and what has waited comes fast
        at first: for some time their channels are not changed.
        """
        for kept in self._active:
            if kept.pair == pair:
                kept.not_before = max(kept.not_before, now + _APART)

    def _learn(self, guests: Mapping[str, Guest]) -> None:
        """Which channels there are between guests that run."""
        self._running, before, self._active, self._cut = frozenset(guests), self._active, [], []
        pairs, led = pairs_among(self._host.channels, guests), set()
        self._active += [self._kept_of(sender, named) for sender, named in sent_by_name(guests.values())]
        self._active += [kept for one in self._spanned if (kept := self.advice.known(one)) is not None]
        for channel in self._host.channels:
            kept = self.advice.known(channel) if functions_of(channel) <= self._running else None
            if kept is None:
                continue
            ends = (*channel.senders.values(), *channel.receivers.values())
            if ends != kept.ends:
                kept.ends, kept.senders, kept.counted = ends, len(channel.senders), None
            pair = functions_of(channel) if functions_of(channel) in pairs else frozenset()
            self._cores.pair(kept, tuple(guests[name] for name in sorted(pair)), self._active)
            kept.leads = bool(pair) and pair not in led
            led.add(pair)
            self._active.append(kept)
        for kept in before:
            if kept not in self._active:
                kept.waits = False
                self._cores.pair(kept, (), self._active)
        spanned = (kept.functions for kept in self._active if isinstance(kept.channel, SpannedChannel))
        self._functions = self._running.union(*spanned)
        self._leads, self._rota = any(kept.leads for kept in self._active), Rota(self._active)
        self._peeks = Peeks([end for kept in self._active for end in kept.ends[: kept.senders]])

    def _kept_of(self, sender: Endpoint, named: NamedChannel) -> Kept:
        """What is remembered of a channel whose receiver may be in another process. We decide: we have its sender."""
        kept = self.advice.known(named)
        assert kept is not None   # of such a channel something always is
        if kept.ends != (sender,):
            kept.ends, kept.senders, kept.counted = (sender,), 1, None
        return kept

    def _observed(
        self, kept: Kept, counts: Sequence[Counts | None], now: float, times: Mapping[str, Ran]
    ) -> Observation | None:
        """What a channel did since the last look; None where an end was closed, or nothing was sent."""
        counted = _counted(kept, counts, now)
        if counted is None:
            return None
        before, kept.counted = kept.counted, counted
        if before is None:
            return None
        sent, received = (before.sent, counted.sent), (before.received, counted.received)
        kept.met_network(kept.channel.network(), now, kept.far)
        self._sound(kept, now)
        did = _did(kept, before, counted, times)
        others = self._cores.others if did is not None and kept.pair else None
        cpu = did.ran if did is not None and (kept.pair or kept.functions in self._alone) else None
        contention = None if did is None else did.contention
        seen = observing.observation(sent, received, counted.at - before.at, contention, others, cpu)
        if seen is None:
            return None
        if seen.latency_ns is not None:
            kept.counts_as_full(queued(seen))
        if (network := kept.known.seen) is not None:
            seen = replace(
                seen, srtt_ns=network.srtt_ns, bytes_per_second=kept.known.gives,
                network_age=kept.known.unseen(now),
            )  # fmt: skip
        return seen

    def _sound(self, kept: Kept, now: float) -> None:
        """A network through which a channel might go, and does not."""
        channel = kept.channel
        if not isinstance(channel, NamedChannel) or not kept.far or channel.pinned:
            return
        if channel.transport is Transport.TCP or Transport.TCP in channel.missing or Transport.TCP not in kept.offered:
            return
        sounded = self._soundings.latest(channel, now)
        kept.known.watch(sounded.until)
        if sounded.network is not None:
            kept.known.sounded(sounded.network, sounded.at)

    def _traced(self, busy: list[tuple[Kept, Observation]], guests: Mapping[str, Guest], now: float) -> Windows:
        """With what a tracer tells of their functions, where there is one."""
        spent = self._feed.latest(self._functions, now)
        if self._feed.silent:
            return busy
        messages: Counter[str] = Counter()
        for kept, seen in busy:
            messages.update(dict.fromkeys(kept.functions, seen.messages))
        rates = self._feed.rates()
        self._feed.sent(messages)
        # Of a guest with other ends, or with messages that were not looked at, it is not known how many its time went
        # into.
        ends = {id(end) for kept in self._active if not kept.waits for end in kept.ends}
        others = {name for name, guest in guests.items() if any(id(end) not in ends for end in guest.ends)}
        spent = {name: one for name, one in spent.items() if name not in others}
        return [
            (kept, seen if isinstance(kept.channel, NamedChannel) else with_told(seen, kept.channel, spent, rates))
            for kept, seen in busy
        ]

    # ---- deciding ----

    def _consider(self, kept: Kept, now: float) -> None:
        """Asks, and does it."""
        if kept.mixed and not kept.channel.pinned:
            if now >= kept.not_before:
                self._change(kept, kept.channel.decision, now)   # to the end, after one that failed in the middle
            return
        request = self.advice.request(kept, now)
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
                mode = mode_of(way.transport, request.facts.locality)
                decision = Decision(mode, way.transport, "the policy chose it", cores=way.cores)
        except BaseException as error:   # sys.exit() in it, too
            self._trouble(kept, f"the policy failed, and {kept.way} is held: {type(error).__name__}: {error}")
            return
        self._change(kept, decision, now)

    def _wanted(self, kept: Kept, request: Request) -> Way | None:
        """Another way than that in use. Raises what the policy raises, and where it answers what cannot be."""
        history, way = self._host.policy.step(request)
        if not isinstance(history, EdgeHistory) or not isinstance(way, Way | None):
            raise TypeError(f"it answered {history!r:.80}, {way!r:.80}")
        kept.remember(history)
        if way is None or way == request.current or request.pinned:
            return None
        if (obstacle := ruled_out_way(request, way)) is not None:
            raise ValueError(f"it chose {way}, which cannot be: {obstacle}")
        return way

    def _change(self, kept: Kept, decision: Decision, now: float) -> None:
        way, cores = decision.way, kept.cores
        try:
            if way.cores is not cores:
                self._cores.place(kept, way.cores, self._active)
            self._host.change(kept.channel, decision, _SWITCH_SECONDS)
        except Exception as error:   # a thread that cannot be started, too
            with suppress(OSError):
                self._cores.place(kept, cores, self._active)
            kept.failures += 1
            kept.not_before = now + min(_BACK_OFF, 2.0**kept.failures)
            level = logging.INFO if isinstance(error, errors.ChannelClosed) else logging.WARNING   # it has ended
            self._trouble(kept, f"a change to {way} failed, and {kept.way} is held: {error}", level)
            return
        kept.switched(way, now)
        kept.failures, kept.trouble = 0, ""
        kept.changes, kept.changed_at, kept.not_before = kept.changes + 1, now, now + _APART
        kept.began_at, kept.met = now, 0
        if not isinstance(kept.channel, Channel):
            kept.counted = None   # what its receiver says next may be of the way before
            self._feed.forget(kept.functions)
        _log.info("channel %r goes by %s now: %s", kept.channel.name, way, decision.reason)

    def _trouble(self, kept: Kept, words: str, level: int = logging.WARNING) -> None:
        """Said once in the log, and to who asks for an explanation until it is over."""
        words = words[:_LONGEST_WORDS]
        if not kept.trouble:
            _log.log(level, "channel %r: %s", kept.channel.name, words)
        kept.trouble = words


def sent_by_name(guests: Iterable[Guest]) -> list[tuple[Endpoint, NamedChannel]]:
    """The ends that guests send by and that met their receivers by name."""
    ends = (end for guest in guests for end in guest.ends)
    return [(end, end.teller) for end in ends if isinstance(end.teller, NamedChannel)]


def _counted(kept: Kept, counts: Sequence[Counts | None], now: float) -> Counted | None:
    """By all ends of a channel; None where one was closed, or another process has not told yet."""
    if isinstance(kept.channel, SpannedChannel):
        return kept.channel.counted(now)
    sent = total(counts[: kept.senders])
    if sent is None:
        return None
    if isinstance(kept.channel, NamedChannel):
        return kept.channel.counted(sent, now)
    received = total(counts[kept.senders :])
    return None if received is None else Counted(now, sent, received)


def _did(kept: Kept, before: Counted, counted: Counted, times: Mapping[str, Ran]) -> Ran | None:
    """What the threads at the ends of a channel did in a window; None where it is not known of one. times: by guest."""
    if before.ran is not None and counted.ran is not None:
        return counted.ran.since(before.ran)
    return together(times.get(guest.name) for guest in kept.pair) if kept.pair else None
