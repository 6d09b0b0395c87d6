"""The report of cwasi-trace as JSON: one object for all of a trace, or one a line for each interval."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from ..tax_bill import tax_bill
from ..trace_report import ClassRow, NetworkRow, Process, Row, TraceReport
from .trace_bill import bill_as_json
from .trace_edges import Edge
from .trace_view import View

SCHEMA = 4
"""3: intervals; failed calls; threads; channels; what the tracer itself used; the tax bill. 4: control groups."""


def as_json(report: TraceReport, view: View, target: dict[str, Any]) -> str:
    """The whole report; `target` says what was traced, and how it ended."""
    return json.dumps({"schema": SCHEMA, **target, **_report(report, view)}, indent=1)


def as_line(report: TraceReport, view: View, number: int, at: float, edges: Iterable[Edge]) -> str:
    """What came in one interval, on one line. at: when it ended, in seconds of time.time()."""
    channels = [{**asdict(edge), "receivers": list(edge.receivers)} for edge in edges]
    head = {"schema": SCHEMA, "interval": number, "time": moment(at)}
    return json.dumps({**head, **_report(report, view), "channels": channels})


def moment(at: float) -> str:
    """In the form of ISO 8601, of UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _report(whole: TraceReport, view: View) -> dict[str, Any]:
    report = view.of(whole)
    return {
        "seconds": whole.seconds,
        "calls": whole.calls,
        "lost": whole.lost,
        "lost_times": whole.lost_times,
        "lost_switches": whole.lost_switches,
        "lost_traffic": whole.lost_traffic,
        "lost_threads": whole.lost_threads,
        "light": whole.light,
        "overhead": {
            "ns_per_call": whole.ns_per_call,
            "ns_per_switch": whole.ns_per_switch,
            "seconds": whole.overhead_seconds,
            "share": whole.overhead,
        },
        "tracer": {
            "cpu_seconds": whole.tracer_cpu_seconds,
            "memory_bytes": whole.tracer_bytes,
            "capabilities": list(whole.tracer_capabilities),
        },
        "rows": [_row_as_json(row) for row in report.rows],
        "classes": [_row_as_json(row) for row in report.classes],
        "scheduling": [_row_as_json(row) for row in report.scheduling],
        "network": [_network_as_json(row, whole.light) for row in report.network],
        "tax": bill_as_json(tax_bill(report)),
        "missed_ends": whole.missed_ends,
        "missing": [asdict(lack) for lack in whole.missing],
    }


_JSON_NAMES: dict[type[Row], dict[str, str]] = {ClassRow: {"kind": "class"}}


def _network_as_json(row: NetworkRow, light: bool) -> dict[str, Any]:
    blocked = None if light else row.blocked_ns
    return {**_row_as_json(row), "blocked_ns": blocked, "srtt_us": row.srtt_us, "cwnd": row.cwnd}


def _row_as_json(row: Row) -> dict[str, Any]:
    process = row.owner if isinstance(row.owner, Process) else None
    thread = {} if process is None or process.tid is None else {"tid": process.tid}
    owner: dict[str, Any] = {"function": None if process else row.owner, "process": None}
    if process is not None and process.pid:
        owner["process"] = {"pid": process.pid, "comm": process.comm, "cgroup": process.cgroup, **thread}
    elif process is not None:   # all of a group
        owner["cgroup"] = process.cgroup
    names = _JSON_NAMES.get(type(row), {})
    numbers = {names.get(field.name, field.name): getattr(row, field.name) for field in fields(row)[1:]}
    return {**owner, **numbers}
