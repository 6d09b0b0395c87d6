"""What communication cost each function and each channel: the kernel's counts joined with those of the data plane."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .trace_report import EndUse, FunctionUse, Process, TraceReport


@dataclass(frozen=True, slots=True)
class FunctionTax:
    """What the time of a function went into. ns, of wall-clock time, added up over its threads.

    guest_ns and calls_ns make up ns; waited_ns and copying_ns are parts of calls_ns. System calls are made in both, the
    sleeps of a wait among them, and those that send and receive wait as well.
    """

    owner: str | Process
    ns: int
    """That it ran."""
    guest_ns: int
    """Outside the data plane: its own work, WASI, and what it was kept from by others."""
    calls: int
    """Into the data plane."""
    calls_ns: int
    waited_ns: int
    copying_ns: int
    syscalls: int
    syscall_ns: int
    network_ns: int
    """Asleep in calls that send and receive through sockets."""
    messages: int
    """Sent and received."""
    bytes: int

    @property
    def ns_per_message(self) -> float | None:
        """Of calls into the data plane, waiting not included; None where there was no message."""
        return (self.calls_ns - self.waited_ns) / self.messages if self.messages else None

    @property
    def ns_per_byte(self) -> float | None:
        """The same."""
        return (self.calls_ns - self.waited_ns) / self.bytes if self.bytes else None


@dataclass(frozen=True, slots=True)
class ChannelTax:
    """What one end of a channel cost who has it. See FunctionTax."""

    owner: str | Process
    channel: str
    peers: tuple[str, ...]
    direction: str
    transport: str
    mode: str
    messages: int
    bytes: int
    copied_bytes: int
    calls: int
    calls_ns: int
    waited_ns: int
    copying_ns: int
    waits: int
    parks: int
    wakes: int
    timed: int
    timed_ns: int

    @property
    def ns_per_message(self) -> float | None:
        """See FunctionTax."""
        return (self.calls_ns - self.waited_ns) / self.messages if self.messages else None

    @property
    def ns_per_byte(self) -> float | None:
        """See FunctionTax."""
        return (self.calls_ns - self.waited_ns) / self.bytes if self.bytes else None


@dataclass(frozen=True, slots=True)
class TaxBill:
    """The whole."""

    functions: tuple[FunctionTax, ...]
    """Those that ran longest first."""
    channels: tuple[ChannelTax, ...]
    """By channel, senders first; what one function did at several ends of one name, by one transport, is added up."""


def tax_bill(report: TraceReport) -> TaxBill:
    """That of a trace, or of a part of it."""
    return TaxBill(tuple(_function(use, report) for use in report.uses), tuple(_channels(report.ends)))


def _function(use: FunctionUse, report: TraceReport) -> FunctionTax:
    calls = [row for row in report.rows if row.owner == use.owner]
    ends = [end for end in report.ends if end.owner == use.owner]
    return FunctionTax(
        owner=use.owner,
        ns=use.ns,
        guest_ns=max(0, use.ns - use.calls_ns),   # in the middle of a call the two are not read at one moment
        calls=use.calls,
        calls_ns=use.calls_ns,
        waited_ns=use.waited_ns,
        copying_ns=use.copying_ns,
        syscalls=sum(row.count for row in calls),
        syscall_ns=sum(row.ns for row in calls),
        network_ns=sum(row.blocked_ns for row in report.network if row.owner == use.owner),
        messages=sum(end.messages for end in ends),
        bytes=sum(end.bytes for end in ends),
    )


_ADDED = (
    *("messages", "bytes", "copied_bytes", "calls", "calls_ns", "waited_ns", "copying_ns"),
    *("waits", "parks", "wakes", "timed", "timed_ns"),
)


def _channels(ends: Iterable[EndUse]) -> Iterable[ChannelTax]:
    alike: dict[tuple[object, ...], list[EndUse]] = {}
    for end in ends:
        key = (end.channel, end.owner, end.direction, end.transport, end.mode, end.peers)
        alike.setdefault(key, []).append(end)
    for same in alike.values():
        first = same[0]
        yield ChannelTax(
            owner=first.owner,
            channel=first.channel,
            peers=first.peers,
            direction=first.direction,
            transport=first.transport,
            mode=first.mode,
            **{name: sum(getattr(end, name) for end in same) for name in _ADDED},
        )
