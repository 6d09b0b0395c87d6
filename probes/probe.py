"""The reader of threads.bpf.c and exit.bpf.c: loads all, says what to trace, and knows who the owners are."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .hosts import FUNCTIONS, PLACES, SLOTS, Hosts, namespace_of
from .kernel import TRACEPOINT, Loaded, Map, possible_cpus
from .loader import ProbeError, Rejected, compile_probe, import_bcc
from .requirements import SYS_BPF
from .tracefs import Tracepoint

BUCKETS = 32  # of a histogram
THREADS = 16384
PROCESSES = 16384
ADOPTED = 1024
_INITIAL_PIDNS = 0xEFFFFFFC  # PROC_PID_INIT_INO
_PROGRAMS = (
    ("sched_process_exit", "on_exit"),
    ("sched_process_exec", "on_exec"),
    ("sched_process_fork", "on_fork"),
)
_INITIAL_PIDNS = 0xEFFFFFFC  # PROC_PID_INIT_INO
_REPORT = f"report it, with the version of this kernel, {platform.release()}"
Programs = tuple[tuple[str, str], ...]
_PENDING, _NEWBORN = 1, 2  # enum thread_state
LOST_THREADS, LOST_CALLS, LOST_TIMES, LOST_TURNS, LOST_TRAFFIC = range(5)  # enum lost


class Counter(ABC):
    """What counts for the traced threads: the reader of one more x.bpf.c."""

    name: str
    """What it counts."""
    source: str
    """Its file."""
    programs: Programs
    """Its raw tracepoints, each with the function that hangs on it, in the order in which to attach them."""
    remedy: str | None = None
    """If the machine may lack the tracepoints: what to do then. Else it must have them."""

    probe: Probe
    """Where the maps are, from its loading on."""

    @abstractmethod
    def defines(self, cpus: int) -> dict[str, int]:
        """The numbers that the file wants to be given, on so many possible CPUs. Raises ProbeError."""

    def attach(self) -> None:
        """Hangs the programs on their tracepoints. Raises ProbeError."""
        self.probe.attach(self.programs)

    def skipped(self) -> int:
        """How many runs of its programs the kernel left out."""
        return sum(self.probe.skipped(function) for _, function in self.programs)

    @abstractmethod
    def forget(self) -> None:
        """Drops all counts."""

    @abstractmethod
    def put_away(self, owners: Set[int]) -> None:
        """Takes what was counted of owners who do nothing any more out of the kernel's maps; it is kept here.

        To be called with the lock of the probe.
        """

    def awake(self, owners: Set[int]) -> Set[int]:
        """Those of them who may get something though no thread runs for them."""
        return set()


@dataclass(frozen=True, slots=True)
class Name:
    """What a traced process is called."""

    pid: int  # in the reader's pid namespace, or in the initial one if it has none there
    comm: str  # printable ASCII
    tid: int  # the thread that was seen first, likewise
    cgroup: int  # the number of its group of v2, 0 if the programs did not see it


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not counted on this machine."""

    name: str
    reason: str
    remedy: str


class Probe:
    """The loaded and attached programs. They count nothing until an order is given and followed by a fork."""

    def __init__(self, counters: Sequence[Counter], by_thread: bool = False) -> None:
        """by_thread: every thread is an owner of its own where no function runs on it.

        Takes 0.1 s, and 0.5 s where it was not compiled before. Raises ProbeError, and then leaves nothing behind.
        """
        self.missing: list[Missing] = []
        self._events: list[int] = []
        self.lock = threading.Lock()
        """For who reads all counts, while what was counted is put away."""
        self._namespace = Path("/proc/self/ns/pid").stat()
        cpus = possible_cpus()
        defines = {**self._defines(), "BY_THREAD": int(by_thread)}
        usable = self._usable(counters, lambda counter: defines.update(counter.defines(cpus)))
        sources = ["threads.bpf.c", *(counter.source for counter in usable), "exit.bpf.c"]
        self._loaded = Loaded(compile_probe(sources, defines, import_bcc()))
        try:
            self.attach(_PROGRAMS)
            for counter in usable:
                counter.probe = self
            self.counters = self._usable(usable, lambda counter: counter.attach())
            self.hosts = Hosts(self.map)
        except BaseException:
            self.close()
            raise

    def _defines(self) -> dict[str, int]:
        dev, ino = namespace_of(self._namespace.st_dev, self._namespace.st_ino)
        return {
            "SLOTS": SLOTS,
            "HOSTS": PLACES + 1,
            "FUNCTIONS": FUNCTIONS,
            "THREADS": THREADS,
            "PROCESSES": PROCESSES,
            "ADOPTED": ADOPTED,
            "PIDNS_DEV": dev,
            "PIDNS_INO": ino,
            "PIDNS_INITIAL": int(ino == _INITIAL_PIDNS),
        }

    def attach(self, programs: Programs) -> None:
        """Hangs functions on raw tracepoints: all or none. Raises ProbeError."""
        for _, function in programs:
            self._loaded.program(function)
        for number, (tracepoint, function) in enumerate(programs):
            try:
                self._loaded.attach(tracepoint, function)
            except ProbeError:
                for earlier, _ in programs[:number]:
                    self._loaded.detach(earlier)
                raise

    def attach_tracepoint(self, tracepoint: Tracepoint, function: str) -> None:
        """Hangs a function on an ordinary tracepoint, whose record it reads. Raises ProbeError."""
        self._events.append(tracepoint.attach(self._loaded.program(function, TRACEPOINT)))

    def _usable(self, counters: Sequence[Counter], step: Callable[[Counter], None]) -> list[Counter]:
        """Those with which a step succeeds; the others are missing. Raises ProbeError where one must not be."""
        usable = []
        for counter in counters:
            try:
                step(counter)
                usable.append(counter)
            except ProbeError as error:
                if counter.remedy is None:
                    raise
                remedy = _REPORT if isinstance(error, Rejected) else counter.remedy
                self.missing.append(Missing(counter.name, str(error).splitlines()[0], remedy))
        return usable

    def map(self, name: str) -> Map:
        """A map of the programs."""
        return self._loaded.map(name)

    def order(self, tid: int, until_exec: bool) -> None:
        """The next thread or process that thread `tid` forks is traced: from its first exec on, or from its start."""
        self._set_order(tid, _PENDING if until_exec else _NEWBORN)

    def cancel_order(self) -> None:
        """Forgets an order that no fork has followed."""
        self._set_order(0, 0)

    def _set_order(self, tid: int, state: int) -> None:
        orders = self.map("orders")
        order = orders.Leaf()
        order.spawner, order.state = tid, state
        order.adopts = len(self.map("adopted"))
        orders[ctypes.c_int(0)] = order

    def adopt(self, pid: int, comm: bytes) -> None:
        """Traces a process that runs already, and what it starts: each of its threads from its next call or switch on.

        Raises ProbeError.
        """
        self.hosts.forget(pid)
        key = pid << 32 | (time.monotonic_ns() >> 20 & 0xFFFFFFFF)
        processes = self.map("processes")
        process = processes.Leaf(self=pid, pid=pid, tid=pid, comm=comm[:15])
        try:
            processes[ctypes.c_uint64(key)] = process
            self.map("adopted")[ctypes.c_uint32(pid)] = ctypes.c_uint64(key)
        except OSError as error:
            raise ProbeError(f"no room for another process: {error}") from error
        self.cancel_order()

    def disown(self, pid: int) -> None:
        """Its threads that have not been met are no longer waited for: whoever has its pid next is another."""
        with suppress(KeyError):
            del self.map("adopted")[ctypes.c_uint32(pid)]
        self.cancel_order()

    def names(self) -> dict[int, Name]:
        """What the owners that are processes are called, by key; of those that have exited too."""
        return {
            int(key.value): Name(
                pid=int(process.pid or process.self),
                comm=printable(process.comm),
                tid=int(process.tid or process.self),
                cgroup=int(process.cgroup),
            )
            for key, process in self.map("processes").items()
        }

    def lost(self) -> list[int]:
        """How often what happened was not counted, because a map was full; by enum lost."""
        return [sum(int(cpu) for cpu in cpus) for cpus in self.map("lost").values()]

    def lost_threads(self) -> int:
        """How many threads could not be followed: a map was full, or the kernel skipped a program's run."""
        return self.lost()[LOST_THREADS] + self.skipped("on_fork")

    def skipped(self, function: str) -> int:
        """How many runs of a program the kernel left out. It does not say whose, so this is never too low."""
        return int(self._loaded.info(function)[26])

    def ran(self, function: str) -> tuple[int, int]:
        """(runs, ns) of a program while the kernel was measuring."""
        info = self._loaded.info(function)
        return int(info[25]), int(info[24])

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Lets the kernel measure what programs take, all of the machine; nothing where it does not let us."""
        attributes = ctypes.create_string_buffer(4)  # BPF_STATS_RUN_TIME
        descriptor = ctypes.CDLL(None).syscall(SYS_BPF[platform.machine()], 32, attributes, 4)  # BPF_ENABLE_STATS
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def group_of(self, pid: int) -> int | None:
        """What the initial pid namespace calls the process of this pid, if it is alive and traced.

        pid: in the reader's pid namespace. From one that is not the initial one, processes in others are not found.
        """
        initial = self._namespace.st_ino == _INITIAL_PIDNS
        with suppress(KeyError):
            if initial and self.map("adopted")[ctypes.c_uint32(pid)]:
                return pid   # its threads may not have been met
        for thread in self.map("threads").values():
            if pid > 0 and (thread.group if initial else thread.pid) == pid:
                return int(thread.group)
        return None

    def pids(self) -> frozenset[int]:
        """The traced processes that are in the reader's pid namespace, and have been met."""
        return frozenset(int(thread.pid) for thread in self.map("threads").values() if thread.pid)

    def processes(self) -> set[tuple[int, int]]:
        """The keys of those, each with its pid."""
        return {(int(thread.process), int(thread.pid)) for thread in self.map("threads").values() if thread.pid}

    def live_threads(self) -> int:
        """How many threads are traced now."""
        return len(self.map("threads"))

    def charged(self) -> set[int]:
        """The owners of what has begun: of calls in flight, and of times off the CPU."""
        found = set()
        for thread in self.map("threads").values():
            if thread.started:
                found.add(int(thread.owner))
            if thread.left:
                found.add(int(thread.left_owner))
        return found

    def forget(self) -> None:
        """Drops all counts and names. Nothing may be traced meanwhile."""
        for counter in self.counters:
            counter.forget()
        self.map("processes").clear()

    def detach(self, counter: Counter) -> None:
        """Takes a counter's programs off; what it has counted stays."""
        for tracepoint, _ in counter.programs:
            self._loaded.detach(tracepoint)

    def close(self) -> None:
        """Detaches the programs and closes the maps; twice is safe."""
        while self._events:
            os.close(self._events.pop())
        self._loaded.close()


def summed(cpus: Any, field: str) -> int:
    """One field of a per-CPU value over all CPUs."""
    return sum(int(getattr(cpu, field)) for cpu in cpus)


def summed_buckets(cpus: Any) -> tuple[int, ...]:
    """The histogram of a struct times over all CPUs."""
    return tuple(sum(counts) for counts in zip(*(cpu.bucket for cpu in cpus), strict=True))


def printable(comm: bytes) -> str:
    """A process names itself: nothing of it may reach a terminal but plain characters."""
    return "".join(chr(byte) if 31 < byte < 127 else "?" for byte in comm) or "?"


def fitting(size: int, cpus: int, budget: int, least: int, most: int) -> int:
    """How many per-CPU values of `size` bytes fit in the budget of all CPUs together, within bounds."""
    return min(max(budget // (size * cpus), least), most)
