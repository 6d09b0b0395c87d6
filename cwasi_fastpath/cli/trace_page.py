"""A recorded trace as one HTML page that needs nothing else, no script either: a click goes to a function's part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..bench.units import share_text, size_text, time_text
from .trace_history import History, Owner
from .trace_plots import graph, heat_map, timeline
from .trace_recording import Recording

_LINES = 6
"""Of a plot of all owners."""

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --dim: #66717e; --line: #d9dee4; --back: #fff; --box: #e7f5f8;
  --heat: #c92a2a; --c0: #0b7285; --c1: #e67700; --c2: #862e9c; --c3: #2b8a3e; --c4: #c92a2a; --c5: #364fc7 }
@media (prefers-color-scheme: dark) { :root { --text: #dde3ea; --dim: #93a0ad; --line: #36414c; --back: #14191f;
  --box: #16323a; --heat: #ff8787; --c0: #3bc9db; --c1: #ffa94d; --c2: #da77f2; --c3: #69db7c; --c4: #ff8787;
  --c5: #748ffc } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem }
a { color: inherit } .dim, dl { color: var(--dim) } .warning { font-weight: 600; color: var(--heat) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem } dd { margin: 0; overflow-wrap: anywhere }
.scroll { overflow-x: auto } table { border-collapse: collapse }
th { text-align: right; font-weight: 600; color: var(--dim) } th:first-child, td:first-child { text-align: left }
th, td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right }
td { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; font-size: 12px } svg.graph { width: auto; max-width: 100% }
svg text { fill: var(--text) } svg text.dim { fill: var(--dim); font-size: 10px } svg .name { font-weight: 600 }
svg .right { text-anchor: end } svg .middle { text-anchor: middle } svg .grid { stroke: var(--line) }
.graph rect { fill: var(--box); stroke: var(--c0) } .graph a:hover rect { stroke-width: 3 }
.edge path { fill: none; stroke: var(--dim); stroke-width: 1.5 } marker path { fill: var(--dim) }
.heat rect { fill: var(--heat) } .time polyline { fill: none; stroke-width: 2 }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; border-radius: 50% }
.owner { display: none } .owner:target, .owners:not(:has(:target)) .owner:first-child { display: block }
@media print { .owner { display: block !important } }
"""


def page(recording: Recording, history: History) -> str:
    """The whole page."""
    colours = "".join(
        f".line-{n} {{ stroke: var(--c{n}) }} .key .line-{n} {{ background: var(--c{n}) }}" for n in range(_LINES)
    )
    lack = f'<p class="warning">{escape(recording.lack)}</p>' if recording.lack else ""
    missing = "".join(f"<p>Not counted: {escape(name)} ({escape(why)}).</p>" for name, why in history.missing)
    parts = "".join(f"{_owner(number, owner, history)}" for number, owner in enumerate(history.owners))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>What communication cost</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}{colours}</style></head><body><h1>What communication cost</h1>{lack}"
        f"{_facts(recording, history)}"
        f"<h2>Functions and channels</h2>{_graph(history)}{_channels(history)}"
        f"<h2>Over time</h2>{_timelines(history)}"
        f'<h2>By function</h2>{_table(history)}<div class="owners">{parts}</div>'
        f'{missing}<p class="dim">Processes and threads stand in brackets: what no function did is charged to them. '
        "Times of calls have waiting in them. A row or a box leads to more about it.</p></body></html>\n"
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
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}</dl>"


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
            *map(escape, (end.channel, end.function, "sends" if end.sends else "receives", end.transport or "-")),
            *(f"{end.messages:,}", size_text(end.bytes), time_text(end.calls_ns), time_text(end.waited_ns)),
            *(time_text(end.copying_ns), f"{end.sleeps:,}", time_text(end.ns / end.messages) if end.messages else "-"),
        ]
        for end in history.ends
    ]
    table = _tabled(heading, rows)
    return f"<h3>What channels cost</h3>{table}" if table else ""


def _timelines(history: History) -> str:
    owners = history.owners[:_LINES]
    key = "".join(f'<span class="line-{number}"></span>{escape(owner.name)}' for number, owner in enumerate(owners))
    plots = (
        ("System calls", timeline(owners, history.seconds, lambda column: column.calls, lambda v: f"{v:,.0f}/s")),
        ("Time in system calls", timeline(owners, history.seconds, lambda column: column.ns, _per_second)),
        ("Time off the CPU", timeline(owners, history.seconds, lambda column: column.off_cpu_ns, _per_second)),
    )
    drawn = "".join(f"<h3>{title}</h3>{plot}" for title, plot in plots if plot)
    return f'<p class="key">{key}</p>{drawn}' if drawn else "<p>Nothing happened.</p>"


def _per_second(ns: float) -> str:
    return f"{time_text(ns)}/s"


def _table(history: History) -> str:
    heading = ("", "calls", "time in calls", "time off CPU", "switches", "moved", "sent", "received", "sent again")
    rows = [
        [
            f'<a href="#owner-{number}">{escape(owner.name)}</a>',
            f"{owner.count:,}",
            time_text(owner.ns),
            time_text(owner.off_cpu_ns),
            f"{owner.switches:,}",
            size_text(sum(column.moved for column in owner.columns)),
            size_text(owner.sent),
            size_text(owner.received),
            f"{owner.retransmits:,}",
        ]
        for number, owner in enumerate(history.owners)
    ]
    return _tabled(heading, rows)


def _owner(number: int, owner: Owner, history: History) -> str:
    heat = heat_map(owner, history.seconds)
    times = timeline([owner], history.seconds, lambda column: column.ns + column.off_cpu_ns, _per_second)
    calls = sorted(owner.calls.items(), key=lambda pair: -pair[1].ns)
    rows = [
        [
            escape(name),
            f"{call.count:,}",
            f"{call.failed:,}",
            time_text(call.ns),
            time_text(call.ns / max(1, call.count)),
            size_text(call.bytes),
        ]
        for name, call in calls
    ]
    channels = [
        [escape(edge.channel), escape(edge.sender), escape(", ".join(edge.receivers)), escape(edge.mode),
         escape(edge.transport), f"{edge.messages:,}", size_text(edge.bytes)]
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


def _tabled(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Cells are HTML already; nothing where there are no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in heading)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>' if body else ""
