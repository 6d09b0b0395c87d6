"""On which cores the threads of guests run, and how busy the cores are with something else.

Only within the cores that this process may use (its affinity mask, which a cpuset of its control group narrows), and
taken back at the end. What the threads of others do is read from /proc, which needs no root.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from .core_pair import pair, topology
from .policy import Cores
from .proc_file import ProcFile

STAT = "/proc/stat"
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_SMOOTH = 0.05
"""Seconds over which the load of a core is smoothed: the kernel counts in hundredths, and who leaves is soon missed."""
_SHORTEST = 0.04
"""Seconds: in less, these hundredths say nothing."""


class Thread:
    """The thread of a guest, while it runs: nobody places a thread whose number may be another's by now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number: int | None = None
        self._before: set[int] | None = None
        """Where it might run before it was placed,"""
        self._placed: set[int] = set()
        """and where it was."""

    def begins(self) -> None:
        """This thread is it."""
        self._number = threading.get_native_id()

    def ends(self) -> None:
        """Not any more; the thread may run where it might before."""
        with self._lock:
            self._place(None)
            self._number = None

    @property
    def number(self) -> int | None:
        """None before and after."""
        return self._number

    def allowed(self) -> set[int]:
        """Where it might run if it was not placed."""
        with self._lock:
            number = self._number or 0
            try:
                free, now = self._free(number), os.sched_getaffinity(number)
            except ProcessLookupError:
                return set()
            return free if free == now else free & _possible(free | now) or now

    def place(self, cores: set[int] | None) -> bool:
        """Keeps it to these cores; None: where it might run before. Whether it runs at all. Raises OSError."""
        with self._lock:
            return self._place(cores)

    def _place(self, cores: set[int] | None) -> bool:
        if self._number is None:
            return False
        if cores is None:
            if self._before is not None:
                with suppress(OSError):   # a cpuset that has changed meanwhile has placed it already
                    os.sched_setaffinity(self._number, self._free(self._number))
                self._before = None
            return True
        self._before = self._free(self._number)
        os.sched_setaffinity(self._number, cores)
        self._placed = os.sched_getaffinity(self._number)
        return True

    def _free(self, number: int) -> set[int]:
        """Where it may run if we do not place it: who has moved it meanwhile, as taskset does, has chosen that."""
        now = os.sched_getaffinity(number)
        if self._before is None or (now != self._placed and not self._driven_out(self._before, now)):
            return now
        return set(self._before)

    def _driven_out(self, before: set[int], now: set[int]) -> bool:
        """Whether a cpuset has none of the cores left to which it was kept: then it may run on all that there are now,
        and nobody has chosen that.
        """
        possible = _possible(before | self._placed | now)
        return now == possible and not possible & self._placed


def _possible(cores: set[int]) -> set[int]:
    """On which of these, some of which are, threads of this process may run at all, as its cpuset is now."""
    found: set[int] = set()

    def ask() -> None:
        with suppress(OSError):   # by now none of them
            os.sched_setaffinity(0, cores)
            found.update(os.sched_getaffinity(0))

    thread = threading.Thread(target=ask)   # of its own: the kernel remembers what a thread has wished
    with suppress(RuntimeError):   # there are too many
        thread.start()
        thread.join()
    return found


class Load:
    """How busy each core is, with what is not ours."""

    def __init__(self, cores: Iterable[int]) -> None:
        self._stat = ProcFile(STAT)
        self._busy: dict[int, int] = {}
        """How long each core was, when that was looked at last,"""
        self._ours: Counter[int] = Counter()
        """By core, what our own threads ran there since then, ns."""
        self._at = 0.0
        self._known = False
        self.others: dict[int, float] = dict.fromkeys(cores, 0.0)
        """By core, the share of its time, smoothed."""

    def look(self, now: float, ours: Mapping[int, float]) -> None:
        """ours: by core, what our own threads ran there since the last look, ns."""
        seconds = now - self._at
        self._ours.update(ours)
        if self._busy and 0 <= seconds < _SHORTEST:
            return
        busy = busy_ns(self._stat)
        if self._busy and seconds > 0:
            weight = seconds / (seconds + _SMOOTH) if self._known else 1.0
            self._known = True
            for core, share in self._shares(busy, seconds * 1e9, self._ours).items():
                self.others[core] += weight * (share - self.others[core])
        self._busy, self._at = busy, now
        self._ours.clear()

    def _shares(self, busy: Mapping[int, int], ns: float, ours: Mapping[int, float]) -> dict[int, float]:
        """By core, what others took of it since the last look. A thread of ours that ran on two cores counts on one of
        them; so all cores together say how much the others took at most.
        """
        took = {core: busy[core] - self._busy[core] for core in self.others if core in busy and core in self._busy}
        shares = {core: min(1.0, max(0.0, (one - ours.get(core, 0.0)) / ns)) for core, one in took.items()}
        most = max(0.0, (sum(took.values()) - sum(ours.get(core, 0.0) for core in took)) / ns)
        whole = sum(shares.values())
        return {core: share * min(1.0, most / whole) if whole else 0.0 for core, share in shares.items()}

    def close(self) -> None:
        """Nobody looks any more."""
        self._stat.close()

    def freest(self, taken: Mapping[int, int]) -> Sequence[int]:
        """The cores, those first on which fewest of ours were placed, then those with the least else to do."""
        return sorted(self.others, key=lambda core: (taken.get(core, 0), round(self.others[core], 1), core))


def busy_ns(stat: ProcFile) -> dict[int, int]:
    """By core, for how long it did anything since the machine started; empty where that cannot be seen. stat:
    /proc/stat.
    """
    found = {}
    try:
        for line in stat.read().split(b"\n"):
            name, *fields = line.split() or [b""]
            if not name.startswith(b"cpu"):
                break   # they come first
            if name[3:].isdigit() and len(fields) >= 8:
                user, nice, system, _idle, _io, interrupts, soft, steal = map(int, fields[:8])
                found[int(name[3:])] = (user + nice + system + interrupts + soft + steal) * _TICK_NS
    except (OSError, ValueError):
        return {}
    return found


def sets(cores: Cores, usable: Sequence[int]) -> tuple[set[int], set[int]] | None:
    """Where the threads of both ends go. usable: the best first. None: where the kernel puts them.

    Raises OSError where there are too few.
    """
    if cores is Cores.FREE:
        return None
    if len(usable) < (2 if cores is Cores.TWO else 1):
        raise OSError(errno.EINVAL, f"the threads may run on too few cores for {cores}")
    if cores is Cores.ONE:
        return {usable[0]}, {usable[0]}
    one, other = pair(usable, topology())
    return {one}, {other}
