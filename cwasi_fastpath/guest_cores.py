"""Which cores a host's guests are kept to, and what their threads did on them.

Cores are chosen for two guests that have channels with nobody else.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from .channel import Channel
from .guest import Guest
from .kept import Kept, pairs_of
from .placing import Load, sets
from .policy import Cores
from .thread_watch import Ran, Watch

_THREADS = 64
"""Whose time in the run queue is looked at; with more guests than that it is not."""
_MUCH = 0.4
"""Of a core, that others have to take of it, and of no better one, for guests to leave it."""


class GuestCores:
    """Of one host."""

    def __init__(self) -> None:
        self._usable = sorted(os.sched_getaffinity(os.getpid()))   # not of this thread alone
        self._load = Load(self._usable)
        self._watches: dict[str, Watch] = {}
        """By guest."""
        self._looked = False
        """Not long ago: who is new since then has begun since."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self._usable)

    @property
    def others(self) -> float:
        """How many of them others keep busy."""
        return sum(self._load.others.values())

    def times(self, guests: Mapping[str, Guest], now: float) -> dict[str, Ran]:
        """What the thread of each guest did since the last look; and how busy the cores are with other things."""
        if len(guests) > _THREADS:
            self.rest()
            return {}
        for name in self._watches.keys() - guests.keys():
            self._watches.pop(name).close()
        found, ours = {}, dict.fromkeys(self._usable, 0.0)
        for name, guest in guests.items():
            number = guest.thread.number
            if number is None:
                continue
            watch, new = self._watch(name, number)
            did = watch.since()
            if did is None or (new and not self._looked):
                continue
            found[name] = did
            core = watch.last_core()
            if core in ours:
                ours[core] += did.ran
        self._looked = True
        self._load.look(now, ours)
        return found

    def _watch(self, name: str, thread: int) -> tuple[Watch, bool]:
        """Of the thread of a guest; and whether it is new."""
        watch = self._watches.get(name)
        if watch is not None and watch.thread == thread:
            return watch, False
        if watch is not None:   # of another guest, that had this name
            watch.close()
        watch = self._watches[name] = Watch(thread)
        return watch, True

    def rest(self) -> None:
        """Nobody looks for some time."""
        for watch in self._watches.values():
            watch.close()
        self._load.close()
        self._watches, self._load, self._looked = {}, Load(self._usable), False

    def pair(self, kept: Kept, pair: tuple[Guest, ...], active: Iterable[Kept]) -> None:
        """Its guests from now on; those before may run where they might."""
        if pair != kept.pair:
            with suppress(OSError):
                self.place(kept, Cores.FREE, active)
            kept.pair = pair

    def avoid_others(self, kept: Kept, active: Iterable[Kept]) -> bool:
        """Has guests that share a core share another one, where others want theirs, and there is one with less to do:
        whether it has.

        Not each time: of two pairs of two hosts that met on a core only one is to leave. Raises OSError.
        """
        if kept.cores is Cores.ONE and self._load.others.get(kept.places[0], 0.0) > _MUCH and random.random() < 0.5:
            best = self._best_first(kept, active)
            if best and self._load.others[kept.places[0]] - self._load.others[best[0]] > _MUCH:
                self.place(kept, Cores.ONE, active)
                return True
        return False

    def _best_first(self, kept: Kept, active: Iterable[Kept]) -> list[int]:
        """The cores on which its guests may run."""
        taken = Counter(core for other in active if other is not kept for core in other.places)
        usable = set.intersection(set(self._usable), *(guest.thread.allowed() for guest in kept.pair))
        return [core for core in self._load.freest(taken) if core in usable]

    def place(self, kept: Kept, cores: Cores, active: Iterable[Kept]) -> None:
        """Keeps its guests to so many cores. active: the channels whose guests run. Raises OSError."""
        places = sets(cores, self._best_first(kept, active))
        try:
            for number, guest in enumerate(kept.pair):
                guest.thread.place(None if places is None else places[number])
        except OSError:
            for guest in kept.pair:
                guest.thread.place(None)
            kept.cores, kept.places = Cores.FREE, ()
            raise
        kept.cores, kept.places = cores, () if places is None else tuple(core for one in places for core in one)


def pairs_among(channels: Sequence[Channel], guests: Mapping[str, Guest]) -> set[frozenset[str]]:
    """Of functions that run here and have channels with each other and with nobody else."""
    ends = {id(end) for channel in channels for end in (*channel.senders.values(), *channel.receivers.values())}
    alone = {name for name, guest in guests.items() if all(id(end) in ends for end in guest.ends)}
    return {pair for pair in pairs_of(channels) if pair <= alone}
