"""Functions whose number another one has now, or whose host has left: their counts leave the kernel's maps.

These have room for the functions that there are at a time, not for all that there ever were.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from .probe import Probe

_MANY, _TOO_MANY = 256, 1024


class Retired:
    """Owners who do nothing any more. Used by one thread."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._waiting: set[int] = set()
        self._fresh = 0

    def add(self, owners: Iterable[int]) -> None:
        """No slot says their numbers any more. Now and then their counts are put away, if the kernel lets us."""
        before = len(self._waiting)
        self._waiting.update(owners)
        self._fresh += len(self._waiting) - before
        # Who retires them is waited for by a host, and a look at all counts takes long where there are many.
        if self._fresh >= _TOO_MANY or (self._fresh >= _MANY and not self._probe.lock.locked()):
            self._fresh = 0
            with suppress(OSError):
                self._put_away()

    def revive(self, owner: int) -> None:
        """It gets a number again."""
        self._waiting.discard(owner)

    def _put_away(self) -> None:
        """A program that counts on while its entry is deleted would count for who gets the entry next: none may."""
        hosts, counters = self._probe.hosts, self._probe.counters
        hosts.wait()   # so that none still takes an owner from a slot
        idle = self._waiting - self._probe.charged()
        awake = [counter.awake(idle) for counter in counters]
        hosts.wait()   # so that none is left of a call that has ended just now
        with self._probe.lock:
            for counter, still in zip(counters, awake, strict=True):
                counter.put_away(idle - still)
        self._waiting -= idle.difference(*awake)
