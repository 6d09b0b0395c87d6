"""Counts the system calls of a command and charges each to the function that made it.

The counting is done in the kernel, by probes/; this module starts the command, hands slot maps to the hosts in it,
and turns the maps into a report. It is the only one that imports the probes.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from . import descriptors
from .attribution import is_traced_by, join
from .capabilities import held, keep_only
from .cgroups import Groups
from .errors import Error, Unavailable
from .figures import Figures
from .host_statistics import EndCounts, HostStatistics
from .invitation import Unheard, invite
from .owner_names import OTHER
from .probes.hosts import FUNCTIONS, OWNERS, PLACES, PROBES, SLOTS, Seat, namespace_of
from .probes.loader import ProbeError
from .probes.network import Network, Traffic
from .probes.probe import BUCKETS, Counter, Name, Probe
from .probes.requirements import Check, requirements
from .probes.retired import Retired
from .probes.round_trips import RoundTrips
from .probes.scheduling import Scheduling, Turns
from .probes.syscall_classes import CLASSES, syscall_class
from .probes.syscall_names import MOVES_BYTES, syscall_name
from .probes.syscalls import Syscalls, Times, Total
from .probes.told import figures_of
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
from .tracer_feed import TracerFeed
from .tracer_socket import DESCRIPTORS, ENVIRONMENT, ControlSocket

__all__ = ["Check", "NoSuchTarget", "Tracer", "TracerUnavailable", "requirements"]

_ROUNDS, _CALLS = 23, 1009
_SLEEPS = 101
_OTHER_DESCRIPTORS = 512   # that the tracer may have, and what hosts send that nobody wants
_END_COUNTS = [field.name for field in fields(EndCounts) if field.name not in ("number", "sends", "function")]


_CALLS_OF = ("system calls", "time blocked in calls that send and receive")
"""What the light mode lacks."""


class TracerUnavailable(Unavailable):
    """This machine or this user cannot trace; the message lists what is missing and the remedy for each."""

    exit_code = 77


class NoSuchTarget(Error):
    """What is to be traced is not there, or not any more."""

    exit_code = 69


class Tracer:
    """Traces the commands that it spawns, with all their threads and children, and processes that run already.

    On the machine it was written on, a traced system call takes 0.14 us more, one of any other process 0.05 us more.
    """

    def __init__(self, light: bool = False, by_thread: bool = False) -> None:
        """Takes 0.2 s and 80 MB; 0.5 s and 120 MB where the probes have to be compiled. Raises TracerUnavailable.

        light: leave out system calls, so that no process of the machine pays for them.
        by_thread: what no function did is charged to the thread, not to its process.
        """
        self._light = light
        self._by_thread = by_thread
        self._left_out = ("left out in the light mode", "trace without it")
        lacking = [check for check in requirements() if check.status == "fail"]
        if lacking:
            raise TracerUnavailable(
                "tracing is not available:\n"
                + "\n".join(f"- {check.name}: {check.found}. Remedy: {check.remedy}" for check in lacking)
            )
        self._descriptors = descriptors.allowed()
        """That what we start may have."""
        untraced = _ns_per_getppid()
        try:
            self._syscalls = Syscalls()
            self._scheduling = Scheduling()
            self._network = Network()
            calls = [] if light else [self._syscalls]
            self._probe = Probe([*calls, self._scheduling, self._network, RoundTrips()], by_thread)
        except ProbeError as error:
            raise TracerUnavailable(f"tracing is not available: {error}") from error
        self._lock = threading.Lock()
        self._traces_own = False
        self._groups = Groups()
        self._control: ControlSocket | None = None
        self._feed = TracerFeed(self._figures, _kept())
        try:
            self._ns_per_call = max(0.0, self._self_test() - untraced)
            self._ns_per_switch = self._measure_switches()
            self._probe.forget()
            self._control = ControlSocket(_Seats(self._probe, self._feed), self._hosts())
        except BaseException:
            self.close()
            raise
        self._started = time.monotonic()
        self._cpu = time.process_time()

    def _hosts(self) -> int:
        """How many may be in the trace at a time."""
        room = descriptors.ask_for(_OTHER_DESCRIPTORS + DESCRIPTORS * PLACES) - _OTHER_DESCRIPTORS
        return max(1, min(PLACES, room // DESCRIPTORS))

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
                with descriptors.only(self._descriptors):
                    return subprocess.Popen(argv, env=environment, **popen_kwargs)
            finally:
                self._probe.cancel_order()

    def attach(self, pid: int) -> int:
        """Traces a process that runs already, and what it starts; its threads from the next call or switch of each on.

        Returns a descriptor that is readable when the process has ended, to be closed by the caller. Raises
        NoSuchTarget.
        """
        try:
            descriptor = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise NoSuchTarget(_why_not(pid, error)) from error
        try:
            self._adopt(pid)
            if ended(descriptor):  # then the pid may have been another's meanwhile
                self._probe.disown(pid)
                raise NoSuchTarget(f"process {pid} has ended")
            self._invite(pid)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise NoSuchTarget(f"process {pid} has ended") from error
            if isinstance(error, ProbeError):
                raise NoSuchTarget(f"process {pid} cannot be traced: {error}") from error
            raise
        return descriptor

    def trace_own(self) -> None:
        """Traces this process itself, which is told what its functions do: see Host(tracer=...). Twice is safe.

        Raises TracerUnavailable.
        """
        address = self._open_control().address
        with self._lock:
            if self._traces_own and is_traced_by(address):
                return
            try:
                if not self._traces_own:
                    self._adopt(os.getpid())
            except (OSError, ProbeError) as error:
                raise TracerUnavailable(f"this process cannot be traced: {error}") from error
            self._traces_own = True
            if not join(address):
                raise TracerUnavailable("this process cannot join its own tracer; the log says why")

    def _adopt(self, pid: int) -> None:
        """Raises OSError, ProbeError."""
        self._probe.adopt(pid, Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n"))

    def _invite(self, pid: int) -> None:
        control = self._open_control()
        try:
            invite(pid, control.address)
        except Unheard as error:
            control.unheard.add(error.uid)
        except OSError:   # it is no host
            pass

    def detach(self, pid: int) -> None:
        """To be called when a process that we were attached to has ended: whoever has its pid next is another."""
        self._probe.disown(pid)

    def pids(self) -> frozenset[int]:
        """The processes that are traced now, as they are called in the tracer's pid namespace."""
        return self._probe.pids()

    def give_up_privileges(self, but: Iterable[str] = ()) -> None:
        """Keeps, of its capabilities, what to go on takes, and these. Nothing can be spawned or attached to afterwards.

        It is the calling thread that does, and what it starts from now on; our own threads have none to begin with.
        """
        keep_only([*_kept(), *but])

    def lighten(self, reason: str) -> None:
        """From now on leaves out system calls, as the light mode does; what has been counted stays. Twice is safe."""
        if not self._light:
            self._light = True
            self._left_out = (f"left out {reason}", "trace without that")
            self._probe.detach(self._syscalls)

    def snapshot(self) -> TraceReport:
        """All that was counted so far; TraceReport.since() gives the difference of two. A few ms."""
        control = self._open_control()
        counts_calls = self._counts(self._syscalls)
        with self._probe.lock:
            totals = list(self._syscalls.totals()) if counts_calls else []
            times = list(self._syscalls.times()) if counts_calls else []
            turns = list(self._scheduling.turns()) if self._counts(self._scheduling) else []
            traffic = list(self._network.traffic()) if self._counts(self._network) else []
        said = control.statistics()
        alive = self._probe.processes()
        # Last: whoever is in the maps has a name by now.
        names = self._probe.names()
        self._groups.look(alive, names)
        owners = _Owners(control.names(), names, self._groups, self._by_thread)
        rows = merged(_row(total, owners) for total in totals)
        return TraceReport(
            rows=by_time(rows),
            classes=by_time(_classes(rows, times, owners)),
            scheduling=by_waiting(merged(_turns(turns, owners))),
            network=by_bytes(difference(merged(_traffic(traffic, owners)), ())),  # a call that failed moved nothing
            uses=by_run(merged(_uses(said, owners))),
            ends=by_channel(_ends(said, owners)),
            missed_ends=sum(statistics.missed for statistics in said.values()),
            missing=self._missing(),
            lost=self._syscalls.lost() if counts_calls else 0,
            lost_times=self._syscalls.lost_times() if counts_calls else 0,
            lost_switches=self._scheduling.lost() if self._counts(self._scheduling) else 0,
            lost_traffic=self._network.lost() if self._counts(self._network) else 0,
            lost_threads=self._probe.lost_threads(),
            seconds=time.monotonic() - self._started,
            ns_per_call=self._ns_per_call,
            ns_per_switch=self._ns_per_switch,
            light=self._light,
            tracer_cpu_seconds=time.process_time() - self._cpu,
            tracer_bytes=_resident_bytes(),
            tracer_capabilities=held(),
        )

    def _figures(self, owners: Set[int]) -> dict[int, Figures]:
        """Of functions of hosts."""
        with self._probe.lock:
            return figures_of(
                owners,
                self._syscalls if self._counts(self._syscalls) and not self._light else None,
                self._scheduling if self._counts(self._scheduling) else None,
                self._network if self._counts(self._network) else None,
            )

    def _missing(self) -> tuple[MissingCounts, ...]:
        lacks = [MissingCounts(lack.name, lack.reason, lack.remedy) for lack in self._probe.missing]
        left_out = [MissingCounts(name, *self._left_out) for name in _CALLS_OF] if self._light else []
        return (*left_out, *lacks, *_unheard(self._open_control().unheard))

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
        self._feed.close()
        self._probe.close()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Seats:
    """Lets traced processes in, each with a map of its own."""

    indexes, slots, probes = FUNCTIONS, SLOTS, PROBES

    def __init__(self, probe: Probe, feed: TracerFeed) -> None:
        self._probe = probe
        self._feed = feed
        self._retired = Retired(probe)
        self.capabilities = _kept()

    def knows(self, pid: int) -> bool:
        """See tracer_socket.Seats."""
        return self._probe.group_of(pid) is not None

    def join(self, pid: int, namespace: tuple[int, int], alive: Callable[[], bool]) -> Seat | None:
        """See tracer_socket.Seats."""
        group = self._probe.group_of(pid)
        return None if group is None else self._probe.hosts.join(group, namespace_of(*namespace), alive)

    def name(self, seat: Seat, number: int, owner: int | None) -> int | None:
        """See tracer_socket.Seats."""
        if owner is not None:
            self._retired.revive(owner)
        return self._probe.hosts.name(seat, number, owner)

    def retire(self, owners: list[int]) -> None:
        """See tracer_socket.Seats."""
        self._retired.add(owners)

    def figures(self, owners: list[int]) -> tuple[int, dict[int, Figures]]:
        """See tracer_socket.Seats."""
        return self._feed.figures(owners)

    def leave(self, seat: Seat) -> None:
        """See tracer_socket.Seats."""
        self._probe.hosts.leave(seat)


class _Owners:
    """Who the owners are that the probes know by number."""

    def __init__(self, functions: dict[int, str], names: dict[int, Name], groups: Groups, by_thread: bool) -> None:
        self._functions = functions
        self._processes = {
            key: Process(key, name.pid, name.comm, name.tid if by_thread else None, groups.of(key, name.cgroup))
            for key, name in names.items()
        }

    def of(self, owner: int) -> str | Process:
        """The function or the process; a host may store an id that nobody was given."""
        if owner < OWNERS:
            return self._functions.get(owner, OTHER)
        return self._processes.get(owner) or Process(owner, owner >> 32, "?")


def _row(total: Total, owners: _Owners) -> SyscallRow:
    name = syscall_name(total.number)
    moved = total.result if name in MOVES_BYTES else 0
    return SyscallRow(owners.of(total.owner), name, total.count, total.ns, moved, total.failed, total.failed_ns)


def _classes(rows: Sequence[SyscallRow], times: Iterable[Times], owners: _Owners) -> list[ClassRow]:
    """The rows added up by class, each with its histogram."""
    empty = (0,) * BUCKETS
    calls = (
        ClassRow(
            *(row.owner, syscall_class(row.syscall), row.count, row.ns, row.bytes, empty),
            failed=row.failed,
            failed_ns=row.failed_ns,
        )
        for row in rows
    )
    histograms = (
        ClassRow(owners.of(found.owner), CLASSES[found.number], 0, 0, 0, found.histogram) for found in times
    )
    return merged([*calls, *histograms])


def _turns(found: Iterable[Turns], owners: _Owners) -> Iterator[SchedulingRow]:
    for turns in found:
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


def _traffic(found: Iterable[Traffic], owners: _Owners) -> Iterator[NetworkRow]:
    for traffic in found:
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


def _uses(said: Mapping[int, HostStatistics], owners: _Owners) -> Iterator[FunctionUse]:
    for statistics in said.values():
        for counts in statistics.functions:
            times = (counts.ns, counts.calls, counts.calls_ns, counts.waited_ns, counts.copying_ns)
            yield FunctionUse(owners.of(counts.id), *times)


def _ends(said: Mapping[int, HostStatistics], owners: _Owners) -> Iterator[EndUse]:
    for host, statistics in said.items():
        for end in statistics.ends:
            counts = {name: getattr(end, name) for name in _END_COUNTS}
            yield EndUse(
                owner=owners.of(end.function) if end.function else NO_FUNCTION,
                id=f"{host}.{end.number}",
                direction="sends" if end.sends else "receives",
                **counts,
            )


def _unheard(uids: Iterable[int]) -> Iterator[MissingCounts]:
    reason = f"they tell them to root and their own user, and the tracer runs as uid {os.geteuid()}"
    for uid in sorted(uids):
        name = f"functions of the hosts of uid {uid}, whose calls are with their processes"
        yield MissingCounts(name, reason, f"trace as root, or as uid {uid}")


def _kept() -> list[str]:
    """Maps for hosts that join later take it; before Linux 5.19 every look at a map did."""
    return ["CAP_BPF"] if "CAP_BPF" in held() else ["CAP_SYS_ADMIN"]


def ended(descriptor: int) -> bool:
    """Whether the process of a pidfd has."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _why_not(pid: int, error: OSError | OverflowError) -> str:
    if Path(f"/proc/{pid}").exists():  # pidfd_open takes no other thread than the first
        return f"{pid} is a thread: give the process, and --by thread to see its threads apart"
    reason = "there is no process" if isinstance(error, (ProcessLookupError, OverflowError)) else str(error)
    return f"{reason} {pid}" if reason.startswith("there") else f"process {pid}: {reason}"


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
