"""Plays a script under a policy: two guests exchange messages, each of which is checked, while what they do, and what
else the cores have to do, changes.

A guest sends, and waits until its message comes back. Both run in a host of this process, on at most two cores, which
are the same for every policy; a busy neighbour runs on the last of them. Where the script moves the receiver, the two
find each other by name instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from .. import calibration, errors
from ..host import Host
from ..neighbour import neighbours
from ..policy import Costs, Policy
from ..policy.comparisons import policy_named
from .moving import MovingPair
from .pair import Pair
from .played import Change, Part, Played, Slice
from .script import Phase

_CORES = 2
_LOOK = 0.02
"""Seconds between two looks at which way the channels go."""
_PATIENCE = 30.0
"""Seconds that a message may take; longer, and it is lost."""

Tell = Callable[[str, float], None]
"""Is told the phase, and how much of the run is over, from 0 to 1."""


def play(
    script: Sequence[Phase], name: str, tell: Tell | None = None, make: Callable[[Costs], Policy] | None = None
) -> Played:
    """name: of the policy. make: makes it, for this machine, where that is none of cwasi_fastpath.policy.comparisons.

    Raises BadSpec for a name that is unknown, Corrupted for a message that is wrong, lost or doubled, Timeout,
    Unavailable, HostDied, and what Host.run raises.
    """
    costs = calibration.costs(None)
    policy = policy_named(name, costs) if make is None else make(costs)
    moves = any(phase.receiver != "here" for phase in script)
    with kept_to(some_cores()) as cores, Host(policy=policy) as host:
        pair = MovingPair(host, policy, name) if moves else Pair(host)
        try:
            return _Play(script, pair, cores, tell).played(name)
        finally:
            pair.close()


def some_cores() -> tuple[int, ...]:
    """The first and the last that we may use: on as many cores as there may be, two are what two guests need."""
    usable = sorted(os.sched_getaffinity(os.getpid()))
    return tuple(usable) if len(usable) <= _CORES else (usable[0], usable[-1])


@contextmanager
def kept_to(cores: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """This thread, and those that it starts. (A host looks at the process's first thread.)"""
    threads = {0, os.getpid()}
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        for thread in threads:
            os.sched_setaffinity(thread, cores)
        yield tuple(cores)
    finally:
        for thread, allowed in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, allowed)


class _Play:
    """One run."""

    def __init__(self, script: Sequence[Phase], pair: Pair, cores: tuple[int, ...], tell: Tell | None) -> None:
        self._script, self._pair, self._cores, self._tell = script, pair, cores, tell
        self._began = time.monotonic()
        self._trips = 0
        self._over = 0.0
        """Seconds of the script."""
        self._changes: list[Change] = []

    def played(self, name: str) -> Played:
        parts = tuple(map(self._part, self._script))
        self._pair.end(self._trips)
        return Played(name, self._cores, parts, tuple(self._changes))

    def _part(self, phase: Phase) -> Part:
        begin = self._now()
        on = [self._cores[-1 - number % len(self._cores)] for number in range(phase.busy)]
        with neighbours(on):
            slices = self._slices(phase)
            explanation, text = self._pair.explained()
        self._over += phase.seconds
        return Part(phase, begin, self._now(), tuple(slices), explanation, text)

    def _slices(self, phase: Phase) -> list[Slice]:
        self._pair.prepare(phase.receiver)
        begin = heard = self._now()
        slices: list[Slice] = []
        self._pair.begin(phase)
        self._pair.place(phase.receiver)
        self._look(phase, begin)
        while True:
            for at, trips, total, worst in self._pair.records(_LOOK):
                if not at:
                    return slices
                heard = self._now()
                self._trips += trips
                slices.append(Slice(begin + at / 1e9, 2 * trips, total, worst / 2))
            self._look(phase, begin)
            if self._now() - heard > _PATIENCE + (0.0 if phase.rate is None else 1 / phase.rate):
                raise errors.Timeout(f"phase {phase.name}: no message has come back for {_PATIENCE:.0f} s")

    def _look(self, phase: Phase, begin: float) -> None:
        """Which way the channels go now."""
        now = self._now()
        for name, (way, mode) in self._pair.ways().items():
            before = next((change for change in reversed(self._changes) if change.channel == name), None)
            if before is None or (before.way, before.mode) != (way, mode):
                self._changes.append(Change(0.0 if before is None else now, name, way, mode))
        if self._tell is not None:
            done = self._over + min(phase.seconds, now - begin)
            self._tell(phase.name, done / sum(one.seconds for one in self._script))

    def _now(self) -> float:
        return time.monotonic() - self._began
