"""A live run as one HTML page that needs nothing else: which way was taken when, and what messages took meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from ..bench.units import time_text
from .played import Part, Played, Slice

_WIDTH, _LEFT, _TOP, _HEIGHT, _LANE = 720, 170, 34, 260, 18
_PLOT = _WIDTH - _LEFT - 10
_COLUMNS = 240
_COLOURS = 6

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --dim: #66717e; --line: #d9dee4; --back: #fff;
  --c0: #0b7285; --c1: #e67700; --c2: #862e9c; --c3: #2b8a3e; --c4: #c92a2a; --c5: #364fc7 }
@media (prefers-color-scheme: dark) { :root { --text: #dde3ea; --dim: #93a0ad; --line: #36414c; --back: #14191f;
  --c0: #3bc9db; --c1: #ffa94d; --c2: #da77f2; --c3: #69db7c; --c4: #ff8787; --c5: #748ffc } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-bottom: 0 }
.dim, dl { color: var(--dim) } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dd { margin: 0; overflow-wrap: anywhere } .scroll { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right }
th { color: var(--dim) } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
td { font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; font-size: 13px } svg { width: 100%; height: auto; font-size: 12px }
svg text { fill: var(--text) } svg .right { text-anchor: end } svg .grid { stroke: var(--line) }
svg .change { stroke: var(--dim); stroke-dasharray: 3 4 } polyline { fill: none; stroke-width: 2 }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; border-radius: 50% }
"""


def page(
    played: Sequence[Played],
    channel: str,
    facts: Mapping[str, str | int],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    """The whole page. channel: whose ways are drawn. facts: of the machine. headings, rows: of the table."""
    colours = "".join(
        f".k{n} {{ stroke: var(--c{n}) }} .key .k{n} {{ background: var(--c{n}) }}" for n in range(_COLOURS)
    )
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    key = "".join(f'<span class="k{n % _COLOURS}"></span>{escape(one.policy)}' for n, one in enumerate(played))
    phases = "".join(
        f"<dt>{escape(part.phase.name)}</dt><dd>{escape(str(part.phase))}</dd>" for part in played[0].parts
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Policies, live</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}{colours}</style></head><body><h1>Policies, live</h1><dl>{told}</dl>"
        f"<h2>The load</h2><dl>{phases}</dl>"
        f'<h2>What messages took</h2><div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
        f'<h2>Which way, over time</h2><p class="key">{key}</p>{_ways(played, channel)}'
        f'<h2>A message, over time</h2><p class="key">{key}</p>{_latencies(played)}'
        '<p class="dim">One way, on average; broken lines: the load changed. The policies ran one after the other.</p>'
        f"<h2>How it was explained</h2>{''.join(_explanations(played))}</body></html>\n"
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
    values = [value for line in lines for _, value in line]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)

    def y(ns: float) -> float:
        return _TOP + (high - log10(ns)) / (high - low) * (_HEIGHT - _TOP)

    parts = [_grid(y(10.0**power), time_text(10.0**power)) for power in range(low, high + 1)]
    for number, (one, line) in enumerate(zip(played, lines, strict=True)):
        parts.append(_line(played, [(at, y(value)) for at, value in line], number, one.policy))
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
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="right" x="{_LEFT - 8}" y="{y + 4:.1f}">{escape(label)}</text>'
    )


def _line(played: Sequence[Played], points: Sequence[tuple[float, float]], number: int, name: str) -> str:
    places = " ".join(f"{_x(played, at):.1f},{y:.1f}" for at, y in points)
    return f'<polyline class="k{number % _COLOURS}" points="{places}"><title>{escape(name)}</title></polyline>'


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
