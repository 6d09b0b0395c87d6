"""How busy others keep our cores."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path


class Busy:
    """How many of our cores others have kept busy, lately."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float, float]] = deque(maxlen=2)
        self._tick = os.sysconf("SC_CLK_TCK")

    def others(self) -> float | None:
        """Since some blocks ago: the kernel counts in hundredths of a second."""
        now = (time.monotonic(), self._all(), time.process_time())
        self._looks.append(now)
        then = self._looks[0]
        if now[0] <= then[0]:
            return None
        return round(max(0.0, (now[1] - then[1] - (now[2] - then[2])) / (now[0] - then[0])), 3)

    def _all(self) -> float:
        """Seconds for which our cores were busy."""
        ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        busy = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in ours:
                user, nice, system, _, _, irq, soft, *_ = map(int, fields)
                busy += user + nice + system + irq + soft
        return busy / self._tick
