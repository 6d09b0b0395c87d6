"""A check as one HTML page that needs nothing else: how far predictions were off, for each way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from ..bench.units import share_text, size_text, time_text
from ..html_page import colour, document, facts, grid, key, line, table
from ..prediction_check import Case

_WIDTH, _LEFT, _TOP = 720, 110, 8
_PLOT = _WIDTH - _LEFT - 10
_BAND = 0.15
"""The goal: half of the predictions of a transport are nearer than this."""
_STYLE = """
svg polygon { fill: var(--dim); fill-opacity: .15 } svg polyline.noise { stroke-dasharray: 3 4 }
svg circle { fill: none; stroke-width: 1.5 }
"""


def page(
    cases: Sequence[Case], told: Mapping[str, object], headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """The whole page. told: of the machine. headings, rows: of the quartiles."""
    ways = {way: [case for case in cases if case.way == way] for way in dict.fromkeys(case.way for case in cases)}
    names = key(ways, 1)
    return document(
        "How far predictions are off",
        f"{facts(told)}{table(headings, rows)}"
        '<p class="dim">Errors are parts of what was measured. All figures are medians of several rounds, in each of '
        "which the machine was calibrated and then measured. Before: half of the errors by what was calibrated before. "
        "Noise: half of what was measured in every other round is farther than this from what was in the others.</p>"
        f"<h2>Predicted against measured</h2>{names}{_scatter(ways)}"
        '<p class="dim">A message one way. Up: predicted; to the right: measured. '
        f"Grey: off by no more than {_BAND:.0%}.</p>"
        f"<h2>How many are off by no more than that</h2>{names}{_shares(ways)}"
        '<p class="dim">Up: the part of the predictions. Broken lines: of the second measurements, taken as '
        "predictions of the first.</p>",
        _STYLE,
    )


def _scatter(ways: Mapping[str, Sequence[Case]]) -> str:
    """A circle for each case; logarithmic both ways."""
    height = 420
    values = [value for cases in ways.values() for case in cases for value in (case.predicted, case.measured)]
    low = floor(log10(min(values)))
    high = max(low + 1, ceil(log10(max(values))))

    def share(ns: float) -> float:
        return (log10(ns) - low) / (high - low)

    def place(measured: float, predicted: float) -> tuple[float, float]:
        return _LEFT + _PLOT * share(measured), _TOP + (1 - share(predicted)) * (height - _TOP)

    least, most = 10.0**low, 10.0**high
    corners = (
        (least, least * (1 - _BAND)), (most, most * (1 - _BAND)), (most, most * (1 + _BAND)),
        (least, least * (1 + _BAND)),
    )  # fmt: skip
    band = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*corner) for corner in corners))
    powers = [10.0**power for power in range(low, high + 1)]
    parts = [grid(_LEFT, _LEFT + _PLOT, place(least, ns)[1], time_text(ns)) for ns in powers]
    parts += [f'<polygon points="{band}"/>', line((place(least, least), place(most, most)), 0, "as predicted")]
    for number, cases in enumerate(ways.values(), 1):
        parts += [_circle(case, *place(case.measured, case.predicted), number) for case in cases]
    return _svg(height, parts, [(share(ns), time_text(ns)) for ns in powers], "Predicted against measured")


def _circle(case: Case, x: float, y: float, number: int) -> str:
    rate = f", {case.rate:,}/s" if case.rate else ""
    said = (
        f"{case.way}, {size_text(case.size)}{rate}: {time_text(case.predicted)} predicted, "
        f"{time_text(case.measured)} measured, {case.deviation:+.0%}"
    )
    return f'<circle class="{colour(number)}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{escape(said)}</title></circle>'


def _shares(ways: Mapping[str, Sequence[Case]]) -> str:
    """A line for each way, and one of its noise; errors of more than all are beyond the right end."""
    height = 260

    def place(error: float, share: float) -> tuple[float, float]:
        return _LEFT + _PLOT * error, _TOP + (1 - share) * (height - _TOP)

    parts = [grid(_LEFT, _LEFT + _PLOT, place(0, share)[1], share_text(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    x, top = place(_BAND, 1.0)
    parts.append(f'<line class="change" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height}"/>')
    for number, (way, cases) in enumerate(ways.items(), 1):
        noise = [case.noise for case in cases]
        for errors, told, kind in (([case.error for case in cases], way, ""), (noise, f"{way}, noise", "noise")):
            parts.append(line((place(*point) for point in shares(errors)), number, told, kind))
    marks = [(share, f"{share:.0%}") for share in (0.0, _BAND, 0.5, 1.0)]
    return _svg(height, parts, marks, "How many predictions are off by no more than that")


def shares(errors: Sequence[float]) -> list[tuple[float, float]]:
    """What part of them is no more than x, as steps from x = 0 to x = 1."""
    points, share = [(0.0, 0.0)], 0.0
    for number, error in enumerate(sorted(error for error in errors if error <= 1), 1):
        points += [(error, share), (error, number / len(errors))]
        share = number / len(errors)
    return [*points, (1.0, share)]


def _svg(height: int, parts: Sequence[str], marks: Sequence[tuple[float, str]], label: str) -> str:
    below = "".join(
        f'<text class="{"right" if share == 1 else "middle"}" x="{_LEFT + _PLOT * share:.1f}" y="{height + 18}">'
        f"{escape(text)}</text>"
        for share, text in marks
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height + 24}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}{below}</svg>"
    )
