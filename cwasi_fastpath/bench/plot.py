"""Plots of a summary as inline SVG. Colours and fonts come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from .case import P50, RATE, Case, Cores, How, Kind
from .report import way_text
from .stats import Estimate
from .summary import Summary
from .units import rate_text, size_text, time_text

_WIDTH = 720
_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 120, 16, 40
_LABEL = 250
_BAR = 18
_GAP = 14


def latency_plot(summary: Summary) -> str:
    """Latency by size, both logarithmic, a line for each way; the strokes are the 95% intervals."""
    lines: dict[Case, list[tuple[int, Estimate]]] = {}
    for case, figures in summary.figures.items():
        if case.kind is Kind.LATENCY:
            lines.setdefault(replace(case, size=0), []).append((case.size, figures[P50]))
    if not lines:
        return ""
    found = [point for points in lines.values() for point in points]
    sizes = sorted({size for size, _ in found})
    low = math.floor(math.log10(min(value.low for _, value in found)))
    high = math.ceil(math.log10(max(value.high for _, value in found)))
    axes = _Axes(sizes[0], sizes[-1], low, max(high, low + 1))
    parts = [axes.grid(sizes), *(_line(way, points, axes) for way, points in lines.items())]
    return _svg(_HEIGHT, "Latency one way by size of message", parts)


class _Axes:
    """Where sizes and nanoseconds lie on the plot."""

    def __init__(self, smallest: int, largest: int, low: int, high: int) -> None:
        self._from = math.log2(smallest)
        self._span = max(1.0, math.log2(largest) - self._from)
        self._low, self._high = low, high

    def x(self, size: int) -> float:
        return _LEFT + 10 + (math.log2(size) - self._from) / self._span * (_WIDTH - _LEFT - _RIGHT - 20)

    def y(self, ns: float) -> float:
        share = (math.log10(ns) - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self, sizes: list[int]) -> str:
        marks = []
        for power in range(self._low, self._high + 1):
            y = self.y(10.0**power)
            marks.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            marks.append(f'<text class="right" x="{_LEFT - 8}" y="{y + 4:.1f}">{time_text(10.0**power)}</text>')
        for size in sizes:
            marks.append(f'<text class="middle" x="{self.x(size):.1f}" y="{_HEIGHT - 16}">{size_text(size)}</text>')
        return "".join(marks)


def _line(way: Case, points: list[tuple[int, Estimate]], axes: _Axes) -> str:
    places = [(axes.x(size), axes.y(value.median)) for size, value in points]
    parts = [f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>']
    for (size, value), (x, y) in zip(points, places, strict=True):
        interval = f"{time_text(value.low)} .. {time_text(value.high)}"
        tip = f"{_full_text(way)}, {size_text(size)}: {time_text(value.median)} ({interval})"
        whisker = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axes.y(value.low):.1f}" y2="{axes.y(value.high):.1f}"/>'
        parts.append(f'<g><title>{escape(tip)}</title>{whisker}<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>')
    return f'<g class="{_classes(way)}">{"".join(parts)}</g>'


def _full_text(case: Case) -> str:
    return f"{way_text(case)}, {case.cores}, {case.how}"


def _classes(case: Case) -> str:
    """The colour is that of the path; broken: both ends on one core; dotted: they spin."""
    spinning = " spinning" if case.how is How.SPINNING else ""
    return f"{case.path} {case.ends}{' together' if case.cores is Cores.ONE else ''}{spinning}"


def throughput_plot(summary: Summary) -> str:
    """A bar for each way and size; the strokes are the 95% intervals."""
    bars = [(case, figures[RATE]) for case, figures in summary.figures.items() if case.kind is Kind.THROUGHPUT]
    if not bars:
        return ""
    drawn, before = [], bars[0][0].size
    for case, value in bars:
        label = f"{size_text(case.size)}, {way_text(case)}, {case.cores}"
        drawn.append(Bar(label, _classes(case), value, rate_text(value.median), apart=case.size != before))
        before = case.size
    return bar_plot("Throughput", drawn)


@dataclass(frozen=True, slots=True)
class Bar:
    """One of a plot of bars."""

    label: str
    classes: str
    """Of the style sheet."""
    value: Estimate
    text: str
    """What stands behind it."""
    apart: bool = False
    """Whether another group begins with it."""


def bar_plot(title: str, bars: Sequence[Bar]) -> str:
    """The bars, from the top; the strokes are the 95% intervals."""
    scale = (_WIDTH - _LABEL - _RIGHT) / max(bar.value.high for bar in bars)
    parts, y = [], float(_TOP)
    for bar in bars:
        y += _GAP if bar.apart else 0
        parts.append(_bar(bar, y, scale))
        y += _BAR + 4
    return _svg(int(y) + 8, title, parts)


def _bar(bar: Bar, y: float, scale: float) -> str:
    middle, left, end = y + _BAR / 2, _LABEL, bar.value.median * scale
    low, high = left + bar.value.low * scale, left + bar.value.high * scale
    return (
        f'<g class="{bar.classes}"><text class="right" x="{left - 8}" y="{middle + 4}">{escape(bar.label)}</text>'
        f'<rect x="{left}" y="{y}" width="{end:.1f}" height="{_BAR}"/>'
        f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{max(high, left + end) + 8:.1f}" y="{middle + 4}">{bar.text}</text></g>'
    )


def _svg(height: int, title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
