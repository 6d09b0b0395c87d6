"""A live run as one HTML page that needs nothing else: which way was taken when, and what messages took meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from ..bench.units import time_text
from ..html_page import document, grid, key, line, table
from ..html_page import facts as told
from .played import Part, Played, Slice

_WIDTH, _LEFT, _TOP, _HEIGHT, _LANE = 720, 170, 34, 260, 18
_PLOT = _WIDTH - _LEFT - 10
_COLUMNS = 240

_STYLE = """
h3 { margin-bottom: 0 } th:nth-child(2), td:nth-child(2) { text-align: left }
pre { white-space: pre-wrap; font-size: 13px }
"""


def page(
    played: Sequence[Played],
    channel: str,
    facts: Mapping[str, str | int],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    """The whole page. channel: whose ways are drawn. facts: of the machine. headings, rows: of the table."""
    names = key((one.policy for one in played), 1)
    return document(
        "Policies, live",
        f"{told(facts)}<h2>The load</h2>{told((part.phase.name, part.phase) for part in played[0].parts)}"
        f"<h2>What messages took</h2>{table(headings, rows)}"
        f"<h2>Which way, over time</h2>{names}{_ways(played, channel)}"
        f"<h2>A message, over time</h2>{names}{_latencies(played)}"
        '<p class="dim">One way, on average; broken lines: the load changed. The policies ran one after the other.</p>'
        f"<h2>How it was explained</h2>{''.join(_explanations(played))}",
        _STYLE,
    )


def _explanations(played: Sequence[Played]) -> Iterator[str]:
    for one in played:
        for part in one.parts:
            yield f"<h3>{escape(one.policy)}, {escape(part.phase.name)}</h3><pre>{escape(part.text)}</pre>"


def _ways(played: Sequence[Played], channel: str) -> str:
    """A lane for each way that any of them took; a line for each policy."""
    names = sorted({f"{change.way}, {change.mode}" for one in played for change in one.ways(channel)})
    lanes = {name: _TOP + _LANE * (number + 0.5) for number, name in enumerate(names)}
    parts = [_grid(y, name) for name, y in lanes.items()]
    for number, one in enumerate(played):
        shift = 3.0 * (number - (len(played) - 1) / 2)   # so that one line does not hide another
        points: list[tuple[float, float]] = []
        for change in one.ways(channel):
            y = lanes[f"{change.way}, {change.mode}"] + shift
            points += [(change.at, points[-1][1] if points else y), (change.at, y)]
        points.append((one.parts[-1].end, points[-1][1]))
        parts.append(_line(played, points, number, one.policy))
    return _svg(played, _TOP + _LANE * len(names), parts, "Which way, over time")


def _latencies(played: Sequence[Played]) -> str:
    """Logarithmic."""
    lines = [[point for part in one.parts for point in _columns(played, part)] for one in played]
    values = [value for points in lines for _, value in points]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)

    def y(ns: float) -> float:
        return _TOP + (high - log10(ns)) / (high - low) * (_HEIGHT - _TOP)

    parts = [_grid(y(10.0**power), time_text(10.0**power)) for power in range(low, high + 1)]
    for number, (one, points) in enumerate(zip(played, lines, strict=True)):
        parts.append(_line(played, [(at, y(value)) for at, value in points], number, one.policy))
    return _svg(played, _HEIGHT, parts, "What a message took, over time")


def _columns(played: Sequence[Played], part: Part) -> Iterator[tuple[float, float]]:
    """The mean of those slices that would lie on the same spot."""
    width = _length(played) / _COLUMNS
    found: list[Slice] = []
    for one in part.slices:
        if found and one.at - found[0].at >= width:
            yield _point(found)
            found = []
        found.append(one)
    if found:
        yield _point(found)


def _point(slices: Sequence[Slice]) -> tuple[float, float]:
    total, messages = sum(one.total_ns for one in slices), sum(one.messages for one in slices)
    return slices[-1].at, max(1.0, total / messages)


def _length(played: Sequence[Played]) -> float:
    return max(one.parts[-1].end for one in played)


def _x(played: Sequence[Played], at: float) -> float:
    return _LEFT + _PLOT * min(1.0, at / _length(played))


def _grid(y: float, label: str) -> str:
    return grid(_LEFT, _LEFT + _PLOT, y, label)


def _line(played: Sequence[Played], points: Sequence[tuple[float, float]], number: int, name: str) -> str:
    return line(((_x(played, at), y) for at, y in points), number + 1, name)


def _svg(played: Sequence[Played], height: int, parts: Sequence[str], label: str) -> str:
    marks = []
    for number, part in enumerate(played[0].parts):
        x = _x(played, part.begin)
        marks.append(f'<text x="{x + 4:.1f}" y="{12 + 12 * (number % 2)}">{escape(part.phase.name)}</text>')
        if number:
            marks.append(f'<line class="change" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    marks.append(f'<text x="{_LEFT}" y="{height + 18}">0 s</text>')
    marks.append(f'<text class="right" x="{_LEFT + _PLOT}" y="{height + 18}">{_length(played):.3g} s</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height + 24}" role="img" aria-label="{escape(label)}">'
        f"{''.join(marks)}{''.join(parts)}</svg>"
    )
