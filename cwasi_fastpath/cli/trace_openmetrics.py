"""What was counted since the trace began, as OpenMetrics text: for Prometheus and its kin. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..trace_report import Process, TraceReport

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Samples = Iterator[tuple[str, dict[str, str], float]]
"""(suffix of the name, labels, value)"""


def openmetrics(report: TraceReport) -> str:
    """Counters by owner: the label `function`, or `process` and `pid` (by thread, `tid` too) where none ran."""
    families = [
        _calls(report),
        _failures(report),
        _moved(report),
        _times(report),
        _switches(report),
        _off_cpu(report),
        _queued(report),
        _wakeups(report),
        _sent(report),
        _received(report),
        _blocked(report),
        _connects(report),
        _retransmits(report),
        _round_trips(report),
        *_channels(report),
        *_tracer(report),
    ]
    return "".join(families) + "# EOF\n"


def _family(name: str, kind: str, text: str, samples: Samples) -> str:
    lines = [f"# TYPE {name} {kind}\n# HELP {name} {text}\n"]
    for suffix, labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(said)}"' for label, said in labels.items())
        which = f"{{{inside}}}" if inside else ""
        lines.append(f"{name}{suffix}{which} {_number(value)}\n")
    return "".join(lines)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(owner: str | Process, **more: str) -> dict[str, str]:
    if isinstance(owner, str):
        return {"function": owner, **more}
    thread = {} if owner.tid is None else {"tid": str(owner.tid)}
    return {"process": owner.comm, "pid": str(owner.pid), "id": str(owner.id), **thread, **more}


# ---- system calls ----


def _calls(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, **{"class": row.kind}), row.count) for row in report.classes)
    return _family("cwasi_syscalls", "counter", "System calls that have returned.", found)


def _failures(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, **{"class": row.kind}), row.failed) for row in report.classes)
    return _family("cwasi_syscall_failures", "counter", "Those that returned an error.", found)


def _moved(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, **{"class": row.kind}), row.bytes) for row in report.classes)
    return _family("cwasi_syscall_bytes", "counter", "Bytes that they moved.", found)


def _times(report: TraceReport) -> str:
    def samples() -> Samples:
        for row in report.classes:
            yield from _histogram(_labels(row.owner, **{"class": row.kind}), row.histogram, row.ns)

    return _family("cwasi_syscall_seconds", "histogram", "From entry to return, waiting included.", samples())


def _histogram(labels: dict[str, str], buckets: Sequence[int], ns: int) -> Samples:
    """Every other of the kernel's buckets, and one for all that is longer."""
    below = 0
    for number, count in enumerate(buckets[:-1]):
        below += count
        if number % 2:
            yield "_bucket", {**labels, "le": repr(2.0 ** (number + 1) / 1e9)}, below
    yield "_bucket", {**labels, "le": "+Inf"}, sum(buckets)
    yield "_count", labels, sum(buckets)
    yield "_sum", labels, ns / 1e9


# ---- scheduling ----


def _switches(report: TraceReport) -> str:
    found = (
        ("_total", _labels(row.owner, kind=kind), count)
        for row in report.scheduling
        for kind, count in (("voluntary", row.voluntary), ("involuntary", row.involuntary))
    )
    return _family("cwasi_switches", "counter", "Times that threads left the CPU.", found)


def _off_cpu(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner), row.off_cpu_ns / 1e9) for row in report.scheduling)
    return _family("cwasi_off_cpu_seconds", "counter", "From leaving the CPU to running again.", found)


def _queued(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner), row.run_queue_ns / 1e9) for row in report.scheduling)
    return _family("cwasi_run_queue_seconds", "counter", "The part of it in which they could have run.", found)


def _wakeups(report: TraceReport) -> str:
    def samples() -> Samples:
        for row in report.scheduling:
            yield from _histogram(_labels(row.owner), row.histogram, row.wakeup_ns)

    return _family("cwasi_wakeup_seconds", "histogram", "From wake-up to running.", samples())


# ---- network ----


def _sent(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, kind=row.kind), row.sent_bytes) for row in report.network)
    return _family("cwasi_network_sent_bytes", "counter", "Bytes sent through sockets.", found)


def _received(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, kind=row.kind), row.received_bytes) for row in report.network)
    return _family("cwasi_network_received_bytes", "counter", "Bytes received through sockets.", found)


def _blocked(report: TraceReport) -> str:
    rows = () if report.light else report.network
    found = (("_total", _labels(row.owner, kind=row.kind), row.blocked_ns / 1e9) for row in rows)
    return _family("cwasi_network_blocked_seconds", "counter", "Slept in calls that send and receive.", found)


def _connects(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, kind=row.kind), row.connects) for row in report.network)
    return _family("cwasi_network_connects", "counter", "Connections begun.", found)


def _retransmits(report: TraceReport) -> str:
    found = (("_total", _labels(row.owner, kind=row.kind), row.retransmits) for row in report.network)
    return _family("cwasi_network_retransmits", "counter", "Packets that TCP sent again.", found)


def _round_trips(report: TraceReport) -> str:
    def samples() -> Samples:
        for row in report.network:
            if row.samples:
                yield "_count", _labels(row.owner, kind=row.kind), row.samples
                yield "_sum", _labels(row.owner, kind=row.kind), row.srtt_us_sum / 1e6

    text = "Smoothed round-trip times, looked at whenever a segment came."
    return _family("cwasi_network_srtt_seconds", "summary", text, samples())


# ---- channels ----

_OF_ENDS = {
    "cwasi_channel_messages": ("Messages that an end sent or received.", "messages", 1),
    "cwasi_channel_bytes": ("Bytes of payload that it sent or received.", "bytes", 1),
    "cwasi_channel_call_seconds": ("Spent in calls into it, waiting included.", "calls_ns", 1e9),
    "cwasi_channel_wait_seconds": ("The part of it that it waited for its peer.", "waited_ns", 1e9),
    "cwasi_channel_copy_seconds": ("The part of it that it copied in.", "copying_ns", 1e9),
    "cwasi_channel_sleeps": ("Times that it slept in the kernel.", "parks", 1),
}


def _channels(report: TraceReport) -> list[str]:
    return [
        _family(name, "counter", text, _of_ends(report, field, unit)) for name, (text, field, unit) in _OF_ENDS.items()
    ]


def _of_ends(report: TraceReport, field: str, unit: float) -> Samples:
    """An end may have been in several hands and on several transports: what it is called now."""
    for end in report.ends:
        more = {"channel": end.channel, "direction": end.direction, "transport": end.transport, "end": end.id}
        value = getattr(end, field)
        yield "_total", _labels(end.owner, **more), value if unit == 1 else value / unit


# ---- the tracer ----


def _tracer(report: TraceReport) -> list[str]:
    lost = {
        "calls": report.lost,
        "times": report.lost_times,
        "switches": report.lost_switches,
        "traffic": report.lost_traffic,
        "threads": report.lost_threads,
    }
    costs = {"syscall": report.ns_per_call, "switch": report.ns_per_switch}
    return [
        _family("cwasi_tracer_lost", "counter", "What happened and was not counted.",
                (("_total", {"what": what}, count) for what, count in lost.items())),
        _family("cwasi_tracer_added_seconds", "counter", "What tracing has added to calls and switches.",
                iter([("_total", {}, report.overhead_seconds)])),
        _family("cwasi_tracer_cpu_seconds", "counter", "CPU that the tracer has used itself.",
                iter([("_total", {}, report.tracer_cpu_seconds)])),
        _family("cwasi_tracer_event_seconds", "gauge", "What tracing adds to one event, measured at its start.",
                (("", {"event": event}, ns / 1e9) for event, ns in costs.items() if ns is not None)),
        _family("cwasi_tracer_resident_bytes", "gauge", "Memory of the tracer.", iter([("", {}, report.tracer_bytes)])),
        _family("cwasi_tracer_light", "gauge", "1 if system calls are left out.", iter([("", {}, int(report.light))])),
    ]  # fmt: skip
