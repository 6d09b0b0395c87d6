"""A replay as one HTML page that needs nothing else: who was on which way when, what that cost, and what ways cost."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from math import ceil, floor, log10
from statistics import median

from ..bench.units import time_text
from ..policy import Way
from ..policy.replay import Replay
from ..policy.trace import Trace

_WIDTH, _LEFT, _LANE = 720, 110, 16
_PLOT = _WIDTH - _LEFT - 10
_COLUMNS = 300
"""Of a plot: longer traces have several blocks in one."""
_COLOURS = 8

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --dim: #66717e; --line: #d9dee4; --back: #fff;
  --c0: #868e96; --c1: #0b7285; --c2: #e67700; --c3: #862e9c; --c4: #2b8a3e; --c5: #c92a2a; --c6: #364fc7;
  --c7: #a61e4d }
@media (prefers-color-scheme: dark) { :root { --text: #dde3ea; --dim: #93a0ad; --line: #36414c; --back: #14191f;
  --c0: #adb5bd; --c1: #3bc9db; --c2: #ffa94d; --c3: #da77f2; --c4: #69db7c; --c5: #ff8787; --c6: #748ffc;
  --c7: #faa2c1 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-bottom: 0 }
.dim, dl { color: var(--dim) } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dd { margin: 0; overflow-wrap: anywhere } .scroll { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right }
th { color: var(--dim) } th:first-child, td:first-child { text-align: left } td { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; font-size: 12px } svg text { fill: var(--text) } svg .right { text-anchor: end }
svg .middle { text-anchor: middle } svg .grid { stroke: var(--line) } svg .change { stroke: var(--dim);
  stroke-dasharray: 3 4 } polyline { fill: none; stroke-width: 2 }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; border-radius: 50% }
"""


def page(trace: Trace, found: Sequence[Replay], headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The whole page. found: the oracle first."""
    colours = "".join(
        f".k{n} {{ stroke: var(--c{n}) }} .key .k{n} {{ background: var(--c{n}) }}" for n in range(_COLOURS)
    )
    facts = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in trace.about.items())
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    lanes = "".join(f"<h3>{escape(one.policy)}</h3>{_lanes(trace, one, number)}" for number, one in enumerate(found))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Policies on a trace</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}{colours}</style></head><body><h1>Policies on the trace {escape(trace.name)}</h1>"
        f'<dl>{facts}</dl><div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
        f"<h2>More than the optimum, added up</h2>{_key([one.policy for one in found[1:]], 1)}{_excess(trace, found)}"
        f"<h2>A message on each way</h2>{_key(list(map(str, trace.ways)), 0)}{_latencies(trace)}"
        f'<h2>Who was on which way</h2>{lanes}<p class="dim">Broken lines: something changed. The oracle knows the '
        "future, and pays for its switches.</p></body></html>\n"
    )


def _key(names: Sequence[str], first: int) -> str:
    spans = (f'<span class="k{n % _COLOURS}"></span>{escape(name)}' for n, name in enumerate(names, first))
    return f'<p class="key">{"".join(spans)}</p>'


def _columns(trace: Trace) -> list[range]:
    """The blocks of each column."""
    count = len(trace.blocks)
    columns = min(count, _COLUMNS)
    return [range(n * count // columns, (n + 1) * count // columns) for n in range(columns)]


def _x(trace: Trace, at: float) -> float:
    first, last = trace.blocks[0], trace.blocks[-1]
    return _LEFT + _PLOT * min(1.0, (at - first.at) / (last.at + last.seconds - first.at))


def _excess(trace: Trace, found: Sequence[Replay]) -> str:
    """What each policy has paid more than the oracle by then."""
    best, height = list(accumulate(found[0].cost_ns)), 200
    ends = [column[-1] for column in _columns(trace)]
    lines = []
    for one in found[1:]:
        paid = list(accumulate(one.cost_ns))
        lines.append([max(0.0, paid[end] - best[end]) for end in ends])
    most = max((max(line) for line in lines), default=0.0) or 1.0
    parts = [_grid(10 + (1 - share) * (height - 10), time_text(most * share)) for share in (0.0, 0.5, 1.0)]
    for number, line in enumerate(lines, 1):
        points = [
            (trace.blocks[end].at, 10 + (1 - value / most) * (height - 10))
            for end, value in zip(ends, line, strict=True)
        ]
        parts.append(_line(trace, points, number, found[number].policy))
    return _svg(trace, height, parts, "More than the optimum")


def _latencies(trace: Trace) -> str:
    """The median of the blocks of each column; logarithmic."""
    height, columns = 260, _columns(trace)
    series: list[list[tuple[float, float]]] = []
    for way in trace.ways:
        points = []
        for column in columns:
            seen = [trace.blocks[n].measured[way].latency_ns for n in column if way in trace.blocks[n].measured]
            if seen:
                points.append((trace.blocks[column[0]].at, max(1.0, median(seen))))
        series.append(points)
    values = [value for points in series for _, value in points]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)

    def y(ns: float) -> float:
        return 10 + (high - log10(ns)) / (high - low) * (height - 10)

    parts = [_grid(y(10.0**power), time_text(10.0**power)) for power in range(low, high + 1)]
    for number, (way, points) in enumerate(zip(trace.ways, series, strict=True)):
        parts.append(_line(trace, [(at, y(value)) for at, value in points], number, str(way)))
    return _svg(trace, height, parts, "A message on each way")


def _lanes(trace: Trace, one: Replay, number: int) -> str:
    """A lane for each way, and a line through those that were taken."""
    lanes = {way: n for n, way in enumerate(trace.ways)}
    parts = [_grid(_middle(n), str(way)) for way, n in lanes.items()]
    points = []
    for column in _columns(trace):
        block = trace.blocks[column[0]]
        taken: list[Way] = [one.ways[n] for n in column]
        points += [(block.at, _middle(lanes[way])) for way in dict.fromkeys(taken)]
    last = trace.blocks[-1]
    points.append((last.at + last.seconds, _middle(lanes[one.ways[-1]])))
    parts.append(_line(trace, _stepped(points), number, one.policy))
    return _svg(trace, _LANE * len(lanes), parts, f"The ways of {one.policy}")


def _middle(lane: int) -> float:
    return _LANE * (lane + 0.5)


def _stepped(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """As steps, and only where they go up or down."""
    found = [points[0]]
    for at, y in points[1:]:
        if y != found[-1][1]:
            found += [(at, found[-1][1]), (at, y)]
    return [*found, points[-1]]


def _grid(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="right" x="{_LEFT - 8}" y="{y + 4:.1f}">{escape(label)}</text>'
    )


def _line(trace: Trace, points: Sequence[tuple[float, float]], number: int, name: str) -> str:
    places = " ".join(f"{_x(trace, at):.1f},{y:.1f}" for at, y in points)
    return f'<polyline class="k{number % _COLOURS}" points="{places}"><title>{escape(name)}</title></polyline>'


def _svg(trace: Trace, height: int, parts: Sequence[str], label: str) -> str:
    changes = "".join(
        f'<line class="change" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>'
        for x in (_x(trace, change) for change in trace.changes or ())
    )
    first, last = trace.blocks[0], trace.blocks[-1]
    end = last.at + last.seconds - first.at
    marks = "".join(
        f'<text class="{style}" x="{_LEFT + _PLOT * share:.0f}" y="{height + 18}">{end * share:.3g} s</text>'
        for share, style in ((0.0, ""), (0.5, "middle"), (1.0, "right"))
    )
    return (
        f'<svg viewBox="0 -4 {_WIDTH} {height + 28}" role="img" aria-label="{escape(label)}">'
        f"{changes}{''.join(parts)}{marks}</svg>"
    )
