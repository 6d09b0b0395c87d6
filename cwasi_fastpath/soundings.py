"""Has the networks sounded to nodes to which a host's channels go by another way than tcp, so that it is seen when one
gets better, or worse.

Two threads a host, as long as somebody asks: one for those who have answered the last time, and one for all others, who
may keep it waiting. Nobody waits for these threads. Channels to one address share what is found.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from .errors import Error
from .meeting import Tie
from .named_channel import NamedChannel
from .policy.sounding import FIRST_SECONDS, SECONDS, holds, pause
from .transport.sounding import Place, sound
from .transport.tcp_info import Network

THREAD, FIRST_THREAD = "cwasi soundings", "cwasi first soundings"
"""The names of the threads."""

_WANTED_SECONDS, _KEPT_SECONDS = 5.0, 600.0
"""For which a network is sounded that somebody has asked about; and what was found is kept."""
_BACK_OFF, _DOUBLINGS = 60.0, 6
_PATIENCE, _ROUNDS = 0.25, 8
"""Seconds, or times there and back, for who has answered the last time to greet us again."""

_log = logging.getLogger(__name__)


class Sounded(NamedTuple):
    """What one has found."""

    network: Network | None
    """None before the first."""
    at: float
    until: float
    """When the next one will certainly have, if one can."""


@dataclass(slots=True)
class _Path:
    """To an address."""

    found: Sounded | None = None
    ended: float = -inf
    """When the last one was over,"""
    took: float = 0.0
    """and the seconds that it took, whether it has found something or not."""


@dataclass(slots=True)
class _Target:
    """A channel's receiver."""

    channel: NamedChannel
    begun: float
    """When somebody asked, after nobody had for some time."""
    tie: Tie
    wanted_until: float = inf
    place: Place | None = None
    """None where its process is still to be asked."""
    answered: bool = False
    """It has, the last time, from there."""
    due: float = -inf
    failures: int = 0

    @property
    def back_off(self) -> float:
        return min(_BACK_OFF, 2.0 ** min(self.failures, _DOUBLINGS))


@dataclass(slots=True)
class Soundings:
    """Of one host."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    """Guards all of it."""
    _targets: dict[NamedChannel, _Target] = field(default_factory=dict)
    _paths: dict[str, _Path] = field(default_factory=dict)
    _threads: dict[bool, threading.Thread] = field(default_factory=dict)
    """That for those who have answered, and that for others."""
    _among: int = 1
    """Addresses that answer, and share the time for soundings."""

    def latest(self, channel: NamedChannel, now: float) -> Sounded:
        """What the last one to its receiver's node has found; others follow."""
        tie = channel.tie
        with self._changed:
            target = self._targets.get(channel)
            if target is None or target.tie is not tie:   # it has moved
                self._forget(now)
                target = self._targets[channel] = _Target(channel, now, tie)
                self._changed.notify_all()
            elif now > target.wanted_until:
                target.begun = now
                self._changed.notify_all()
            target.wanted_until = now + _WANTED_SECONDS
            for answered in {True, False} - self._threads.keys():
                self._begin(answered)
            found = None if target.place is None else self._paths[target.place.host].found
            soon = -inf if target.failures else target.begun + FIRST_SECONDS
            return Sounded(None, now, soon) if found is None else found._replace(until=max(found.until, soon))

    def _forget(self, now: float) -> None:
        """Those that nobody has asked about for a long time."""
        for channel in [one for one, target in self._targets.items() if target.wanted_until + _KEPT_SECONDS < now]:
            del self._targets[channel]
        used = {target.place.host for target in self._targets.values() if target.place is not None}
        for host in self._paths.keys() - used:
            del self._paths[host]

    def end(self) -> None:
        """Nobody asks any more. What is under way may last some seconds."""
        with self._changed:
            self._targets.clear()
            self._changed.notify_all()

    def _begin(self, answered: bool) -> None:
        name = THREAD if answered else FIRST_THREAD
        thread = threading.Thread(target=self._run, args=(answered,), name=name, daemon=True)
        try:
            thread.start()
            self._threads[answered] = thread
        except RuntimeError as error:
            _log.debug("no network is sounded: %s", error)   # until the next time that somebody asks

    def _run(self, answered: bool) -> None:
        while (target := self._next(answered)) is not None:
            begin = time.monotonic()
            place = target.place
            try:
                if place is None:
                    self._found(target, target.channel.echo(SECONDS))
                else:
                    self._sounded(target, place, sound(place, self._patience(target, place)), begin)
            except (OSError, Error) as error:
                self._failed(target, str(error), begin)
            except Exception as error:   # others are still to be sounded
                _log.exception("a network is sounded again later")
                self._failed(target, str(error), begin)

    def _patience(self, target: _Target, place: Place) -> float:
        """Seconds for who is there to greet us, at most."""
        path = self._paths.get(place.host)
        if not target.answered or path is None or path.found is None or path.found.network is None:
            return inf
        return max(_PATIENCE, _ROUNDS * (path.found.network.rtt_ns or inf) / 1e9)

    def _next(self, answered: bool) -> _Target | None:
        """Whose turn it is, when it is: who has waited longest for its pause. None where nobody asks any more."""
        with self._changed:
            while True:
                now = time.monotonic()
                wanted = [target for target in self._targets.values() if target.wanted_until >= now]
                if not wanted:
                    del self._threads[answered]
                    self._changed.notify_all()   # the other one ends, too
                    return None
                mine = [(*self._due(target), target) for target in self._of_thread(wanted, answered)]
                late = [((now - due) / waits, target) for due, waits, target in mine if due <= now]
                if late:
                    return max(late, key=lambda one: one[0])[1]
                self._changed.wait(min([_WANTED_SECONDS, *(due - now for due, _, _ in mine)]))

    def _of_thread(self, wanted: list[_Target], answered: bool) -> list[_Target]:
        """Who is not known to answer is not sounded, but where nobody else at its address is."""
        known = {one.place.host for one in wanted if one.place is not None and one.answered}
        self._among = max(1, len(known))
        if answered:
            return [one for one in wanted if one.answered]
        return [one for one in wanted if not one.answered and (one.place is None or one.place.host not in known)]

    def _due(self, target: _Target) -> tuple[float, float]:
        """When its turn comes, and the seconds that it waits until then."""
        due, waits = target.due, target.back_off
        if target.place is not None:
            path = self._paths[target.place.host]
            paused = pause(path.took, self._among)
            if path.ended + paused >= due:
                due, waits = path.ended + paused, paused
        return due, waits

    def _found(self, target: _Target, place: Place) -> None:
        with self._changed:
            target.place = place
            if self._targets.get(target.channel) is target:
                self._paths.setdefault(place.host, _Path())

    def _sounded(self, target: _Target, place: Place, network: Network, begin: float) -> None:
        now = time.monotonic()
        took = now - begin
        with self._changed:
            if place.host in self._paths:   # nobody has forgotten it meanwhile
                self._paths[place.host] = _Path(Sounded(network, now, now + holds(took, self._among)), now, took)
            target.failures = 0
            if not target.answered:
                target.answered = True
                self._changed.notify_all()   # it is the other thread's

    def _failed(self, target: _Target, why: str, begin: float) -> None:
        """It may echo elsewhere by now, and is asked again."""
        _log.debug("channel %r: its network is not sounded: %s", target.channel.name, why)
        now = time.monotonic()
        with self._changed:
            target.failures += 1
            target.due = now + target.back_off
            if target.place is not None:
                path = self._paths.get(target.place.host)
                if path is not None:
                    path.ended, path.took = now, now - begin
                target.place, target.answered = None, False
                self._changed.notify_all()
