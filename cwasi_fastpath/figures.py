"""What a tracer tells a host of one of its own functions: sums since the trace began, and what came in some time.

No I/O, no clock. What comes from the other side is taken for anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

VERSION = 1
"""Of what is told, see tracer_socket."""
MOST = 100
"""Functions that are asked for at a time."""

_LARGEST = (1 << 63) - 1
_REMEMBERED = 4096
"""Functions; a process has a quarter of that at a time at most."""
_WAKES = 8
"""Times woken up from which on their mean says something."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one function. None is: not counted on this machine, or by this tracer."""

    calls: int | None = None
    """System calls that have returned."""
    calls_ns: int | None = None
    """Time in them, sleeping included."""
    off_ns: int | None = None
    """Off the CPU."""
    queued_ns: int | None = None
    """The part of it in which a thread could have run."""
    wakeups: int | None = None
    """Times that what a thread waited for came, and it ran."""
    wakeup_ns: int | None = None
    """From the wake-up to running: the other part of queued_ns is that of preempted threads."""
    sent: int | None = None
    """Bytes, through sockets of TCP; so is all below."""
    received: int | None = None
    blocked_ns: int | None = None
    """Asleep in calls that send and receive."""
    retransmits: int | None = None
    """Packets that were sent again."""
    samples: int | None = None
    """How often the next was looked at."""
    srtt_us: int | None = None
    """Smoothed round-trip times, the peer's delay in acknowledging included; the sum."""

    @classmethod
    def parsed(cls, told: object) -> Figures:
        """Of what `plain` gave. Raises ValueError for anything else."""
        if not isinstance(told, list) or len(told) != len(_NAMES):
            raise ValueError(f"{len(_NAMES)} figures were expected")
        for name, value in zip(_NAMES, told, strict=True):
            if value is not None and (type(value) is not int or not 0 <= value <= _LARGEST):
                raise ValueError(f"{name} is {value!r:.40}")
        return cls(*told)

    def plain(self) -> list[int | None]:
        """For JSON."""
        return [getattr(self, name) for name in _NAMES]

    def since(self, before: Figures) -> Figures:
        """What came after that. Raises ValueError where there is less now."""
        return Figures(*(_less(name, getattr(self, name), getattr(before, name)) for name in _NAMES))


_NAMES = tuple(field.name for field in fields(Figures))


def _less(name: str, now: int | None, before: int | None) -> int | None:
    if now is None or before is None:
        return None
    if now < before:
        raise ValueError(f"{name} went back from {before} to {now}")
    return now - before


class Questions:
    """Which functions are asked for, as not all can be at once: those that were not for the longest."""

    def __init__(self) -> None:
        self._number = 0
        self._asked: dict[int, int] = {}
        """In which question each was the last time."""
        self.last: list[int] = []

    def next(self, numbers: Sequence[int]) -> list[int]:
        """Those of these that are to be asked for now."""
        self._number += 1
        self.last = sorted(numbers, key=lambda number: self._asked.get(number, 0))[:MOST]
        self._asked |= dict.fromkeys(self.last, self._number)
        if len(self._asked) > _REMEMBERED:   # most are no functions any more
            self._asked = dict(sorted(self._asked.items(), key=lambda item: item[1])[-_REMEMBERED // 2 :])
        return self.last


@dataclass(frozen=True, slots=True)
class Spent:
    """What one function did in a time that has just passed."""

    seconds: float
    figures: Figures

    @property
    def ran_ns(self) -> float | None:
        """On its core, if it is one thread; None where it came back from a sleep that is longer than this time, or may
        be in one all the time: that counts when it is over.
        """
        off, queued = self.figures.off_ns, self.figures.queued_ns
        if off is None or queued is None or queued > off or not (off or self.figures.wakeups):
            return None
        ran = self.seconds * 1e9 - off
        return ran if ran >= 0 else None

    @property
    def contention(self) -> float | None:
        """The part of the time in which it could have run that it waited for a core."""
        ran, queued = self.ran_ns, self.figures.queued_ns
        if ran is None or queued is None:
            return None
        return queued / (ran + queued) if ran + queued > 0 else 0.0

    @property
    def kernel_ns(self) -> float | None:
        """In system calls, without the sleep in them; None where that is more than one thread can be in."""
        f = self.figures
        if f.calls_ns is None or f.off_ns is None or f.queued_ns is None or f.wakeup_ns is None:
            return None
        preempted = f.queued_ns - f.wakeup_ns
        found = float(max(0, f.calls_ns - (f.off_ns - preempted)))
        return found if found <= self.seconds * 1e9 else None

    @property
    def woken_ns(self) -> float | None:
        """From being woken up to running, the mean; None where that is longer than all of it."""
        wakeups, ns = self.figures.wakeups, self.figures.wakeup_ns
        if ns is None or wakeups is None or wakeups < _WAKES or ns > wakeups * self.seconds * 1e9:
            return None
        return ns / wakeups

    @property
    def srtt_ns(self) -> float | None:
        """There and back on its connections of TCP, the mean."""
        samples, us = self.figures.samples, self.figures.srtt_us
        return 1000 * us / samples if us is not None and samples else None
