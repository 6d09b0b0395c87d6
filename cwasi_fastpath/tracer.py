"""Counts the system calls of a command and charges each to the function that made it.

The counting is done in the kernel, by probes/; this module starts the command, hands slot maps to the hosts in it,
and turns the maps into a report. It is the only one that imports the probes.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import Unavailable
from .host_statistics import EndCounts, HostStatistics
from .probes.hosts import FUNCTIONS, OWNERS, PLACES, POOL, PROBES, SLOTS, Seat, namespace_of
from .probes.loader import ProbeError
from .probes.network import Network
from .probes.probe import BUCKETS, Counter, Probe
from .probes.requirements import Check, requirements
from .probes.round_trips import RoundTrips
from .probes.scheduling import Scheduling
from .probes.syscall_classes import CLASSES, syscall_class
from .probes.syscall_names import MOVES_BYTES, syscall_name
from .probes.syscalls import Syscalls, Total
from .trace_report import (
    NO_FUNCTION,
    ClassRow,
    EndUse,
    FunctionUse,
    MissingCounts,
    NetworkRow,
    Process,
    SchedulingRow,
    SyscallRow,
    TraceReport,
    by_bytes,
    by_channel,
    by_run,
    by_time,
    by_waiting,
    difference,
    merged,
)
from .tracer_socket import ENVIRONMENT, OTHER, ControlSocket

__all__ = ["Check", "Tracer", "TracerUnavailable", "requirements"]

_ROUNDS, _CALLS = 23, 1009
_SLEEPS = 101
_END_COUNTS = [field.name for field in fields(EndCounts) if field.name not in ("number", "sends", "function")]


_LEFT_OUT = tuple(
    MissingCounts(name, "left out in the light mode", "trace without it")
    for name in ("system calls", "time blocked in calls that send and receive")
)


class TracerUnavailable(Unavailable):
    """This machine or this user cannot trace; the message lists what is missing and the remedy for each."""

    exit_code = 77


class Tracer:
    """Traces the commands that it spawns, with all their threads and children, until it is closed.

    On the machine it was written on, a traced system call takes 0.16 us more, one of any other process 0.06 us more.
    """

    def __init__(self, light: bool = False) -> None:
        """Takes 0.4 s and 120 MB, most of it bcc's compiler, which cannot be unloaded. Raises TracerUnavailable.

        light: leave out system calls, so that no process of the machine pays for them.
        """
        self._light = light
        lacking = [check for check in requirements() if check.status == "fail"]
        if lacking:
            raise TracerUnavailable(
                "tracing is not available:\n"
                + "\n".join(f"- {check.name}: {check.found}. Remedy: {check.remedy}" for check in lacking)
            )
        untraced = _ns_per_getppid()
        try:
            self._syscalls = Syscalls()
            self._scheduling = Scheduling()
            self._network = Network()
            calls = [] if light else [self._syscalls]
            self._probe = Probe([*calls, self._scheduling, self._network, RoundTrips()])
        except ProbeError as error:
            raise TracerUnavailable(f"tracing is not available: {error}") from error
        self._lock = threading.Lock()
        self._control: ControlSocket | None = None
        try:
            self._ns_per_call = max(0.0, self._self_test() - untraced)
            self._ns_per_switch = self._measure_switches()
            self._probe.forget()
            self._control = ControlSocket(_Seats(self._probe), PLACES)
        except BaseException:
            self.close()
            raise
        self._started = time.monotonic()

    def _self_test(self) -> float:
        """Traces a thread whose calls are known. Returns the ns of one; raises TracerUnavailable if any is missing."""
        self._probe.order(threading.get_native_id(), until_exec=False)
        ns = _ns_per_getppid()
        self._wait_for_the_end()
        if not self._light:
            counted = sum(total.count for total in self._syscalls.totals() if syscall_name(total.number) == "getppid")
            if counted != _ROUNDS * _CALLS:
                raise TracerUnavailable(
                    f"this kernel miscounts: {counted} of {_ROUNDS * _CALLS} system calls were seen"
                )
        return ns

    def _measure_switches(self) -> float | None:
        """What a switch of a traced thread takes, by the kernel's own clock around the programs."""
        if not self._counts(self._scheduling):
            return None
        thread = threading.Thread(target=_sleep_often, name="cwasi-tracer-self-test")
        self._probe.order(threading.get_native_id(), until_exec=False)
        with self._probe.measuring():
            thread.start()
            thread.join()
        self._wait_for_the_end()
        return self._scheduling.ns_per_switch()

    def _wait_for_the_end(self) -> None:
        """Until the traced threads are gone: join() returns a little before."""
        deadline = time.monotonic() + 1.0
        while self._probe.live_threads():
            if time.monotonic() > deadline:
                raise TracerUnavailable("this kernel miscounts: the end of a thread was not seen")
            time.sleep(0.001)

    def environment(self) -> dict[str, str]:
        """What a host must find in its environment to tell us which function runs on its threads."""
        return {ENVIRONMENT: self._open_control().address}

    def spawn(self, argv: Sequence[str], **popen_kwargs: Any) -> subprocess.Popen[Any]:
        """Starts a command that is traced from the first system call after its exec on.

        popen_kwargs: as for subprocess.Popen; environment() is added to env. Raises what Popen raises.
        """
        given = popen_kwargs.pop("env", None)
        environment = {**(os.environ if given is None else given), **self.environment()}
        with self._lock:
            self._probe.order(threading.get_native_id(), until_exec=True)
            try:
                return subprocess.Popen(argv, env=environment, **popen_kwargs)
            finally:
                self._probe.cancel_order()

    def snapshot(self) -> TraceReport:
        """All that was counted so far; TraceReport.since() gives the difference of two. A few ms."""
        owners = _Owners(self._open_control().names(), self._probe)
        said = self._open_control().statistics()
        totals = () if self._light else self._syscalls.totals()
        rows = merged(_row(total, owners) for total in totals)
        return TraceReport(
            rows=by_time(rows),
            classes=by_time(self._classes(rows, owners)),
            scheduling=by_waiting(merged(self._turns(owners))),
            network=by_bytes(difference(merged(self._traffic(owners)), ())),  # a call that failed moved nothing
            uses=by_run(merged(self._uses(said, owners))),
            ends=by_channel(self._ends(said, owners)),
            missed_ends=sum(statistics.missed for statistics in said.values()),
            missing=self._missing(),
            lost=0 if self._light else self._syscalls.lost(),
            lost_times=0 if self._light else self._syscalls.lost_times(),
            lost_switches=self._scheduling.lost() if self._counts(self._scheduling) else 0,
            lost_traffic=self._network.lost() if self._counts(self._network) else 0,
            lost_threads=self._probe.lost_threads(),
            seconds=time.monotonic() - self._started,
            ns_per_call=self._ns_per_call,
            ns_per_switch=self._ns_per_switch,
            light=self._light,
        )

    def _classes(self, rows: Sequence[SyscallRow], owners: _Owners) -> list[ClassRow]:
        """The rows added up by class, each with its histogram."""
        empty = (0,) * BUCKETS
        calls = (ClassRow(row.owner, syscall_class(row.syscall), row.count, row.ns, row.bytes, empty) for row in rows)
        times = (
            ClassRow(owners.of(times.owner), CLASSES[times.number], 0, 0, 0, times.histogram)
            for times in (() if self._light else self._syscalls.times())
        )
        return merged([*calls, *times])

    def _missing(self) -> tuple[MissingCounts, ...]:
        lacks = [MissingCounts(lack.name, lack.reason, lack.remedy) for lack in self._probe.missing]
        return (*_LEFT_OUT, *lacks) if self._light else tuple(lacks)

    def _turns(self, owners: _Owners) -> Iterator[SchedulingRow]:
        if self._counts(self._scheduling):
            for turns in self._scheduling.turns():
                yield SchedulingRow(
                    owner=owners.of(turns.owner),
                    voluntary=turns.voluntary,
                    involuntary=turns.involuntary,
                    unseen=turns.unseen,
                    off_cpu_ns=turns.off,
                    run_queue_ns=turns.queued,
                    wakeups=turns.wakeups,
                    wakeup_ns=turns.wakeup,
                    histogram=turns.histogram,
                )

    def _traffic(self, owners: _Owners) -> Iterator[NetworkRow]:
        if self._counts(self._network):
            for traffic in self._network.traffic():
                yield NetworkRow(
                    owner=owners.of(traffic.owner),
                    kind=traffic.kind,
                    sends=traffic.sends,
                    sent_bytes=traffic.sent,
                    receives=traffic.receives,
                    received_bytes=traffic.received,
                    blocked_ns=traffic.blocked,
                    connects=traffic.connects,
                    retransmits=traffic.retransmits,
                    samples=traffic.samples,
                    srtt_us_sum=traffic.srtt,
                    cwnd_sum=traffic.cwnd,
                )

    def _uses(self, said: Mapping[int, HostStatistics], owners: _Owners) -> Iterator[FunctionUse]:
        for host, statistics in said.items():
            for counts in statistics.functions:
                times = (counts.ns, counts.calls, counts.calls_ns, counts.waited_ns, counts.copying_ns)
                yield FunctionUse(owners.of(host + counts.id), *times)

    def _ends(self, said: Mapping[int, HostStatistics], owners: _Owners) -> Iterator[EndUse]:
        for host, statistics in said.items():
            for end in statistics.ends:
                counts = {name: getattr(end, name) for name in _END_COUNTS}
                yield EndUse(
                    owner=owners.of(host + end.function) if end.function else NO_FUNCTION,
                    id=f"{host}.{end.number}",
                    direction="sends" if end.sends else "receives",
                    **counts,
                )

    def _counts(self, counter: Counter) -> bool:
        return counter in self._probe.counters

    def _open_control(self) -> ControlSocket:
        if self._control is None:
            raise ValueError("the tracer is closed")
        return self._control

    def close(self) -> None:
        """Detaches from the kernel; the commands go on untraced. Twice is safe."""
        if self._control is not None:
            self._control.close()
            self._control = None
        self._probe.close()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Seats:
    """Lets traced processes in, each with a map of its own."""

    ids, pool, slots, probes = FUNCTIONS, POOL, SLOTS, PROBES

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def join(self, pid: int, alive: Callable[[], bool]) -> Seat | None:
        """See tracer_socket.Seats. Of its pid namespace we are told by /proc, if that is of our own."""
        group = self._probe.group_of(pid)
        if group is None:
            return None
        ours = Path("/proc/self").readlink() == Path(str(os.getpid()))
        namespace = Path("/proc", str(pid) if ours else "self", "ns/pid").stat()
        return self._probe.hosts.join(group, namespace_of(namespace), alive)

    def leave(self, seat: Seat) -> None:
        """See tracer_socket.Seats."""
        self._probe.hosts.leave(seat)


class _Owners:
    """Who the owners are that the probes know by number."""

    def __init__(self, functions: dict[int, str], probe: Probe) -> None:
        self._functions = functions
        self._processes = {key: Process(key, name.pid, name.comm) for key, name in probe.names().items()}

    def of(self, owner: int) -> str | Process:
        """The function or the process; a host may store an id that nobody was given."""
        if owner < OWNERS:
            return self._functions.get(owner, OTHER)
        return self._processes.get(owner) or Process(owner, owner >> 32, "?")


def _row(total: Total, owners: _Owners) -> SyscallRow:
    name = syscall_name(total.number)
    moved = total.result if name in MOVES_BYTES else 0
    return SyscallRow(owners.of(total.owner), name, total.count, total.ns, moved)


def _sleep_often() -> None:
    for _ in range(_SLEEPS):
        time.sleep(1e-6)


def _ns_per_getppid() -> float:
    """The best of a few rounds in a thread of its own, which takes no signals."""
    rounds: list[float] = []

    def measure() -> None:
        for _ in range(_ROUNDS):
            start = time.perf_counter_ns()
            for _ in range(_CALLS):
                os.getppid()
            rounds.append((time.perf_counter_ns() - start) / _CALLS)

    thread = threading.Thread(target=measure, name="cwasi-tracer-self-test")
    thread.start()
    thread.join()
    return min(rounds)
