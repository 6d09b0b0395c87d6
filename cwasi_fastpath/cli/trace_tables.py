"""The report of cwasi-trace as text for people."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from textwrap import fill

from ..tax_bill import tax_bill
from ..trace_report import Process, Row, TraceReport
from .trace_bill import bill_tables
from .trace_view import View

_BAR, _WIDTH = 36, 98


def as_text(whole: TraceReport, view: View, at: float | None = None) -> str:
    """Tables of system calls (by function, class or syscall), scheduling and network, with histograms if wanted.

    at: the moment of its end, of time.time(); None for now. Under the tables what is not in them, and what the trace
    itself cost.
    """
    report = view.of(whole)
    labels = labels_of([*report.rows, *report.scheduling, *report.network, *report.uses, *report.ends])
    parts = [time.strftime("%H:%M:%S", time.localtime(at))] if view.timestamps else []
    if view.by == "channel":
        return "\n\n".join([*parts, *bill_tables(tax_bill(report), labels, _aligned), footer(whole)])
    if report.rows or not report.light:
        parts.append(_TABLES[view.by](report, labels))
    if report.scheduling:
        parts.append(_scheduling_table(report, labels))
    if report.network:
        parts.append(_network_table(report, labels))
    if view.latency:
        parts += _histograms(report, labels)
    return "\n\n".join([*parts, footer(whole)])


def labels_of(rows: Sequence[Row]) -> dict[str | Process, str]:
    """What to call each owner; a process by its pid too, where two have one name."""
    owners = {row.owner for row in rows}
    names = Counter(str(owner) for owner in owners)
    return {
        owner: str(owner) if isinstance(owner, str) or names[str(owner)] == 1 else owner.numbered
        for owner in owners
    }


# ---- tables ----


def _function_table(report: TraceReport, labels: dict[str | Process, str]) -> str:
    by_owner = [[row for row in report.rows if row.owner == owner] for owner in {row.owner: 0 for row in report.rows}]
    rows = sorted(by_owner, key=lambda rows: -sum(row.ns for row in rows))
    lines = [f"{'FUNCTION':<24} {'CALLS':>9} {'TIME ms':>10} {'BYTES':>12}  TOP SYSCALLS"]
    for owned in rows:
        top = sorted(owned, key=lambda row: -row.count)
        lines.append(
            f"{_fit(labels[owned[0].owner], 24):<24} {sum(row.count for row in owned):>9} "
            f"{sum(row.ns for row in owned) / 1e6:>10.3f} {sum(row.bytes for row in owned):>12}  "
            f"{_fit(' '.join(row.syscall for row in top[:3]), 19)}"
        )
    return "\n".join(lines)


def _class_table(report: TraceReport, labels: dict[str | Process, str]) -> str:
    rows = ((row.owner, row.kind, row.count, row.ns, row.bytes) for row in report.classes)
    return _calls_table("CLASS", rows, labels)


def _syscall_table(report: TraceReport, labels: dict[str | Process, str]) -> str:
    rows = ((row.owner, row.syscall, row.count, row.ns, row.bytes) for row in report.rows)
    return _calls_table("SYSCALL", rows, labels)


def _calls_table(
    what: str, rows: Iterable[tuple[str | Process, str, int, int, int]], labels: dict[str | Process, str]
) -> str:
    lines = [f"{'FUNCTION':<20} {what:<16} {'CALLS':>8} {'TIME ms':>9} {'AVG us':>9} {'BYTES':>12}"]
    for owner, name, count, ns, moved in rows:
        lines.append(
            f"{_fit(labels[owner], 20):<20} {_fit(name, 16):<16} {count:>8} "
            f"{ns / 1e6:>9.3f} {ns / 1e3 / max(1, count):>9.3f} {moved:>12}"
        )
    return "\n".join(lines)


_TABLES = {
    **dict.fromkeys(("function", "thread", "cgroup"), _function_table),
    **{"class": _class_table, "syscall": _syscall_table},
}


def _scheduling_table(report: TraceReport, labels: dict[str | Process, str]) -> str:
    heading = {"SCHEDULING": 20, "VOLUNTARY": 9, "INVOL": 8, "OFF-CPU ms": 12, "QUEUED ms": 11, "WAKE-UP us": 11}
    rows = (
        [
            *(labels[row.owner], row.voluntary, row.involuntary),
            *(f"{row.off_cpu_ns / 1e6:.3f}", f"{row.run_queue_ns / 1e6:.3f}"),
            f"{row.wakeup_ns / 1e3 / max(1, row.wakeups):.3f}",
        ]
        for row in report.scheduling
    )
    return _aligned(heading, rows)


def _network_table(report: TraceReport, labels: dict[str | Process, str]) -> str:
    heading = {
        **{"NETWORK": 20, "KIND": 5, "SENT": 12, "RECEIVED": 12, "BLOCKED ms": 11},
        **{"CONN": 5, "RETRANS": 7, "SRTT us": 9, "CWND": 6},
    }
    rows = (
        [
            *(labels[row.owner], row.kind, row.sent_bytes, row.received_bytes),
            "-" if report.light else f"{row.blocked_ns / 1e6:.3f}",
            *(row.connects, row.retransmits, _mean(row.srtt_us), _mean(row.cwnd)),
        ]
        for row in report.network
    )
    return _aligned(heading, rows)


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _aligned(heading: dict[str, int], rows: Iterable[Sequence[object]]) -> str:
    """Columns of these widths: the first begins at the left, the others end at the right."""
    first, *others = heading.values()
    lines = [
        " ".join([f"{_fit(str(cells[0]), first):<{first}}", *(f"{cell:>{width}}" for cell, width in pairs)])
        for cells in (list(heading), *rows)
        for pairs in [zip(map(str, cells[1:]), others, strict=True)]
    ]
    return "\n".join(lines)


def _histograms(report: TraceReport, labels: dict[str | Process, str]) -> list[str]:
    calls = ((f"{labels[row.owner]}, {row.kind}: time of a call", row.histogram) for row in report.classes)
    wakeups = ((f"{labels[row.owner]}: from wake-up to running", row.histogram) for row in report.scheduling)
    return [_histogram(title, buckets) for title, buckets in (*calls, *wakeups) if any(buckets)]


def _histogram(title: str, buckets: Sequence[int]) -> str:
    """The buckets from the first to the last that is not empty."""
    used = [number for number, count in enumerate(buckets) if count]
    lines = [title, f"{'ns':>26}   {'COUNT':>10}"]
    for number in range(used[0], used[-1] + 1):
        low = 2**number if number else 0
        high = str(2 ** (number + 1) - 1) if number + 1 < len(buckets) else ""
        bar = "*" * round(_BAR * buckets[number] / max(buckets))
        lines.append(f"{low:>11} -> {high:<11} : {buckets[number]:>10} |{bar:<{_BAR}}|")
    return "\n".join(lines)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def footer(report: TraceReport) -> str:
    """What is not in the tables, and what the trace itself cost."""
    counted = f"{report.switches} switches" if report.light and not report.rows else f"{report.calls} calls"
    lines = [f"{counted} in {report.seconds:.3f} s; {report.lost} calls and {report.lost_threads} threads lost."]
    if report.lost_times:
        lines.append(f"{report.lost_times} calls are in no histogram: the map was full.")
    unseen = sum(row.unseen for row in report.scheduling)
    if unseen:
        lines.append(f"The kernel traced only one half of {unseen} switch(es): their time is not in the table.")
    if report.lost_switches or report.lost_traffic:
        lines.append(f"{report.lost_switches} switches and {report.lost_traffic} events of sockets lost.")
    if report.missed_ends:
        lines.append(f"{report.missed_ends} ends of channels are not in the bill: their hosts had more than 1,024.")
    lines += [
        fill(f"Not counted here: {lack.name} ({lack.reason}). Remedy: {lack.remedy}.", _WIDTH, subsequent_indent="  ")
        for lack in report.missing
    ]
    a_switch = "" if report.ns_per_switch is None else f" and {report.ns_per_switch:.0f} ns a switch"
    added = f"{report.ns_per_call:.0f} ns a call{a_switch}, {report.overhead_seconds * 1e3:.3f} ms in all"
    lines.append(f"Tracing added about {added}.")
    share = report.tracer_cpu_seconds / report.seconds if report.seconds > 0 else 0.0
    used = f"{report.tracer_cpu_seconds * 1e3:.3f} ms of CPU ({share:.1%} of one)"
    kept = ", ".join(report.tracer_capabilities) or "no capability"
    itself = f"The tracer itself used {used}, has {report.tracer_bytes / 1e6:.0f} MB and keeps {kept}."
    lines.append(fill(itself, _WIDTH, subsequent_indent="  "))
    return "\n".join(lines)

