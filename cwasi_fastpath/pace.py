"""When a steward looks: several times a second while messages come, seldom while none do, and soon when they begin to,
or to rush. It takes no more than a 100th of a core.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .peeks import Peeks
from .policy.rush import PEEK_SECONDS, WINDOW_SECONDS

QUICKEST, SLOWEST = 0.05, 1.0
"""Seconds between two looks: while messages come, and while none do."""
SHARE = 0.01
"""Of a core, which it may take."""
_LONGEST = 30.0
_WORTH = 0.3
"""Whose looks take so much that they have to be farther apart is not looked at sooner."""
_FARTHEST = 0.08
"""From one peek to the next, while none come: what is done about a rush is to be done in a tenth of a second."""


class Pace:
    """Of one steward's thread."""

    def __init__(self) -> None:
        self._interval = self._least = QUICKEST
        """Seconds to the next look; and the same if messages come."""
        self._looked_at = self._soonest = time.monotonic()
        """When it looked last, or began; and when it may look, however much is new."""
        self._owed = 0.0
        """Seconds of CPU that it took more than its share."""

    def wait(self, peeks: Peeks, begin: Callable[[float], None], news: threading.Event) -> bool:
        """Until it is time for a look, or there is news: whether there is. begin: told of messages after a pause, and
        of a rush, when they are seen; a look follows as soon as there is a window of them.
        """
        until = time.monotonic() + self._interval
        pause = self._pause(peeks)
        begun = self._interval <= self._least   # with the last look
        while not news.wait(min(pause, max(0.0, until - time.monotonic()))):
            now = time.monotonic()
            if now >= until:
                return False
            came, rush = peeks.peek(now)
            if rush:
                until = self._soonest = now + WINDOW_SECONDS
            elif came and not begun:
                until = min(until, now + self._least)
            if rush or (came and not begun):
                begin(now)
                begun = True
        return True

    def _pause(self, peeks: Peeks) -> float:
        """Seconds from one peek to the next. Whose looks take long is not looked at more often."""
        if self._least > _WORTH or not peeks.worthwhile():
            return self._interval
        return min(_FARTHEST, max(PEEK_SECONDS, self._interval / 10))

    def rest(self) -> float:
        """Seconds until it may look, however much is new: a window of less says nothing, and looks take time."""
        return max(0.0, self._soonest - time.monotonic())

    def looked(self, busy: bool, took: float) -> None:
        """busy: messages had come, or there was news. took: seconds of CPU, since the look before."""
        now = time.monotonic()
        self._owed = min(SHARE * _LONGEST, max(0.0, self._owed + took - SHARE * (now - self._looked_at)))
        self._least = max(QUICKEST, self._owed / SHARE)
        self._interval = max(self._least, QUICKEST if busy else min(SLOWEST, 2 * self._interval))
        self._looked_at, self._soonest = now, now + self._least
