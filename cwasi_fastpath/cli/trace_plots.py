"""What a trace's page draws, as inline SVG. Colours and fonts come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from ..bench.units import size_text, time_text
from ..html_page import grid, line
from .trace_edges import Edge
from .trace_history import BUCKETS, Column, History, Owner

_WIDTH, _LEFT, _BOTTOM = 720, 80, 24
_PLOT = _WIDTH - _LEFT
_BOX, _BOX_HEIGHT, _GAP, _ROW, _DROP = 170, 44, 150, 84, 34


# ---- the graph ----


def graph(history: History) -> str:
    """Functions from left to right as messages go, with a line for each channel; each leads to its function's part."""
    layers = _layers(history.edges)
    if not layers:
        return ""
    places = {
        name: (layer * (_BOX + _GAP), row * _ROW)
        for layer, names in enumerate(layers)
        for row, name in enumerate(names)
    }
    width = len(layers) * (_BOX + _GAP) - _GAP
    height = max(map(len, layers)) * _ROW - _ROW + _BOX_HEIGHT + _DROP
    # Of the threads of a process the busiest, which comes first.
    links = {owner.end: number for number, owner in reversed([*enumerate(history.owners)])}
    parts = [
        _edge(edge, name, places, history.ns_per_message(edge.channel))
        for edge in history.edges
        for name in edge.receivers
    ]
    parts += [_box(name, place, links.get(name), history) for name, place in places.items()]
    return _svg(width + 2, height, "Functions and their channels", parts, "graph")


def _layers(edges: Sequence[Edge]) -> list[list[str]]:
    """Every function right of all that send to it; where they go in circles, as far as that can be."""
    names = sorted({name for edge in edges for name in edge.functions})
    depth = dict.fromkeys(names, 0)
    for _ in names:
        before = dict(depth)
        for edge in edges:
            for name in edge.receivers:
                if name != edge.sender:
                    depth[name] = min(max(depth[name], depth[edge.sender] + 1), len(names) - 1)
        if depth == before:
            break
    used = sorted(set(depth.values()))
    return [[name for name in names if depth[name] == level] for level in used]


def _box(name: str, place: tuple[int, int], link: int | None, history: History) -> str:
    x, y = place
    owner = None if link is None else history.owners[link]
    said = "not traced" if owner is None else f"{owner.count:,} calls, {time_text(owner.ns)}"
    inner = (
        f'<rect x="{x + 1}" y="{y + 1}" width="{_BOX}" height="{_BOX_HEIGHT}" rx="6"/>'
        f'<text class="middle name" x="{x + _BOX / 2}" y="{y + 19}">{escape(_short(name))}</text>'
        f'<text class="middle dim" x="{x + _BOX / 2}" y="{y + 36}">{escape(said)}</text>'
        f"<title>{escape(name)}</title>"
    )
    return f"<g>{inner}</g>" if link is None else f'<a href="#owner-{link}">{inner}</a>'


def _edge(edge: Edge, receiver: str, places: dict[str, tuple[int, int]], tax: float | None) -> str:
    (from_x, from_y), (to_x, to_y) = places[edge.sender], places[receiver]
    start, end = (from_x + float(_BOX), from_y + _BOX_HEIGHT / 2), (float(to_x), to_y + _BOX_HEIGHT / 2)
    if to_x <= from_x:  # back, or to itself
        start, end = (from_x + _BOX / 2, from_y + 1.0 * _BOX_HEIGHT), (to_x + _BOX / 2, to_y + 1.0 * _BOX_HEIGHT)
    bend = 40 if to_x > from_x else 0
    drop = 0 if to_x > from_x else _DROP
    path = (
        f"M{start[0]:.0f},{start[1]:.0f} C{start[0] + bend:.0f},{start[1] + drop:.0f} "
        f"{end[0] - bend:.0f},{end[1] + drop:.0f} {end[0]:.0f},{end[1]:.0f}"
    )
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + drop * 0.8
    said = f"{edge.mode or '?'}, {edge.transport or '?'}, {size_text(edge.bytes)}"
    cost = "" if tax is None else f"{time_text(tax)} a message"
    title = f"{edge.channel}: {edge.sender} to {receiver}, {said}, {edge.messages:,} messages, {cost or 'cost unknown'}"
    return (
        f'<g class="edge"><path d="{path}" marker-end="url(#arrow)"/>'
        f'<text class="middle" x="{x:.0f}" y="{y - 16:.0f}">{escape(_short(edge.channel))}</text>'
        f'<text class="middle dim" x="{x:.0f}" y="{y - 4:.0f}">{escape(said)}</text>'
        f'<text class="middle dim" x="{x:.0f}" y="{y + 12:.0f}">{escape(cost)}</text>'
        f"<title>{escape(title)}</title></g>"
    )


# ---- over time ----


def heat_map(owner: Owner, seconds: Sequence[float]) -> str:
    """How many calls took how long, by powers of two, over time; nothing where there were none."""
    totals = [sum(column.histogram[bucket] for column in owner.columns) for bucket in range(BUCKETS)]
    used = [bucket for bucket, total in enumerate(totals) if total]
    if not used:
        return ""
    low, high = used[0], used[-1]
    most = max(max(column.histogram) for column in owner.columns)
    starts = _starts(seconds)
    height = (high - low + 1) * 14
    parts = []
    for number, column in enumerate(owner.columns):
        for bucket in range(low, high + 1):
            count = column.histogram[bucket]
            if count:
                parts.append(_cell(starts, number, (high - bucket) * 14, bucket, count, most))
    for bucket in range(low, high + 1, max(1, (high - low) // 6)):
        y = (high - bucket) * 14 + 11
        parts.append(f'<text class="right" x="{_LEFT - 8}" y="{y}">{time_text(2.0**bucket)}</text>')
    parts.append(_axis(starts, height))
    return _svg(_WIDTH, height + _BOTTOM, f"How long calls of {owner.name} took", parts, "heat")


def _cell(starts: Sequence[float], number: int, y: int, bucket: int, count: int, most: int) -> str:
    x, end = _x(starts, number), _x(starts, number + 1)
    weight = 0.15 + 0.85 * (math.log(count + 1) / math.log(most + 1))
    took = f"{time_text(2.0**bucket)} to {time_text(2.0 ** (bucket + 1))}"
    said = f"{count:,} calls of {took}, from {starts[number]:.1f} s on"
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(1.0, end - x - 0.5):.1f}" height="13" fill-opacity="{weight:.2f}">'
        f"<title>{escape(said)}</title></rect>"
    )


def timeline(
    owners: Sequence[Owner], seconds: Sequence[float], value: Callable[[Column], float], unit: Callable[[float], str]
) -> str:
    """A line for each owner: something in each second. The first has colour 1."""
    rates = [
        [value(column) / length if length else 0.0 for column, length in zip(owner.columns, seconds, strict=True)]
        for owner in owners
    ]
    most = max((max(rate, default=0.0) for rate in rates), default=0.0)
    if most <= 0:
        return ""
    starts, height = _starts(seconds), 140
    parts = [
        grid(_LEFT, _WIDTH, 10 + (1 - share) * (height - 10), unit(most * share)) for share in (0.0, 0.5, 1.0)
    ]
    for number, (owner, rate) in enumerate(zip(owners, rates, strict=True), 1):
        steps = (
            (_x(starts, at), 10 + (1 - value / most) * (height - 10))
            for column, value in enumerate(rate)
            for at in (column, column + 1)
        )
        parts.append(line(steps, number, owner.name))
    return _svg(_WIDTH, height + _BOTTOM, "Over time", [*parts, _axis(starts, height)], "time")


def _starts(seconds: Sequence[float]) -> list[float]:
    """When each column begins, and the last one ends."""
    starts = [0.0]
    for length in seconds:
        starts.append(starts[-1] + length)
    return starts


def _x(starts: Sequence[float], number: int) -> float:
    return _LEFT + _PLOT * (starts[number] / starts[-1] if starts[-1] else 0.0)


def _axis(starts: Sequence[float], y: int) -> str:
    marks = []
    for share, style in ((0.0, ""), (0.5, "middle"), (1.0, "right")):
        x, at = _LEFT + _PLOT * share, starts[-1] * share
        marks.append(f'<text class="{style}" x="{x:.0f}" y="{y + 18}">{at:.3g} s</text>')
    return "".join(marks)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "~"


def _svg(width: int, height: int, label: str, parts: Sequence[str], kind: str) -> str:
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
        if kind == "graph"
        else ""
    )
    return (
        f'<svg class="{kind}" width="{width}" viewBox="0 -14 {width} {height + 14}" role="img" '
        f'aria-label="{escape(label)}">'
        f"{arrow}{''.join(parts)}</svg>"
    )
