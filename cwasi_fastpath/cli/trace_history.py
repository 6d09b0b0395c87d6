"""A recording added up for its page: by owner over all its time, and by owner and interval."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from .trace_edges import Edge
from .trace_recording import NoRecording, Recording

BUCKETS = 32
_MOST_COLUMNS = 120
"""Of a page: longer recordings have several intervals in one."""


@dataclass(slots=True)
class Column:
    """What one owner did in one stretch of time."""

    calls: int = 0
    ns: int = 0
    off_cpu_ns: int = 0
    moved: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BUCKETS)


@dataclass(slots=True)
class Call:
    """One system call of one owner."""

    count: int = 0
    ns: int = 0
    bytes: int = 0
    failed: int = 0


@dataclass(slots=True)
class Owner:
    """A function, or a process or thread in brackets."""

    name: str
    pid: int | None
    """None for a function."""
    columns: list[Column]
    calls: dict[str, Call] = field(default_factory=lambda: defaultdict(Call))
    switches: int = 0
    sent: int = 0
    received: int = 0
    retransmits: int = 0

    @property
    def end(self) -> str:
        """What the ends of its channels call it."""
        return self.name if self.pid is None else f"pid {self.pid}"

    @property
    def ns(self) -> int:
        """In system calls."""
        return sum(column.ns for column in self.columns)

    @property
    def off_cpu_ns(self) -> int:
        """Not on a CPU."""
        return sum(column.off_cpu_ns for column in self.columns)

    @property
    def count(self) -> int:
        """Of system calls."""
        return sum(column.calls for column in self.columns)


@dataclass(slots=True)
class End:
    """What one end of a channel cost the function that has it."""

    channel: str
    function: str
    sends: bool
    peers: tuple[str, ...] = ()
    transport: str = ""
    mode: str = ""
    messages: int = 0
    bytes: int = 0
    calls_ns: int = 0
    waited_ns: int = 0
    copying_ns: int = 0
    sleeps: int = 0

    @property
    def ns(self) -> int:
        """Spent on it, without waiting."""
        return max(0, self.calls_ns - self.waited_ns)


@dataclass(frozen=True, slots=True)
class History:
    """All that a page shows."""

    seconds: list[float]
    """How long each column is."""
    owners: list[Owner]
    """Those with the most time in system calls first."""
    edges: list[Edge]
    ends: list[End]
    overhead_seconds: float
    tracer_seconds: float
    lost: int
    missing: list[tuple[str, str]]

    def ns_per_message(self, channel: str) -> float | None:
        """Of both sides, without waiting; None where that was not recorded."""
        ends = [end for end in self.ends if end.channel == channel]
        sides = [[end for end in ends if end.sends is sends] for sends in (True, False)]
        means = [
            sum(end.ns for end in side) / messages for side in sides if (messages := sum(end.messages for end in side))
        ]
        return sum(means) if means else None


def history(recording: Recording) -> History:
    """Adds it up. Raises NoRecording where an interval is not of the form that it should be."""
    together = -(-len(recording.intervals) // _MOST_COLUMNS) or 1
    columns = -(-len(recording.intervals) // together)
    adding = _Adding(columns)
    for number, interval in enumerate(recording.intervals):
        try:
            adding.interval(number // together, interval)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise NoRecording(f"interval {number + 1} is damaged: {error!r}") from error
    return adding.done()


class _Adding:
    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._seconds = [0.0] * columns
        self._owners: dict[str, Owner] = {}
        self._edges: dict[tuple[str, str], Edge] = {}
        self._ends: dict[tuple[str, str, bool], End] = {}
        self._overhead = self._tracer = 0.0
        self._lost = 0
        self._missing: dict[str, str] = {}

    def interval(self, column: int, interval: dict[str, Any]) -> None:
        self._seconds[column] += _time(interval["seconds"])
        self._overhead += _time(interval["overhead"]["seconds"])
        self._tracer += _time(interval["tracer"]["cpu_seconds"])
        self._lost += sum(_count(interval[name]) for name in ("lost", "lost_switches", "lost_traffic", "lost_threads"))
        self._missing |= {str(lack["name"]): str(lack["reason"]) for lack in interval["missing"]}
        for row in interval["rows"]:
            self._call(self._owner(row), column, row)
        for row in interval["classes"]:
            into = self._owner(row).columns[column].histogram
            for bucket, count in enumerate(row["histogram"]):
                into[bucket] += _count(count)
        for row in interval["scheduling"]:
            owner = self._owner(row)
            owner.columns[column].off_cpu_ns += _count(row["off_cpu_ns"])
            owner.switches += _count(row["voluntary"]) + _count(row["involuntary"])
        for row in interval["network"]:
            owner = self._owner(row)
            owner.sent += _count(row["sent_bytes"])
            owner.received += _count(row["received_bytes"])
            owner.retransmits += _count(row["retransmits"])
        for told in interval["channels"]:
            self._edge(told)
        for told in interval["tax"]["channels"]:
            if told["function"] is not None:
                self._end(told)

    def _call(self, owner: Owner, column: int, row: dict[str, Any]) -> None:
        count, ns, moved = _count(row["count"]), _count(row["ns"]), _count(row["bytes"])
        into = owner.columns[column]
        into.calls += count
        into.ns += ns
        into.moved += moved
        call = owner.calls[str(row["syscall"])]
        call.count += count
        call.ns += ns
        call.bytes += moved
        call.failed += _count(row["failed"])

    def _owner(self, row: dict[str, Any]) -> Owner:
        process = row["process"]
        if process is None:
            name = str(row["function"])
        else:
            name = "/".join(str(_count(process[key])) for key in ("pid", "tid") if key in process)
            name = f"[{process['comm']} {name}]"
        if name not in self._owners:
            pid = None if process is None else _count(process["pid"])
            self._owners[name] = Owner(name, pid, [Column() for _ in range(self._columns)])
        return self._owners[name]

    def _edge(self, told: dict[str, Any]) -> None:
        edge = Edge(
            channel=str(told["channel"]),
            sender=str(told["sender"]),
            receivers=tuple(map(str, told["receivers"])),
            transport=str(told["transport"]),
            mode=str(told["mode"]),
            messages=_count(told["messages"]),
            bytes=_count(told["bytes"]),
        )
        self._edges[(edge.channel, edge.sender)] = edge

    def _end(self, told: dict[str, Any]) -> None:
        key = str(told["channel"]), str(told["function"]), told["direction"] == "sends"
        end = self._ends.setdefault(key, End(*key))
        end.peers = tuple(map(str, told["peers"])) or end.peers
        end.transport, end.mode = str(told["transport"]) or end.transport, str(told["mode"]) or end.mode
        end.messages += _count(told["messages"])
        end.bytes += _count(told["bytes"])
        end.calls_ns += _count(told["calls_ns"])
        end.waited_ns += _count(told["waited_ns"])
        end.copying_ns += _count(told["copying_ns"])
        end.sleeps += _count(told["parks"])

    def _joined(self) -> list[Edge]:
        """What the ends counted; of channels of which no function told both sides, what was heard of them."""
        found = []
        for end in self._ends.values():
            others = [one for one in self._ends.values() if (one.channel, one.sends) == (end.channel, not end.sends)]
            peers = end.peers or tuple(one.function for one in others)
            if end.sends and peers:
                found.append(_edge_of(end, end.function, peers))
            elif not others:
                found += [_edge_of(end, peer, (end.function,)) for peer in peers]
        told = {edge.channel for edge in found}
        heard = {edge.channel: edge for edge in self._edges.values()}
        for number, edge in enumerate(found):
            if not edge.transport and edge.channel in heard:  # an end that was opened by name does not tell it
                same = heard[edge.channel]
                found[number] = replace(edge, transport=same.transport, mode=same.mode)
        return [*found, *(edge for edge in self._edges.values() if edge.channel not in told)]

    def done(self) -> History:
        return History(
            seconds=self._seconds,
            owners=sorted(self._owners.values(), key=lambda owner: (-owner.ns, -owner.off_cpu_ns, owner.name)),
            edges=self._joined(),
            ends=list(self._ends.values()),
            overhead_seconds=self._overhead,
            tracer_seconds=self._tracer,
            lost=self._lost,
            missing=list(self._missing.items()),
        )


def _edge_of(end: End, sender: str, receivers: tuple[str, ...]) -> Edge:
    return Edge(end.channel, sender, receivers, end.transport, end.mode, end.messages, end.bytes)


def _count(value: Any) -> int:
    """A number of something, as a recording must have it."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no count")
    return value


def _time(value: Any) -> float:
    """Seconds, as a recording must have them."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"{value!r} is no time")
    return float(value)
