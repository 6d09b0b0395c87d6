"""A finished run as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .case import Kind, Path
from .plot import latency_plot, throughput_plot
from .report import (
    METHOD,
    NOTHING,
    PUBLISHED,
    Report,
    against_texts,
    figure_texts,
    goal_texts,
    regime_title,
    rounds_text,
)
from .summary import Summary, size_text

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --dim: #66717e; --line: #d9dee4; --back: #fff;
  --ring: #0b7285; --pipe: #e67700; --list: #c92a2a; --stream: #862e9c; --tuned-list: #f76707; --tuned-stream: #5f3dc4;
  --met: #2b8a3e; --missed: #c92a2a; --open: #b35c00 }
@media (prefers-color-scheme: dark) { :root { --text: #dde3ea; --dim: #93a0ad; --line: #36414c; --back: #14191f;
  --ring: #3bc9db; --pipe: #ffa94d; --list: #ff8787; --stream: #da77f2; --tuned-list: #ff922b; --tuned-stream: #9775fa;
  --met: #69db7c; --missed: #ff8787; --open: #ffc078 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem }
p.dim, dl { color: var(--dim) } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dd { margin: 0 } .scroll { overflow-x: auto }
table { border-collapse: collapse } th { text-align: left; font-weight: 600; color: var(--dim) }
th, td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
td { font-variant-numeric: tabular-nums }
.met { color: var(--met) } .not-met { color: var(--missed) } .undecided { color: var(--open) }
.met, .not-met, .undecided { font-weight: 600 }
svg { width: 100%; height: auto; font-size: 12px } svg text { fill: var(--text) }
svg .right { text-anchor: end } svg .middle { text-anchor: middle } svg .grid { stroke: var(--line) }
svg polyline { fill: none; stroke-width: 2 } svg line { stroke-width: 2 } svg .grid { stroke-width: 1 }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; border-radius: 50% }
"""
_COLOURS = {Path.RING: "ring", Path.PIPE: "pipe", Path.LIST: "list", Path.STREAM: "stream",
            Path.TUNED_LIST: "tuned-list", Path.TUNED_STREAM: "tuned-stream"}


def page(report: Report) -> str:
    """The whole page."""
    found = report.environment.items()
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in found)
    parts = "".join(_regime(summary) for summary in report.summaries)
    nothing = "" if parts else f"<p>{escape(NOTHING)}</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Channels against Redis</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}{_path_styles()}</style></head><body><h1>Channels against Redis, one machine</h1>"
        f"<dl>{facts}</dl><p>{escape(rounds_text(report))}</p>{parts}{nothing}"
        f'<p class="dim">{escape(METHOD)}</p><p class="dim">{escape(PUBLISHED)}</p></body></html>\n'
    )


def _path_styles() -> str:
    return "".join(
        f".{path} polyline, .{path} line {{ stroke: var(--{colour}) }}"
        f" .{path} circle, .{path} rect {{ fill: var(--{colour}) }} .key .{path} {{ background: var(--{colour}) }}"
        for path, colour in _COLOURS.items()
    ) + ".whisker { stroke: var(--text) !important; stroke-width: 1.5 }"


def _regime(summary: Summary) -> str:
    key = "".join(f'<span class="{path}"></span>{path}' for path in Path)
    goals = [(*goal_texts(goal), _verdict(goal.verdict)) for goal in summary.goals]
    figures = [
        (str(case.kind), size_text(case.size), str(case.path), *figure_texts(found), *against_texts(summary, case))
        for case, found in summary.figures.items()
    ]
    latency = any(case.kind is Kind.LATENCY for case in summary.figures)
    return (
        f"<h2>{escape(regime_title(summary))}</h2>"
        + _table(("goal (ring)", "wanted", "measured", "95% interval", ""), goals)
        + f'<h3>Latency one way, median</h3><p class="key">{key}</p>'
        + (latency_plot(summary) if latency else "")
        + f"<h3>Throughput, median</h3>{throughput_plot(summary)}<h3>All figures</h3>"
        + _table(("", "size", "path", "median", "95% interval", "p99", "against Redis", "tuned"), figures)
    )


class _Markup(str):
    """Text that is HTML already."""


def _verdict(verdict: str) -> _Markup:
    return _Markup(f'<span class="{verdict.replace(" ", "-")}">{escape(verdict)}</span>')


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(text: str) -> str:
    return text if isinstance(text, _Markup) else escape(text)
