"""Has the networks sounded to nodes to which a host's channels go by another way than tcp, so that it is seen when one
gets better, or worse.

One thread a host, as long as somebody asks; it waits for other nodes, for some seconds at most, and nobody waits for
it. Channels whose receivers share an echo share what is found.
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

THREAD = "cwasi soundings"
"""The name of the thread."""

_WANTED_SECONDS, _KEPT_SECONDS = 5.0, 600.0
"""For which a network is sounded that somebody has asked about; and what was found is kept."""
_BACK_OFF, _DOUBLINGS = 60.0, 6

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
    """To an echo."""

    found: Sounded | None = None
    due: float = -inf
    """When it is sounded next."""


@dataclass(slots=True)
class _Target:
    """A channel's receiver."""

    begun: float
    """When somebody asked, after nobody had for some time."""
    tie: Tie
    wanted_until: float = inf
    place: Place | None = None
    due: float = -inf
    """When its process is asked where it echoes."""
    failures: int = 0


@dataclass(slots=True)
class Soundings:
    """Of one host."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    """Guards all of it."""
    _targets: dict[NamedChannel, _Target] = field(default_factory=dict)
    _paths: dict[Place, _Path] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    def latest(self, channel: NamedChannel, now: float) -> Sounded:
        """What the last one to its receiver's node has found; others follow."""
        tie = channel.tie
        with self._changed:
            target = self._targets.get(channel)
            if target is None or target.tie is not tie:   # it has moved
                self._forget(now)
                target = self._targets[channel] = _Target(now, tie)
                self._changed.notify_all()
            elif now > target.wanted_until:
                target.begun = now
                self._changed.notify_all()
            target.wanted_until = now + _WANTED_SECONDS
            if self._thread is None:
                self._begin()
            found = None if target.place is None else self._paths[target.place].found
            soon = -inf if target.failures else target.begun + FIRST_SECONDS
            return Sounded(None, now, soon) if found is None else found._replace(until=max(found.until, soon))

    def _forget(self, now: float) -> None:
        """Those that nobody has asked about for a long time."""
        for channel in [one for one, target in self._targets.items() if target.wanted_until + _KEPT_SECONDS < now]:
            del self._targets[channel]
        used = {target.place for target in self._targets.values()}
        for place in [place for place in self._paths if place not in used]:
            del self._paths[place]

    def end(self) -> None:
        """Nobody asks any more. What is under way may last some seconds."""
        with self._changed:
            self._targets.clear()
            self._changed.notify_all()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:
            _log.debug("no network is sounded: %s", error)   # until the next time that somebody asks

    def _run(self) -> None:
        while (due := self._next()) is not None:
            channel, target = due
            place = target.place
            try:
                if place is None:
                    self._found(target, channel.echo(SECONDS))
                else:
                    begin = time.monotonic()
                    self._sounded(target, place, sound(place), begin)
            except (OSError, Error) as error:
                self._failed(channel, target, str(error))
            except Exception as error:   # others are still to be sounded
                _log.exception("a network is sounded again later")
                self._failed(channel, target, str(error))

    def _next(self) -> tuple[NamedChannel, _Target] | None:
        """Whose turn it is, when it is; None where nobody asks any more."""
        with self._changed:
            while True:
                now = time.monotonic()
                wanted = [one for one in self._targets.items() if one[1].wanted_until >= now]
                if not wanted:
                    self._thread = None
                    return None
                first = min(wanted, key=lambda one: self._due(one[1]))
                wait = self._due(first[1]) - now
                if wait <= 0:
                    return first
                self._changed.wait(min(wait, _WANTED_SECONDS))

    def _due(self, target: _Target) -> float:
        return target.due if target.place is None else max(target.due, self._paths[target.place].due)

    def _found(self, target: _Target, place: Place) -> None:
        with self._changed:
            target.place = place
            self._paths.setdefault(place, _Path())

    def _sounded(self, target: _Target, place: Place, network: Network, begin: float) -> None:
        now = time.monotonic()
        took = now - begin
        with self._changed:
            target.failures = 0
            self._paths[place] = _Path(Sounded(network, now, now + holds(took)), now + pause(took))

    def _failed(self, channel: NamedChannel, target: _Target, why: str) -> None:
        """It may echo elsewhere by now, and is asked again."""
        _log.debug("channel %r: its network is not sounded: %s", channel.name, why)
        with self._changed:
            target.failures += 1
            target.due = time.monotonic() + min(_BACK_OFF, 2.0 ** min(target.failures, _DOUBLINGS))
            if target.place is not None:
                self._paths.setdefault(target.place, _Path()).due = target.due
                target.place = None
