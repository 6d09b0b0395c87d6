"""Counts a host's messages between two looks at its channels, which takes much less: to see soon that they come,
and that far more of them come than before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ._native import ffi, lib
from .endpoint import Endpoint, told_pointers
from .policy.rush import Rushes, most

_MOST = 64
"""Ends that are counted; of more none is, as that would take too long."""
_FASTEST = 2e6
"""Messages a second of a channel, about: who has sent nearly as many cannot rush."""
_FEWEST = most(0.0)
_CAME, _RUSH = 1, 2
"""As cwasi_peek answers."""


class Peeks:
    """At senders that stay the same."""

    def __init__(self, senders: Sequence[Endpoint] = ()) -> None:
        self._senders = senders if len(senders) <= _MOST else ()
        self._sent = ffi.new("uint64_t[]", len(self._senders))
        """Messages, when they were counted last;"""
        self._at = 0.0
        self._most = ffi.new("double[]", [_FEWEST] * len(self._senders))
        """and how many more in a second are no rush."""
        self._looked: list[int] = []
        """Messages, at the last look."""
        self._looked_at: float | None = None
        self._rushes = Rushes()

    def worthwhile(self) -> bool:
        """Whether there can be a rush."""
        return any(limit < _FASTEST for limit in self._most)

    def looked(self, now: float) -> None:
        """A window ends, and the next one begins."""
        self._count(now)
        sent = list(self._sent)
        if self._looked_at is None:   # who has sent before has done so for a time that nobody knows
            self._most[0:len(sent)] = [math.inf if messages else _FEWEST for messages in sent]
        elif sent == self._looked:
            self._most[0:len(sent)] = [_FEWEST] * len(sent)
        elif (seconds := now - self._looked_at) > 0:
            counts = zip(sent, self._looked, strict=True)
            self._most[0:len(sent)] = [most((new - old) / seconds) for new, old in counts]
        self._looked, self._looked_at = sent, now

    def peek(self, now: float) -> tuple[bool, bool]:
        """Whether messages came since they were counted last; and whether there is a rush that is to be answered."""
        found = self._count(now)
        rush = bool(found & _RUSH) and self._rushes.due(now)
        if rush:
            self._rushes.answer(now)
        return bool(found & _CAME), rush

    def _count(self, now: float) -> int:
        """What cwasi_peek says, and no rush where no time has passed."""
        seconds, self._at = now - self._at, now
        pointers = told_pointers(self._senders)   # held no longer than this takes: who closes an end frees it
        found = int(lib.cwasi_peek(pointers, len(pointers), self._sent, self._most, max(0.0, seconds)))
        return found if seconds > 0 else found & _CAME
