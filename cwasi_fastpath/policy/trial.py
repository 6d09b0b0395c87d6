"""Ways that are tried though they are not sure to be better: which were, and when the next one may be.

What a trial has shown holds for the conditions that it was made under. As long as these stay, there is a pause before
the next trial of whatever way, each time much longer: noise that lasts, which all ways have, makes now this and now
that way look cheaper, and nobody finds out by trying them all again and again. Who was tried may be left for the way
before at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .history import EdgeHistory, differ
from .model import Conditions
from .way import Way

if TYPE_CHECKING:
    from .choice import Caution

_LEFT = 0.3
"""Cores that others want less than when a way was tried: it may be better by now."""
_LEAST = 0.25
"""Seconds for which a verdict stands, whatever is seen: what others do is seen late."""
_LONGER = 4.0
"""The next pause, in those of the last: six trials in half an hour."""
_KEPT = 8
"""Trials that are remembered, each under other conditions."""


class Trial(NamedTuple):
    """A way that was tried though it was not sure to be better."""

    way: Way
    again: float
    """Not before this time."""
    pause: float
    barred: bool = False
    """Not even if it seems sure to be better: it was not, by the messages that came."""
    brief: bool = False
    """To see how it is by now, which one window shows."""
    under: Conditions | None = None
    """What it was tried under."""
    source: Way | None = None
    """The way before, where nobody has gone back to it."""

    @property
    def plain(self) -> bool:
        """Neither barred nor brief."""
        return not self.barred and not self.brief

    def holds(self, conditions: Conditions | None) -> bool:
        """Whether what it has shown says anything of these conditions."""
        under = self.under
        if under is None or conditions is None:
            return True
        return not differ(under, conditions) and (under.others or 0.0) - (conditions.others or 0.0) < _LEFT

    def stands(self, conditions: Conditions | None, now: float) -> bool:
        """Whether it is too early to think otherwise."""
        return now < self.again and (now < self.again - self.pause + _LEAST or self.holds(conditions))


def may_try(history: EdgeHistory, way: Way, now: float) -> bool:
    """Whether it is time for a trial of this way."""
    if history.trying == way:
        return True
    if any(one.brief and one.way == way and now < one.again for one in history.trials):
        return False
    last = _last(history)
    return last is None or now >= last.again or last.source == way


def tried(caution: Caution, history: EdgeHistory, way: Way, now: float, window: float) -> EdgeHistory:
    """A way is tried now. window: seconds of one window."""
    last = _last(history)
    if last is not None and now < last.again:   # back again
        trial = last._replace(source=None)
    else:
        least = max(caution.between, 10 * caution.settle * window)
        pause = least if last is None else min(3600.0, max(least, _LONGER * last.pause))
        source = None if history.held is None else history.held.way
        trial = Trial(way, now + pause, pause, under=history.held, source=source)
    old = [one for one in history.trials if one.plain and one is not last][: 1 - _KEPT]
    others = (one for one in history.trials if one is not last and one not in old)
    return history._replace(trials=(*others, trial), trying=way)


def _last(history: EdgeHistory) -> Trial | None:
    """That under such conditions as there are."""
    for trial in reversed(history.trials):
        if trial.plain and trial.holds(history.held):
            return trial
    return None
