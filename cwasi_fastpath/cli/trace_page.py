"""A recorded trace as one HTML page that needs nothing else, no script either: a click goes to a function's part."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..bench.units import share_text, size_text, time_text
from ..html_page import cell, document, key, table, table_of_cells
from ..html_page import facts as told
from .trace_history import History, Owner
from .trace_plots import graph, heat_map, timeline
from .trace_recording import Recording

_LINES = 6
"""Of a plot of all owners."""

_STYLE = """
:root { --box: #e7f5f8; --heat: #c92a2a }
@media (prefers-color-scheme: dark) { :root { --box: #16323a; --heat: #ff8787 } }
a { color: inherit } .warning { font-weight: 600; color: var(--heat) } svg.graph { width: auto; max-width: 100% }
svg text.dim { fill: var(--dim); font-size: 10px } svg .name { font-weight: 600 }
.graph rect { fill: var(--box); stroke: var(--c1) } .graph a:hover rect { stroke-width: 3 }
.edge path { fill: none; stroke: var(--dim); stroke-width: 1.5 } marker path { fill: var(--dim) }
.heat rect { fill: var(--heat) }
.owner { display: none } .owner:target, .owners:not(:has(:target)) .owner:first-child { display: block }
@media print { .owner { display: block !important } }
"""


def page(recording: Recording, history: History) -> str:
    """The whole page."""
    lack = f'<p class="warning">{escape(recording.lack)}</p>' if recording.lack else ""
    missing = "".join(f"<p>Not counted: {escape(name)} ({escape(why)}).</p>" for name, why in history.missing)
    parts = "".join(f"{_owner(number, owner, history)}" for number, owner in enumerate(history.owners))
    return document(
        "What communication cost",
        f"{lack}{_facts(recording, history)}"
        f"<h2>Functions and channels</h2>{_graph(history)}{_channels(history)}"
        f"<h2>Over time</h2>{_timelines(history)}"
        f'<h2>By function</h2>{_table(history)}<div class="owners">{parts}</div>'
        f'{missing}<p class="dim">Processes and threads stand in brackets: what no function did is charged to them. '
        "Times of calls have waiting in them. A row or a box leads to more about it.</p>",
        _STYLE,
    )


def _facts(recording: Recording, history: History) -> str:
    head, seconds = recording.head, sum(history.seconds)
    command, pids, machine = head.get("command"), head.get("pids"), head.get("machine")
    facts: list[tuple[str, str]] = [("began", str(head.get("started")))]
    if isinstance(command, list):
        facts.append(("command", " ".join(map(str, command))))
    if isinstance(pids, list):
        facts.append(("processes", " ".join(map(str, pids))))
    if isinstance(machine, dict):
        facts.append(("machine", ", ".join(f"{name} {value}" for name, value in machine.items())))
    added = history.overhead_seconds / seconds if seconds else 0.0
    used = history.tracer_seconds / seconds if seconds else 0.0
    facts += [
        ("length", f"{seconds:.3g} s in {len(recording.intervals)} intervals"),
        ("tracing added", f"{time_text(history.overhead_seconds * 1e9)}, {share_text(added)} of a CPU"),
        ("the tracer used", f"{time_text(history.tracer_seconds * 1e9)} of CPU, {share_text(used)} of one"),
        ("lost", f"{history.lost:,} events"),
    ]
    if recording.status is not None:
        facts.append(("status", str(recording.status)))
    return told(facts)


def _graph(history: History) -> str:
    drawn = graph(history)
    if drawn:
        return drawn
    return (
        "<p>No channels were seen. A process tells of those that it has by cwasi run, or opened by name, and is asked "
        "once an interval.</p>"
    )


def _channels(history: History) -> str:
    """What each end cost who has it."""
    figures = ("messages", "bytes", "in calls", "waiting", "copying", "sleeps", "a message")
    heading = ("channel", "function", "", "by", *figures)
    rows = [
        [
            *(end.channel, end.function, "sends" if end.sends else "receives", end.transport or "-"),
            *(f"{end.messages:,}", size_text(end.bytes), time_text(end.calls_ns), time_text(end.waited_ns)),
            *(time_text(end.copying_ns), f"{end.sleeps:,}", time_text(end.ns / end.messages) if end.messages else "-"),
        ]
        for end in history.ends
    ]
    return f"<h3>What channels cost</h3>{table(heading, rows)}" if rows else ""


def _timelines(history: History) -> str:
    owners = history.owners[:_LINES]
    plots = (
        ("System calls", timeline(owners, history.seconds, lambda column: column.calls, lambda v: f"{v:,.0f}/s")),
        ("Time in system calls", timeline(owners, history.seconds, lambda column: column.ns, _per_second)),
        ("Time off the CPU", timeline(owners, history.seconds, lambda column: column.off_cpu_ns, _per_second)),
    )
    drawn = "".join(f"<h3>{title}</h3>{plot}" for title, plot in plots if plot)
    return f"{key((owner.name for owner in owners), 1)}{drawn}" if drawn else "<p>Nothing happened.</p>"


def _per_second(ns: float) -> str:
    return f"{time_text(ns)}/s"


def _table(history: History) -> str:
    heading = ("", "calls", "time in calls", "time off CPU", "switches", "moved", "sent", "received", "sent again")
    rows = [
        [
            f'<td><a href="#owner-{number}">{escape(owner.name)}</a></td>',
            cell(f"{owner.count:,}"),
            cell(time_text(owner.ns)),
            cell(time_text(owner.off_cpu_ns)),
            cell(f"{owner.switches:,}"),
            cell(size_text(sum(column.moved for column in owner.columns))),
            cell(size_text(owner.sent)),
            cell(size_text(owner.received)),
            cell(f"{owner.retransmits:,}"),
        ]
        for number, owner in enumerate(history.owners)
    ]
    return table_of_cells(heading, rows) if rows else ""


def _owner(number: int, owner: Owner, history: History) -> str:
    heat = heat_map(owner, history.seconds)
    times = timeline([owner], history.seconds, lambda column: column.ns + column.off_cpu_ns, _per_second)
    calls = sorted(owner.calls.items(), key=lambda pair: -pair[1].ns)
    rows = [
        [
            name,
            f"{call.count:,}",
            f"{call.failed:,}",
            time_text(call.ns),
            time_text(call.ns / max(1, call.count)),
            size_text(call.bytes),
        ]
        for name, call in calls
    ]
    channels = [
        [edge.channel, edge.sender, ", ".join(edge.receivers), edge.mode, edge.transport, f"{edge.messages:,}",
         size_text(edge.bytes)]
        for edge in history.edges
        if owner.end in edge.functions
    ]  # fmt: skip
    parts = [
        ("How long its calls took", heat),
        ("Time in calls and off the CPU", times),
        ("Its channels", _tabled(("channel", "from", "to", "mode", "transport", "messages", "bytes"), channels)),
        ("Its system calls", _tabled(("call", "count", "failed", "time", "mean", "bytes"), rows)),
    ]
    inner = "".join(f"<h3>{title}</h3>{part}" for title, part in parts if part)
    return f'<section class="owner" id="owner-{number}"><h2>{escape(owner.name)}</h2>{inner}</section>'


def _tabled(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Nothing where there are no rows."""
    return table(heading, rows) if rows else ""
