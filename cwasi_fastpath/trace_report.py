"""What a tracer has counted, by function: pure records, which can be added and subtracted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

NO_FUNCTION = "-"
"""Who has an end of a channel that no function has used."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a traced command."""

    id: int
    """Never the same for two processes of one trace, as pids can be."""
    pid: int
    """In the tracer's pid namespace; in the initial one if the process is in another."""
    comm: str
    """Its name: printable, at most 15 characters."""
    tid: int | None = None
    """The thread, where every thread is counted on its own; the process stands for it then."""
    cgroup: str | None = field(default=None, compare=False)
    """Its control group, printable; None where that is not known."""

    def __str__(self) -> str:
        return f"[{self.comm}]" if self.tid is None else self.numbered

    @property
    def numbered(self) -> str:
        """Its name with what tells it from others of that name."""
        return f"[{self.comm} {self.pid}]" if self.tid is None else f"[{self.comm} {self.pid}/{self.tid}]"


@dataclass(frozen=True, slots=True)
class Row:
    """What one owner did of one kind: sums, and what they are sums of."""

    owner: str | Process
    """The function that ran on the thread, or the process where none did. Behind an @ stands what tells a function from
    that of the same name in another host.
    """

    @property
    def function(self) -> str | None:
        """Its name, in whatever host; None for a process."""
        return self.owner.partition("@")[0] if isinstance(self.owner, str) else None

    @property
    def key(self) -> tuple[str | int, ...]:
        """Tells the rows of a trace apart, also when a process has changed its name meanwhile."""
        kinds = [value for value in _values(self)[1:] if isinstance(value, str)]
        return (self.owner if isinstance(self.owner, str) else self.owner.id, *kinds)


@dataclass(frozen=True, slots=True)
class SyscallRow(Row):
    """One system call as one owner made it. Whose it is, is decided when the call is entered."""

    syscall: str
    """Its name, `syscall_<number>` where it is not known."""
    count: int
    """Calls that have returned."""
    ns: int
    """Time from entry to return, waiting included, summed over the calls."""
    bytes: int
    """Moved by read, write, send, recv, splice and their kin; 0 for others."""
    failed: int = 0
    """The calls that returned an error; count and ns have them too."""
    failed_ns: int = 0


@dataclass(frozen=True, slots=True)
class ClassRow(Row):
    """The system calls of one class as one owner made them."""

    kind: str
    """The class: io, wait, network, file, memory, process or other."""
    count: int
    """Calls that have returned."""
    ns: int
    """Time from entry to return, waiting included, summed over the calls."""
    bytes: int
    """See SyscallRow."""
    histogram: tuple[int, ...]
    """Calls by time: number n took 2^n ns or more and less than 2^(n+1), the first also 0, the last also more."""
    failed: int = 0
    """See SyscallRow."""
    failed_ns: int = 0


@dataclass(frozen=True, slots=True)
class SchedulingRow(Row):
    """How the threads of one owner got on and off the CPU. Whose a switch is, is decided when the thread leaves."""

    voluntary: int
    """Switches of a thread that waited for something."""
    involuntary: int
    """Switches of one that could have gone on: preempted, or it yielded."""
    unseen: int
    """Switches of which the kernel traced only one half: their time is in no sum."""
    off_cpu_ns: int
    """From leaving the CPU to running again, summed over the switches; sleeping included."""
    run_queue_ns: int
    """The part of it in which the thread could have run."""
    wakeups: int
    """Times that what a thread waited for came, and it ran."""
    wakeup_ns: int
    """From the wake-up to running, summed over them: the other part of run_queue_ns is that of preempted threads."""
    histogram: tuple[int, ...]
    """Wake-ups by time, see ClassRow."""


@dataclass(frozen=True, slots=True)
class NetworkRow(Row):
    """What went through the sockets of one owner: TCP's, or all others."""

    kind: str
    """`tcp`, or `other`: Unix sockets, UDP, and TCP connections older than the trace."""
    sends: int
    """Calls that sent something."""
    sent_bytes: int
    receives: int
    """Calls that received something."""
    received_bytes: int
    blocked_ns: int
    """Time that these calls slept in."""
    connects: int
    """Connections that were begun."""
    retransmits: int
    """Packets that were sent again, by connections that it used last; one may be of several segments."""
    samples: int
    """How often the next two were looked at: whenever a segment came for such a connection."""
    srtt_us_sum: int
    """Smoothed round-trip times, the peer's delay in acknowledging included."""
    cwnd_sum: int
    """Congestion windows, in segments."""

    @property
    def srtt_us(self) -> float | None:
        """The mean of the samples."""
        return self.srtt_us_sum / self.samples if self.samples else None

    @property
    def cwnd(self) -> float | None:
        """The mean of the samples."""
        return self.cwnd_sum / self.samples if self.samples else None


@dataclass(frozen=True, slots=True)
class FunctionUse(Row):
    """What a function's time went into, as its host counted it; of functions that make calls into the data plane."""

    ns: int
    """That it ran, until its last call or its end; on several threads the sum."""
    calls: int
    """Its calls into the data plane: hostcalls, or those of a program that uses channels itself."""
    calls_ns: int
    """In them."""
    waited_ns: int
    """In them, waiting for a peer: spinning, yielding or asleep."""
    copying_ns: int
    """In them, copying in user space: copies of 1 KiB and more."""


@dataclass(frozen=True, slots=True)
class EndUse(Row):
    """One end of a channel, as its host counted it. The owner is who used it last."""

    id: str
    """Never the same for two ends of one trace."""
    channel: str
    peers: tuple[str, ...]
    """The functions at the other side, where they are known, as this end calls them."""
    direction: str
    """`sends` or `receives`."""
    transport: str
    """Empty where it is not known."""
    mode: str
    calls: int
    """Calls into this end."""
    calls_ns: int
    waited_ns: int
    """See FunctionUse. Who waits for several channels at once waits for each of them."""
    copying_ns: int
    messages: int
    bytes: int
    """Of payload."""
    copied_bytes: int
    waits: int
    """Calls that could not go on at once."""
    parks: int
    """Of these: sleeps in the kernel."""
    wakes: int
    """Times it woke the other side."""
    timed: int
    """Messages that it received of which it is known how long they took."""
    timed_ns: int
    """From send to receipt, added up over these."""

    @property
    def key(self) -> tuple[str | int, ...]:
        """An end may go on by another transport, and in other hands."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class MissingCounts:
    """What this machine cannot count."""

    name: str
    reason: str
    remedy: str


Some = TypeVar("Some", bound=Row)


@dataclass(frozen=True, slots=True)
class TraceReport:
    """What a tracer has counted since it was attached, or between two of its reports."""

    rows: tuple[SyscallRow, ...]
    """The longest first."""
    classes: tuple[ClassRow, ...]
    """The same calls by class, the longest first."""
    scheduling: tuple[SchedulingRow, ...]
    """Those longest off the CPU first."""
    network: tuple[NetworkRow, ...]
    """Those with the most bytes first."""
    missing: tuple[MissingCounts, ...]
    """What is not in here."""
    lost: int
    """Calls that happened but are in no row, because a map was full."""
    lost_times: int
    """Calls that are in a row, but in no histogram."""
    lost_switches: int
    """Switches that are in no row."""
    lost_traffic: int
    """Sends, receives and events of connections that are in no row."""
    lost_threads: int
    """Threads, with all that they started, that could not be followed."""
    seconds: float
    """How long it covers."""
    ns_per_call: float
    """What tracing adds to a traced call, measured when the tracer was attached."""
    ns_per_switch: float | None
    """What it adds to a switch, with its wake-up; None where the kernel did not let us measure it."""
    light: bool
    """Whether system calls were left out, to spare the machine: all the time, or from some moment on."""
    tracer_cpu_seconds: float = 0.0
    """What the tracer's own process has used since it was attached."""
    tracer_bytes: int = 0
    """Its memory."""
    tracer_capabilities: tuple[str, ...] = ()
    """What it may do beyond the rights of its user, as `CAP_BPF`."""
    uses: tuple[FunctionUse, ...] = ()
    """Those that ran longest first."""
    ends: tuple[EndUse, ...] = ()
    """By channel."""
    missed_ends: int = 0
    """Ends of channels that are not in here, because a host had too many."""

    @property
    def calls(self) -> int:
        """All calls of all rows."""
        return sum(row.count for row in self.rows)

    @property
    def overhead_seconds(self) -> float:
        """What tracing calls and switches has cost the traced command, over all its threads."""
        return (self.calls * self.ns_per_call + self.switches * (self.ns_per_switch or 0.0)) / 1e9

    @property
    def overhead(self) -> float:
        """The same as a share of one CPU."""
        return self.overhead_seconds / self.seconds if self.seconds > 0 else 0.0

    @property
    def switches(self) -> int:
        """All switches of all rows."""
        return sum(row.voluntary + row.involuntary for row in self.scheduling)

    def since(self, earlier: TraceReport) -> TraceReport:
        """What came after `earlier`, a report of the same tracer; rows in which nothing happened are left out."""
        return replace(
            self,
            rows=by_time(difference(self.rows, earlier.rows)),
            classes=by_time(difference(self.classes, earlier.classes)),
            scheduling=by_waiting(difference(self.scheduling, earlier.scheduling)),
            network=by_bytes(difference(self.network, earlier.network)),
            uses=by_run(difference(self.uses, earlier.uses)),
            ends=by_channel(difference(self.ends, earlier.ends)),
            missed_ends=self.missed_ends - earlier.missed_ends,
            lost=self.lost - earlier.lost,
            lost_times=self.lost_times - earlier.lost_times,
            lost_switches=self.lost_switches - earlier.lost_switches,
            lost_traffic=self.lost_traffic - earlier.lost_traffic,
            lost_threads=self.lost_threads - earlier.lost_threads,
            seconds=self.seconds - earlier.seconds,
            tracer_cpu_seconds=self.tracer_cpu_seconds - earlier.tracer_cpu_seconds,
        )


Timed = TypeVar("Timed", SyscallRow, ClassRow)


def by_time(rows: Iterable[Timed]) -> tuple[Timed, ...]:
    """The longest first."""
    return tuple(sorted(rows, key=lambda row: -row.ns))


def by_waiting(rows: Iterable[SchedulingRow]) -> tuple[SchedulingRow, ...]:
    """Those longest off the CPU first."""
    return tuple(sorted(rows, key=lambda row: -row.off_cpu_ns))


def by_bytes(rows: Iterable[NetworkRow]) -> tuple[NetworkRow, ...]:
    """Those with the most bytes first."""
    return tuple(sorted(rows, key=lambda row: -(row.sent_bytes + row.received_bytes)))


def by_run(rows: Iterable[FunctionUse]) -> tuple[FunctionUse, ...]:
    """Those that ran longest first."""
    return tuple(sorted(rows, key=lambda row: -row.ns))


def by_channel(rows: Iterable[EndUse]) -> tuple[EndUse, ...]:
    """Senders before receivers."""
    return tuple(sorted(rows, key=lambda row: (row.channel, row.direction == "receives", str(row.owner), row.id)))


def merged(rows: Iterable[Some]) -> list[Some]:
    """Rows of one key added up: several ids may go by one name, that of what exceeds the table."""
    sums: dict[tuple[str | int, ...], Some] = {}
    for row in rows:
        sums[row.key] = _plus(sums[row.key], row, 1) if row.key in sums else row
    return list(sums.values())


def difference(rows: Iterable[Some], earlier: Iterable[Some]) -> list[Some]:
    """What each row has more than the one of its key before, and only where it has more."""
    before = {row.key: row for row in earlier}
    now = [_plus(row, before[row.key], -1) if row.key in before else row for row in rows]
    return [row for row in now if any(value for value in _values(row) if isinstance(value, int))]


def _plus(row: Some, other: Some, sign: int) -> Some:
    """The row with every number of the other added or, with sign -1, subtracted."""
    sums: dict[str, object] = {}
    for known, mine, its in zip(fields(row), _values(row), _values(other), strict=True):
        if isinstance(mine, int) and isinstance(its, int):
            sums[known.name] = mine + sign * its
        elif known.name == "histogram" and isinstance(mine, tuple) and isinstance(its, tuple):
            sums[known.name] = tuple(a + sign * b for a, b in zip(mine, its, strict=True))
    return replace(row, **sums)  # type: ignore[arg-type]


def _values(row: Row) -> list[object]:
    return [getattr(row, known.name) for known in fields(row)]
