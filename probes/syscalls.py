"""The reader of syscalls.bpf.c: loads it, tells it what to trace, and adds its per-CPU counts up."""

from __future__ import annotations

import atexit
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .loader import compile_probe, diagnostics, import_bcc

FUNCTIONS = 1024  # ids 1 to 1023; a thread's slot holds 0 while it runs none
THREADS = 16384
PROCESSES = 16384
_COUNTS_BYTES = 64 << 20  # of all CPUs together: what the counts may take
_PROGRAMS = {
    "sched_process_exit": "on_exit",
    "sched_process_exec": "on_exec",
    "sched_process_fork": "on_fork",
    "sys_exit": "on_sys_exit",
    "sys_enter": "on_sys_enter",
}
_MAPS = ("threads", "processes", "counts", "lost", "orders")
_PENDING, _NEWBORN = 1, 2  # enum thread_state


@dataclass(frozen=True, slots=True)
class Total:
    """What one owner did with one system call."""

    owner: int  # a function's id, or a process's key, which is >= 2**32
    number: int
    count: int
    ns: int
    result: int  # sum of the positive return values


@dataclass(frozen=True, slots=True)
class Name:
    """What a traced process is called."""

    pid: int  # in the reader's pid namespace, or in the initial one if it has none there
    comm: str  # printable ASCII


class SyscallProbe:
    """The loaded and attached program. Counts nothing until an order is given and followed by a fork."""

    def __init__(self) -> None:
        """Takes 0.2 s. Raises ProbeError, and then leaves nothing behind."""
        bcc = import_bcc()
        self.slots = int(Path("/proc/sys/kernel/pid_max").read_text()) // 2 * 2
        self._bpf = compile_probe("syscalls.bpf.c", self._defines(len(bcc.utils.get_possible_cpus())), bcc)
        try:
            self._attach(bcc)
            self.slots_fd: int = bcc.lib.bpf_table_fd(self._bpf.module, b"slots")
            self._tables = {name: self._bpf[name.encode()] for name in _MAPS}
            self._get_info = bcc.lib.bpf_obj_get_info
        except BaseException:
            self.close()
            raise

    def _defines(self, cpus: int) -> dict[str, int]:
        namespace = Path("/proc/self/ns/pid").stat()
        counts = _COUNTS_BYTES // (24 * cpus)
        return {
            "SLOTS": self.slots,
            "FUNCTIONS": FUNCTIONS,
            "COUNTS": min(max(counts, 16384), 65536),
            "THREADS": THREADS,
            "PROCESSES": PROCESSES,
            # The kernel's own encoding of a device number, not that of stat.
            "PIDNS_DEV": os.major(namespace.st_dev) << 20 | os.minor(namespace.st_dev),
            "PIDNS_INO": namespace.st_ino,
        }

    def _attach(self, bcc: Any) -> None:
        for tracepoint, function in _PROGRAMS.items():
            with diagnostics():
                self._bpf.load_func(function.encode(), bcc.BPF.RAW_TRACEPOINT)
                self._bpf.attach_raw_tracepoint(tracepoint.encode(), function.encode())

    def order(self, tid: int, until_exec: bool) -> None:
        """The next thread or process that thread `tid` forks is traced: from its first exec on, or from its start."""
        self._set_order(tid, _PENDING if until_exec else _NEWBORN)

    def cancel_order(self) -> None:
        """Forgets an order that no fork has followed."""
        self._set_order(0, 0)

    def _set_order(self, tid: int, state: int) -> None:
        orders = self._tables["orders"]
        order = orders.Leaf()
        order.spawner, order.state = tid, state
        orders[ctypes.c_int(0)] = order

    def totals(self) -> Iterator[Total]:
        """Every total so far. A call counts when it has returned."""
        for call, cpus in self._tables["counts"].items():
            yield Total(
                int(call.owner),
                int(call.nr),
                sum(cpu.count for cpu in cpus),
                sum(cpu.ns for cpu in cpus),
                sum(cpu.result for cpu in cpus),
            )

    def names(self) -> dict[int, Name]:
        """What the owners that are processes are called, by key; of those that have exited too."""
        return {
            int(key.value): Name(int(process.pid or process.tgid), _printable(process.comm))
            for key, process in self._tables["processes"].items()
        }

    def lost(self) -> tuple[int, int]:
        """(system calls, threads) that were not counted: a map was full, or the kernel skipped a program's run.

        The kernel does not say whose run it skipped, so that the first may be too high, but never too low.
        """
        calls, threads = (sum(int(cpu) for cpu in cpus) for cpus in self._tables["lost"].values())
        skipped = {name: self._skipped(name) for name in _PROGRAMS.values()}
        return calls + skipped["on_sys_enter"] + skipped["on_sys_exit"], threads + skipped["on_fork"]

    def _skipped(self, function: str) -> int:
        info = (ctypes.c_uint64 * 28)()  # struct bpf_prog_info up to recursion_misses and one beyond
        size = ctypes.c_uint32(ctypes.sizeof(info))
        if self._get_info(self._bpf.funcs[function.encode()].fd, info, ctypes.byref(size)):
            return 0
        return int(info[26])  # stays 0 on a kernel that does not know it

    def traces(self, pid: int) -> bool:
        """Whether a process of this pid, in the reader's pid namespace, is alive and traced."""
        return pid > 0 and any(thread.pid == pid for thread in self._tables["threads"].values())

    def live_threads(self) -> int:
        """How many threads are traced now."""
        return sum(1 for _ in self._tables["threads"].keys())  # noqa: SIM118 - a bcc table, not a dict

    def forget(self) -> None:
        """Drops all counts and names. Nothing may be traced meanwhile."""
        self._tables["counts"].clear()
        self._tables["processes"].clear()

    def close(self) -> None:
        """Detaches the programs and closes the maps; twice is safe."""
        self._bpf.cleanup()
        atexit.unregister(self._bpf.cleanup)


def _printable(comm: bytes) -> str:
    """A process names itself: nothing of it may reach a terminal but plain characters."""
    return "".join(chr(byte) if 31 < byte < 127 else "?" for byte in comm) or "?"
