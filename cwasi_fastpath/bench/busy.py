"""How busy others keep our cores: those that we have started by their own clocks, all others as the kernel counts."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..placing import STAT, busy_ns
from ..policy.trace import Measured
from ..proc_file import ProcFile

_LOOKS = 4
"""The kernel counts in hundredths of a second, so over some blocks: about as smooth as what a host sees."""
_CPU_CLOCK = 2


class Busy:
    """How many of our cores others keep busy, while a way is run on, and lately."""

    def __init__(self, neighbours: Sequence[int]) -> None:
        """neighbours: processes that want a core each, and are there from now on."""
        self._clocks = [_cpu_clock(pid) for pid in neighbours]
        self._cores = os.sched_getaffinity(0)
        self._stat = ProcFile(STAT)
        self._looks: deque[tuple[int, int]] = deque(maxlen=_LOOKS)

    def close(self) -> None:
        """Nobody asks any more."""
        self._stat.close()

    def beside(self, run: Callable[[], Measured]) -> Measured:
        """A run, with what the neighbours took of the cores during it: not the same on every way."""
        then, before = time.monotonic_ns(), self._neighbours_ns()
        measured = run()
        took = self._neighbours_ns() - before
        return replace(measured, others=took / max(1, time.monotonic_ns() - then))

    def unknown(self) -> float:
        """What anybody else took, lately."""
        busy = busy_ns(self._stat)
        took = sum(busy.get(core, 0) for core in self._cores) - time.process_time_ns() - self._neighbours_ns()
        self._looks.append((time.monotonic_ns(), took))
        (then, before), (now, took) = self._looks[0], self._looks[-1]
        return max(0.0, (took - before) / max(1, now - then))

    def _neighbours_ns(self) -> int:
        """For how long they have run, as of the last tick of their cores: some milliseconds late."""
        return sum(map(time.clock_gettime_ns, self._clocks))


def _cpu_clock(pid: int) -> int:
    """That of all threads of a process: see clock_getcpuclockid(3)."""
    return (~pid << 3) | _CPU_CLOCK
