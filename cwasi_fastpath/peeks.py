"""Counts a host's messages between two looks at its channels, which takes much less: to see soon that they come,
and that far more of them come than before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .endpoint import Endpoint
from .observing import Ends
from .policy.rush import Rushes, rushes

_MOST = 64
"""Ends that are counted; those of more take too long."""
_FASTEST = 2e6
"""Messages a second of a channel, about: who has sent nearly as many cannot rush."""


class Peeks:
    """At senders that stay the same."""

    def __init__(self, senders: Sequence[Endpoint] = ()) -> None:
        self._ends = Ends(senders)
        self._sent = [0] * len(senders)
        """Messages, when they were counted last;"""
        self._at = 0.0
        self._looked = [0] * len(senders)
        """and at the last look."""
        self._looked_at: float | None = None
        self._rates = [0.0] * len(senders)
        """Messages a second, between the last two looks; infinite where that is not known."""
        self._answered = Rushes()

    def worthwhile(self) -> bool:
        """Whether there can be a rush."""
        return len(self._rates) <= _MOST and any(rushes(_FASTEST, rate) for rate in self._rates)

    def looked(self, now: float) -> None:
        """A window ends, and the next one begins."""
        self._count()
        if self._looked_at is None:
            self._rates = [math.inf if sent else 0.0 for sent in self._sent]
        elif (seconds := now - self._looked_at) > 0:
            self._rates = [(new - old) / seconds for new, old in zip(self._sent, self._looked, strict=True)]
        self._looked, self._at, self._looked_at = self._sent.copy(), now, now

    def peek(self, now: float) -> tuple[bool, bool]:
        """Whether messages came since they were counted last; and whether there is a rush that is to be answered."""
        seconds, before = now - self._at, self._sent.copy()
        came, self._at = self._count(), now
        rush = seconds > 0 and self._answered.due(now) and any(
            rushes((self._sent[number] - before[number]) / seconds, self._rates[number]) for number in came
        )
        if rush:
            self._answered.answer(now)
        return bool(came), rush

    def _count(self) -> list[int]:
        """Those who have sent any since, by number."""
        changed = self._ends.changed()
        for number in changed:
            counts = self._ends.counts(number)
            if counts is not None:   # it was not closed
                self._sent[number] = counts.messages
        return changed
