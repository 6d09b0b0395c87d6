"""What is known of the network of a channel: by hosts of one that runs, and in replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from .sounding import shows

_GIVES_SECONDS, _LONGEST = 30.0, 3600.0
"""For which what a network gave is taken to be what it gives; and at most, against soundings."""
_AWAY_SECONDS = 600.0
"""For which a network is taken to be as it was, where a channel goes by another way."""


class Figures(Protocol):
    """What was seen of a network, and of other things."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def srtt_ns(self) -> float | None: ...

    @property
    def bytes_per_second(self) -> float | None: ...


Seen = TypeVar("Seen", bound=Figures)


@dataclass(slots=True)
class KnownNetwork(Generic[Seen]):
    """Of one channel."""

    seen: Seen | None = None
    """The last, as far as it still counts; with what it gives only where messages have just shown that."""
    gives: float | None = None
    """Bytes a second, as far as it is known."""
    by_sounding: bool = False
    """Whether a sounding has shown the last."""
    _told: float | None = None
    """The same, as the kernel has told it the last time."""
    _met_at: float = -inf
    _measured_at: float = -inf
    """When, last, messages have shown how much it gives."""
    _watched_until: float = -inf
    _shown: float | None = None
    """What messages have shown it to give, as far as that counts."""
    _holds: float = _GIVES_SECONDS
    """For which that counts against soundings that see more. Twice as long each time that these were wrong."""
    _doubted: bool = False
    """Such soundings have just been believed."""
    _direct_since: float | None = None
    """Since when messages go through it; None where they do not."""

    def met(self, found: Seen | None, now: float, far: bool) -> Seen | None:
        """What is known, with one more look. found: what was seen on the way in use, if that goes through the network.

        What it gives stays known for some time: who sends little does not see it, nor who goes by a server. Or a
        channel that has left a slow network for a server would come back at once, and leave it again. far: it goes
        from node to node, by whatever.
        """
        self._goes(found is not None, now)
        if found is None and far and now - self._met_at < _AWAY_SECONDS:
            return self.seen
        self._met_at = now if found is not None else -inf
        rate = None if found is None else found.bytes_per_second
        if found is not None and rate is not None and rate == self._told:   # the kernel tells it until there is another
            found = replace(found, bytes_per_second=None)
        elif rate is not None:
            self._shown, self._measured_at = rate, now
        if found is None or now - self._measured_at >= _GIVES_SECONDS:
            self._shown = None
        self.gives = self._shown
        self.seen, self._told, self.by_sounding = found, rate, False
        return found

    def _goes(self, direct: bool, now: float) -> None:
        """Whether messages go through it. Who has come back, as soundings saw more than messages had shown, and has
        soon left again, has believed them in vain: the network lets so many bytes through at once, and no more.
        """
        if direct and self._direct_since is None:
            self._direct_since = now
        elif not direct and self._direct_since is not None:
            if self._doubted:
                lasted = now - self._direct_since
                self._holds = min(_LONGEST, 2 * self._holds) if lasted < self._holds else _GIVES_SECONDS
            self._direct_since, self._doubted = None, False

    def watch(self, until: float) -> None:
        """By then a sounding will have found something, if one can."""
        self._watched_until = max(self._watched_until, until)

    def sounded(self, found: Seen, at: float) -> None:
        """What a connection without messages has found.

        What the network was known to give holds on where a sounding does not see so much; and for some time, if
        messages have shown it and the sounding shows more: it is short, and a network may give more for a moment.
        """
        if at <= self._met_at:
            return
        rate = found.bytes_per_second
        if self.gives is None or rate is not None or self.gives < shows(found.srtt_ns or inf):
            if self._shown is not None and at - self._measured_at >= self._holds and (rate or inf) > self._shown:
                self._shown, self._doubted = None, True
            self.gives = min((one for one in (self._shown, rate) if one is not None), default=None)
        self.seen, self.by_sounding = replace(found, bytes_per_second=None), True
        self._met_at = at

    def unseen(self, now: float) -> float | None:
        """Seconds since it was seen; None where that was now, or soundings see it again and again."""
        return None if now < self._watched_until else self.age(now)

    def age(self, now: float) -> float | None:
        """Seconds since it was seen; None where that was now, or nothing is known."""
        return max(0.0, now - self._met_at) or None if self.seen is not None else None
