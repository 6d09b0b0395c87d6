"""The reader of syscalls.bpf.c: adds its per-CPU counts up."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from .past import Counted, Key, of_owners, put, take_out
from .probe import LOST_CALLS, LOST_TIMES, Counter, fitting, summed, summed_buckets
from .syscall_classes import class_number
from .syscall_names import known_syscalls

_CALLS = 512  # numbers that have a class; above any that Linux has given out


@dataclass(frozen=True, slots=True)
class Total(Counted):
    """What one owner did with one system call."""

    NAMES = ("owner", "number")

    number: int
    count: int
    ns: int
    result: int  # sum of the positive return values
    failed: int  # those that returned an error
    failed_ns: int


@dataclass(frozen=True, slots=True)
class Times(Counted):
    """How long the calls of one class took one owner."""

    NAMES = ("owner", "number")

    number: int  # of the class
    histogram: tuple[int, ...]


class Syscalls(Counter):
    """Counts every system call of the traced threads."""

    name = "system calls"
    source = "syscalls.bpf.c"
    programs = (("sys_exit", "on_sys_exit"), ("sys_enter", "on_sys_enter"))

    def __init__(self) -> None:
        self._past_totals: dict[Key, Total] = {}
        self._past_times: dict[Key, Times] = {}

    def defines(self, cpus: int) -> dict[str, int]:
        """See Counter."""
        return {
            "COUNTS": fitting(40, cpus, 64 << 20, 16384, 65536),
            "TIMES": fitting(256, cpus, 32 << 20, 1024, 8192),
            "CALLS": _CALLS,
        }

    def attach(self) -> None:
        """See Counter."""
        classes = self.probe.map("classes")
        for number, name in known_syscalls().items():
            if number < _CALLS and class_number(name):
                classes[ctypes.c_int(number)] = ctypes.c_uint32(class_number(name))
        super().attach()

    def totals(self, owners: Set[int] | None = None) -> Iterator[Total]:
        """Every total so far, of one owner and call one or two. A call counts when it has returned.

        owners: of these only.
        """
        yield from of_owners(self._past_totals.values(), owners)
        for call, cpus in self.probe.map("counts").items():
            if owners is None or call.owner in owners:
                yield _total(call, cpus)

    def times(self) -> Iterator[Times]:
        """Every histogram so far, of one owner and class one or two."""
        yield from self._past_times.values()
        for key, cpus in self.probe.map("times").items():
            yield _times(key, cpus)

    def lost(self) -> int:
        """Calls that were not counted: a map was full, or the kernel skipped a program's run."""
        return self.probe.lost()[LOST_CALLS] + self.skipped()

    def lost_times(self) -> int:
        """Calls that were counted, but are in no histogram."""
        return self.probe.lost()[LOST_TIMES]

    def forget(self) -> None:
        """See Counter."""
        self.probe.map("counts").clear()
        self.probe.map("times").clear()

    def put_away(self, owners: Set[int]) -> None:
        """See Counter."""
        for call, cpus in take_out(self.probe.map("counts"), lambda call: call.owner in owners):
            put(self._past_totals, _total(call, cpus))
        for key, cpus in take_out(self.probe.map("times"), lambda key: key.owner in owners):
            put(self._past_times, _times(key, cpus))


def _total(call: Any, cpus: Any) -> Total:
    sums = (summed(cpus, field) for field in ("count", "ns", "result", "failed", "failed_ns"))
    return Total(int(call.owner), int(call.nr), *sums)


def _times(key: Any, cpus: Any) -> Times:
    return Times(int(key.owner), int(key.number), summed_buckets(cpus))
