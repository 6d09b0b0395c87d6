"""What of a trace is shown: all of it, or one function, one channel's functions, failed calls only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..placement import container_of
from ..trace_report import (
    ClassRow,
    Process,
    Row,
    SyscallRow,
    TraceReport,
    by_bytes,
    by_time,
    by_waiting,
    merged,
)

_LABEL = 18

Some = TypeVar("Some", bound=Row)
Calls = TypeVar("Calls", SyscallRow, ClassRow)


@dataclass(frozen=True, slots=True)
class View:
    """What to show, and how."""

    by: str = "function"
    latency: bool = False
    function: str | None = None
    failed: bool = False
    """Only calls that returned an error, with their time."""
    timestamps: bool = False
    channel: str | None = None
    owners: frozenset[str | Process] | None = None
    """Who has an end of the channel; None for all."""

    def within(self, total: TraceReport) -> View:
        """The same, when it is known who has used the channel since the trace began."""
        if self.channel is None:
            return self
        return replace(self, owners=frozenset(end.owner for end in total.ends if end.channel == self.channel))

    def of(self, report: TraceReport) -> TraceReport:
        """The report without the rows that are not wanted; what tracing cost cannot be read from it any more."""
        report = _by_cgroup(report) if self.by == "cgroup" else report
        shown = replace(
            report,
            rows=self._owned(report.rows),
            classes=self._owned(report.classes),
            scheduling=self._owned(report.scheduling),
            network=self._owned(report.network),
            uses=self._owned(report.uses),
            ends=tuple(end for end in self._owned(report.ends) if self.channel in (None, end.channel)),
        )
        return _failed(shown) if self.failed else shown

    def _owned(self, rows: tuple[Some, ...]) -> tuple[Some, ...]:
        if self.owners is not None:
            rows = tuple(row for row in rows if row.owner in self.owners)
        return rows if self.function is None else tuple(row for row in rows if row.function == self.function)


def _by_cgroup(report: TraceReport) -> TraceReport:
    """With one process for all of a control group, whose pid is 0."""
    one: dict[str | None, Process] = {}

    def grouped(row: Some) -> Some:
        if not isinstance(row.owner, Process):
            return row
        group = row.owner.cgroup
        return replace(row, owner=one.setdefault(group, Process(row.owner.id, 0, _short(group or "?"), cgroup=group)))

    return replace(
        report,
        rows=by_time(merged(map(grouped, report.rows))),
        classes=by_time(merged(map(grouped, report.classes))),
        scheduling=by_waiting(merged(map(grouped, report.scheduling))),
        network=by_bytes(merged(map(grouped, report.network))),
    )


def _short(group: str) -> str:
    """The container, if it says one; else its end, which tells it from others."""
    return container_of(group) or (group if len(group) <= _LABEL else f"~{group[1 - _LABEL:]}")


def functions_of(report: TraceReport) -> list[str]:
    """The functions that have done anything, in whatever host."""
    rows: Sequence[Row] = [*report.rows, *report.scheduling, *report.network]
    return sorted({row.function for row in rows if row.function is not None})


def _failed(report: TraceReport) -> TraceReport:
    """How long those calls alone took is in no histogram."""
    classes = [replace(row, histogram=(0,) * len(row.histogram)) for row in _failures(report.classes)]
    return replace(report, rows=by_time(_failures(report.rows)), classes=by_time(classes), scheduling=(), network=())


def _failures(rows: Iterable[Calls]) -> Iterator[Calls]:
    return (replace(row, count=row.failed, ns=row.failed_ns, bytes=0) for row in rows if row.failed)
