"""Which of a host's channels are looked at more closely at a look: those whose ends have counted anything, and of many
such a part at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from .channel import Channel
from .kept import Kept
from .observing import Counts, Ends

_LEAST, _PART = 32, 8
"""Of those that can wait so many at a look, or that part of them if that is more: the window of the others goes on. So
what a look costs for all of them is spread over enough, and what is new is looked at again soon."""


class Rota:
    """Of channels that stay the same."""

    def __init__(self, active: Sequence[Kept]) -> None:
        self._active = active
        self._ends = Ends([end for kept in active for end in kept.ends])
        self._owners = [number for number, kept in enumerate(active) for _ in kept.ends]
        """Of each end, the number of its channel."""
        self._first = [0] * len(active)
        for place in reversed(range(len(self._owners))):
            self._first[self._owners[place]] = place
        self._always = [number for number, kept in enumerate(active) if not isinstance(kept.channel, Channel)]
        """What is to be known of these is not all with us."""
        self._waiting: dict[int, None] = {}
        """Who came first is first."""

    def next(self, before: float) -> list[tuple[Kept, list[Counts | None]]]:
        """Whose turn it is, with what its ends have counted. before: when that was asked the last time.

        Who waits longest comes first; but half of the places are for those of which something was new the last time.
        Two guests' channels are looked at together and always, as what their threads did is known from look to look.
        """
        busy = [*self._always, *(self._owners[place] for place in self._ends.changed())]
        for number in busy:
            if number not in self._waiting:
                self._waiting[number] = None
                self._active[number].begins_to_wait(before)
        turn = sorted(self._turn())
        for number in turn:
            del self._waiting[number]
            self._active[number].waits = False
        return [(self._active[number], self._counts(number)) for number in turn]

    def _turn(self) -> list[int]:
        if len(self._waiting) <= _LEAST:
            return list(self._waiting)
        fixed: list[int] = []
        loose: list[int] = []
        for number in self._waiting:
            kept = self._active[number]
            can_wait = kept.counted is not None and not kept.pair and isinstance(kept.channel, Channel)
            (loose if can_wait else fixed).append(number)
        places = max(_LEAST, len(loose) // _PART)
        new = [number for number in loose if _was_new(self._active[number])][: places // 2]
        return [*fixed, *list(dict.fromkeys([*new, *loose]))[:places]]

    def _counts(self, number: int) -> list[Counts | None]:
        first = self._first[number]
        return [self._ends.counts(place) for place in range(first, first + len(self._active[number].ends))]


def _was_new(kept: Kept) -> bool:
    """Whether its last window was unlike those before."""
    return kept.observation is not None and kept.new
