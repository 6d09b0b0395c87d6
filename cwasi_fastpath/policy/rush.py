"""When so many more messages come than before that nobody should wait for the next look."""

from __future__ import annotations

PEEK_SECONDS, WINDOW_SECONDS = 0.01, 0.005
"""Between two looks, from one time that messages are only counted to the next; and how long a rush is watched."""
_TIMES, _FEW = 8.0, 10_000.0
"""So many times as many as before; and messages a second for which the next look is soon enough."""
_APART = 0.5
"""Seconds from one rush to the next: who sends in bursts is not to be looked at all the time."""


def most(before: float) -> float:
    """Messages a second that are no rush, after so many."""
    return max(_FEW, _TIMES * before)


class Rushes:
    """Those that are answered, one after the other."""

    def __init__(self) -> None:
        self._last: float | None = None

    def due(self, now: float) -> bool:
        """Whether one would be answered."""
        return self._last is None or now - self._last >= _APART

    def answer(self, now: float) -> None:
        """One is."""
        self._last = now
