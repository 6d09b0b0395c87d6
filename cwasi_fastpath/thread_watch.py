"""What a thread of this process does, from its clock and from /proc, which needs no root."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from .proc_file import ProcFile

_CLOCK = 6
"""Of the CPU time of one thread: see clock_getcpuclockid(3)."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a thread did since it began, ns."""

    ran: int
    waited: int
    """It could have run, but others had the core."""

    def since(self, before: Ran) -> Ran:
        return Ran(max(0, self.ran - before.ran), max(0, self.waited - before.waited))

    @property
    def contention(self) -> float:
        """The part of the time in which it could have run that it waited."""
        return self.waited / (self.ran + self.waited) if self.waited else 0.0


def together(threads: Iterable[Ran | None]) -> Ran | None:
    """What they all did; None where it is not known of one."""
    ran = waited = 0
    for one in threads:
        if one is None:
            return None
        ran, waited = ran + one.ran, waited + one.waited
    return Ran(ran, waited)


class Watch:
    """Of one thread, while it runs."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._clock = (~thread << 3) | _CLOCK
        self._schedstat, self._stat = (ProcFile(f"/proc/self/task/{thread}/{name}") for name in ("schedstat", "stat"))
        self._before: Ran | None = Ran(0, 0)

    def ran(self) -> Ran | None:
        """Until now; None where it is gone, or the kernel does not count this."""
        try:
            # Schedstat has what it ran, too, but as of the last tick.
            return Ran(time.clock_gettime_ns(self._clock), int(self._schedstat.read().split()[1]))
        except (OSError, ValueError, IndexError):
            return None

    def since(self) -> Ran | None:
        """The same, since this was asked the last time, or since it began; None also where that was None."""
        before, self._before = self._before, self.ran()
        return None if before is None or self._before is None else self._before.since(before)

    def last_core(self) -> int | None:
        """On which it ran last."""
        try:
            return int(self._stat.read().rpartition(b")")[2].split()[36])
        except (OSError, ValueError, IndexError):
            return None

    def close(self) -> None:
        """It may be asked again."""
        self._schedstat.close()
        self._stat.close()
