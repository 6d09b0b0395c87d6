"""A finished run as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .. import html_page
from .case import Path
from .plot import latency_plot, throughput_plot
from .report import METHOD, NOTHING, PUBLISHED, Report, Topic, regime_title, topics
from .summary import Summary

_STYLE = """
:root {
  --ring: #0b7285; --windows: #364fc7; --pipe: #e67700; --redis-list: #c92a2a; --redis-stream: #862e9c;
  --tuned-list: #f76707; --tuned-stream: #5f3dc4; --iceoryx2: #2b8a3e; --zeromq: #a61e4d; --mp-pipe: #868e96;
  --mp-shared: #495057; --wasi-stdio: #1864ab; --tcp: #5c940d; --tcp-tls: #9c36b5; --redis: #e03131;
  --raw-pipe: #d9480f; --raw-vmsplice: #f08c00; --raw-unix: #087f5b; --raw-tcp: #74b816;
  --met: #2b8a3e; --missed: #c92a2a; --open: #b35c00 }
@media (prefers-color-scheme: dark) { :root {
  --ring: #3bc9db; --windows: #748ffc; --pipe: #ffa94d; --redis-list: #ff8787; --redis-stream: #da77f2;
  --tuned-list: #ff922b; --tuned-stream: #9775fa; --iceoryx2: #69db7c; --zeromq: #f783ac; --mp-pipe: #adb5bd;
  --mp-shared: #868e96; --wasi-stdio: #4dabf7; --tcp: #a9e34b; --tcp-tls: #e599f7; --redis: #ffa8a8;
  --raw-pipe: #ff922b; --raw-vmsplice: #ffd43b; --raw-unix: #63e6be; --raw-tcp: #c0eb75;
  --met: #69db7c; --missed: #ff8787; --open: #ffc078 } }
th, td { text-align: left }
.met { color: var(--met) } .missed { color: var(--missed) } .undecided { color: var(--open) }
.met, .missed, .undecided { font-weight: 600 } .c polyline { stroke-width: 3 } .guest polyline { stroke-width: 3 }
.together polyline { stroke-dasharray: 8 4 } .spinning polyline { stroke-dasharray: 2 3 }
svg line { stroke-width: 2 } svg .grid { stroke-width: 1 }
"""
_COLOURED = (
    Path.RING, Path.WINDOWS, Path.PIPE, Path.TCP, Path.TLS, Path.REDIS, Path.LIST, Path.STREAM,
    Path.TUNED_LIST, Path.TUNED_STREAM, Path.RAW_PIPE, Path.VMSPLICE, Path.RAW_UNIX, Path.RAW_TCP,
    Path.ICEORYX, Path.ZMQ, Path.MP_PIPE, Path.MP_SHARED, Path.STDIO,
)  # fmt: skip


def page(report: Report) -> str:
    """The whole page."""
    parts = [_regime(summary) for summary in report.summaries]
    return document("Channels on one machine", report.environment, report.notes, parts, (METHOD, PUBLISHED))


def document(
    title: str, environment: dict[str, str | int], notes: Sequence[str], parts: Sequence[str], remarks: Sequence[str]
) -> str:
    """A page of parts in HTML, between what is text."""
    noted = "".join(f"<p>{escape(note)}</p>" for note in (*notes, *(() if parts else (NOTHING,))))
    remarked = "".join(f'<p class="dim">{escape(remark)}</p>' for remark in remarks)
    return html_page.document(
        title, f"{html_page.facts(environment)}{noted}{''.join(parts)}{remarked}", _STYLE + _path_styles()
    )


def _path_styles() -> str:
    return "".join(
        f".{path} polyline, .{path} line {{ stroke: var(--{path}) }}"
        f" .{path} circle, .{path} rect {{ fill: var(--{path}) }} .key .{path} {{ background: var(--{path}) }}"
        for path in _COLOURED
    ) + ".whisker { stroke: var(--text) !important; stroke-width: 1.5 }"


def _regime(summary: Summary) -> str:
    *tables, goals = topics(summary)
    drawn = [path for path in _COLOURED if any(case.path is path for case in summary.figures)]
    plots = (("Latency one way, median", latency_plot(summary)), ("Throughput, median", throughput_plot(summary)))
    return (
        f"<h2>{escape(regime_title(summary))}</h2>"
        + (topic_table(goals) if goals.rows else "")
        + html_page.key_of((path, path) for path in drawn)
        + '<p class="dim">Broken lines: both ends on one core; dotted: they spin.</p>'
        + "".join(f"<h3>{title}</h3>{plot}" for title, plot in plots if plot)
        + "".join(map(topic_table, tables))
    )


def topic_table(topic: Topic) -> str:
    """A table with its heading."""
    rows = (map(_cell, row) for row in topic.rows)
    return f"<h3>{escape(topic.title)}</h3>{html_page.table_of_cells(topic.columns, rows)}"


def _cell(text: str) -> str:
    return html_page.cell(text, text if text in ("met", "missed", "undecided") else "")
