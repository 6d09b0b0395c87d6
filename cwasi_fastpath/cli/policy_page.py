"""A replay as one HTML page that needs nothing else: who was on which way when, what that cost, and what ways cost."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from math import ceil, floor, log10
from statistics import median

from ..bench.units import time_text
from ..html_page import document, facts, grid, key, line, table
from ..policy import Way
from ..policy.replay import Replay
from ..policy.trace import Trace

_WIDTH, _LEFT, _LANE = 720, 110, 16
_PLOT = _WIDTH - _LEFT - 10
_COLUMNS = 300
"""Of a plot: longer traces have several blocks in one."""
_STYLE = "h3 { margin-bottom: 0 }"


def page(trace: Trace, found: Sequence[Replay], headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The whole page. found: the oracle first."""
    lanes = "".join(f"<h3>{escape(one.policy)}</h3>{_lanes(trace, one, number)}" for number, one in enumerate(found))
    return document(
        f"Policies on the trace {trace.name}",
        f"{facts(trace.about)}{table(headings, rows)}"
        f"<h2>More than the optimum, added up</h2>{key((one.policy for one in found[1:]), 1)}{_excess(trace, found)}"
        f"<h2>A message on each way</h2>{key(map(str, trace.ways))}{_latencies(trace)}"
        f'<h2>Who was on which way</h2>{lanes}<p class="dim">Broken lines: something changed. The oracle knows the '
        "future, and pays for its switches; that of phases takes one way from each change to the next.</p>",
        _STYLE,
    )


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
    most = max((max(more) for more in lines), default=0.0) or 1.0
    parts = [_grid(10 + (1 - share) * (height - 10), time_text(most * share)) for share in (0.0, 0.5, 1.0)]
    for number, more in enumerate(lines, 1):
        points = [
            (trace.blocks[end].at, 10 + (1 - value / most) * (height - 10))
            for end, value in zip(ends, more, strict=True)
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
    return grid(_LEFT, _LEFT + _PLOT, y, label)


def _line(trace: Trace, points: Sequence[tuple[float, float]], number: int, name: str) -> str:
    return line(((_x(trace, at), y) for at, y in points), number, name)


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
