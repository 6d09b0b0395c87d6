"""The reader of scheduling.bpf.c."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from .past import Counted, Key, of_owners, put, take_out
from .probe import LOST_TURNS, Counter, fitting, summed, summed_buckets


@dataclass(frozen=True, slots=True)
class Turns(Counted):
    """How one owner got on and off the CPU."""

    voluntary: int
    involuntary: int
    unseen: int  # halves of switches whose other half the kernel did not trace
    off: int  # ns
    queued: int  # ns
    wakeups: int
    wakeup: int  # ns
    histogram: tuple[int, ...]  # of the ns from wake-up to running


class Scheduling(Counter):
    """Counts every switch of the traced threads."""

    name = "scheduling"
    source = "scheduling.bpf.c"
    programs = (("sched_switch", "on_switch"), ("sched_wakeup", "on_wakeup"))
    remedy = "use Linux 5.18 or newer, whose sched_switch tells a thread's state"

    def __init__(self) -> None:
        self._past: dict[Key, Turns] = {}

    def defines(self, cpus: int) -> dict[str, int]:
        """See Counter."""
        return {"TURNS": fitting(312, cpus, 16 << 20, 1024, 4096)}

    def turns(self, owners: Set[int] | None = None) -> Iterator[Turns]:
        """Every owner's so far, in one or two. What a thread waits for is added when it runs again.

        owners: of these only.
        """
        yield from of_owners(self._past.values(), owners)
        for owner, cpus in self.probe.map("turns").items():
            if owners is None or owner.value in owners:
                yield _turns(owner.value, cpus)

    def ns_per_switch(self) -> float | None:
        """What a switch and its wake-up took while the kernel was measuring; None if it was not."""
        switches, ns = self.probe.ran("on_switch")
        return (ns + self.probe.ran("on_wakeup")[1]) / switches if switches else None

    def lost(self) -> int:
        """Switches that were not counted: a map was full, or the kernel skipped a program's run."""
        return self.probe.lost()[LOST_TURNS] + self.skipped()

    def forget(self) -> None:
        """See Counter."""
        self.probe.map("turns").clear()

    def put_away(self, owners: Set[int]) -> None:
        """See Counter."""
        for owner, cpus in take_out(self.probe.map("turns"), lambda owner: owner.value in owners):
            put(self._past, _turns(owner.value, cpus))


def _turns(owner: int, cpus: Any) -> Turns:
    return Turns(
        owner=owner,
        voluntary=summed(cpus, "voluntary"),
        involuntary=summed(cpus, "involuntary"),
        unseen=summed(cpus, "unseen"),
        off=summed(cpus, "off"),
        queued=summed(cpus, "queued"),
        wakeups=summed(cpus, "wakeups"),
        wakeup=summed(cpus, "wakeup"),
        histogram=summed_buckets([cpu.wakeups_by_time for cpu in cpus]),
    )
