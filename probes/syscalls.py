"""The reader of syscalls.bpf.c: adds its per-CPU counts up."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from .probe import LOST_CALLS, LOST_TIMES, Counter, fitting, summed, summed_buckets
from .syscall_classes import class_number
from .syscall_names import known_syscalls

_CALLS = 512  # numbers that have a class; above any that Linux has given out


@dataclass(frozen=True, slots=True)
class Total:
    """What one owner did with one system call."""

    owner: int  # a function's id, or a process's key, which is >= 2**32
    number: int
    count: int
    ns: int
    result: int  # sum of the positive return values
    failed: int  # those that returned an error
    failed_ns: int


@dataclass(frozen=True, slots=True)
class Times:
    """How long the calls of one class took one owner."""

    owner: int
    number: int  # of the class
    histogram: tuple[int, ...]


class Syscalls(Counter):
    """Counts every system call of the traced threads."""

    name = "system calls"
    source = "syscalls.bpf.c"
    programs = (("sys_exit", "on_sys_exit"), ("sys_enter", "on_sys_enter"))

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

    def totals(self) -> Iterator[Total]:
        """Every total so far. A call counts when it has returned."""
        for call, cpus in self.probe.map("counts").items():
            sums = (summed(cpus, field) for field in ("count", "ns", "result", "failed", "failed_ns"))
            yield Total(int(call.owner), int(call.nr), *sums)

    def times(self) -> Iterator[Times]:
        """Every histogram so far."""
        for key, cpus in self.probe.map("times").items():
            yield Times(int(key.owner), int(key.number), summed_buckets(cpus))

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
