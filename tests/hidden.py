"""Referees for the tests of the tracer: what a kernel did not show to programs at all."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cwasi_fastpath.probes import tracefs
from cwasi_fastpath.probes.compiled import Compiled, taken_from
from cwasi_fastpath.probes.kernel import TRACEPOINT, Loaded
from cwasi_fastpath.probes.loader import HEADERS, import_bcc

_PERF_EVENT_OPEN = {"x86_64": 298}.get(platform.machine(), 241)
_SET_BPF = 0x40042408  # PERF_EVENT_IOC_SET_BPF
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")


class Hidden:
    """Counts events for which no program was run, since the beginning."""

    def __init__(self, counters: list[int]) -> None:
        self._counters = counters

    def count(self) -> int:
        """Of the whole machine."""
        return sum(struct.unpack("Q", os.read(counter, 8))[0] for counter in self._counters)


@contextmanager
def hidden_events(name: str) -> Iterator[Hidden]:
    """Of a tracepoint `category/event`. A program on it drops all that it is shown, so that perf counts the rest."""
    with ExitStack() as stack:
        loaded = Loaded(Compiled((), {"drop": _RETURN_0}))
        stack.callback(loaded.close)
        attributes = struct.pack("IIQ", 2, 64, tracefs.describe(name).id) + bytes(64 - 16)  # PERF_TYPE_TRACEPOINT
        counters = []
        for cpu in range(os.cpu_count() or 1):
            libc = ctypes.CDLL(None, use_errno=True)
            counter = libc.syscall(_PERF_EVENT_OPEN, attributes, -1, cpu, -1, 8)  # PERF_FLAG_FD_CLOEXEC
            assert counter >= 0, os.strerror(ctypes.get_errno())
            stack.callback(os.close, counter)
            counters.append(counter)
        fcntl.ioctl(counters[0], _SET_BPF, loaded.program("drop", TRACEPOINT))
        yield Hidden(counters)


# On each CPU who leaves is who came last, or a switch between the two was not shown.
CHAIN = """
BPF_TABLE("percpu_array", u32, u64, running, 1);
BPF_TABLE("percpu_array", u32, u64, broken, 1);

int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	u32 first = 0;
	u64 *last = running.lookup(&first);
	u64 *count = broken.lookup(&first);

	if (!last || !count)
		return 0;
	if (*last && *last != ctx->args[1])
		*count += 1;
	*last = ctx->args[2];
	return 0;
}
"""


class Chain:
    """Counts how often the chain of switches of a CPU was broken."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def breaks(self) -> int:
        """Of all CPUs so far. Each hides the coming back of one thread: what leaves a thread that is shown is shown."""
        (cpus,) = self._loaded.map("broken").values()
        return sum(cpus)


@contextmanager
def chain_of_switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    """Follows the switches of the whole machine."""
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(HEADERS))
    bcc = import_bcc()
    bpf = bcc.BPF(text=CHAIN.encode())
    loaded = Loaded(taken_from(bcc, bpf))
    bpf.cleanup()
    monkeypatch.delenv("BCC_KERNEL_SOURCE")
    try:
        loaded.attach("sched_switch", "on_switch")
        yield Chain(loaded)
    finally:
        loaded.close()
