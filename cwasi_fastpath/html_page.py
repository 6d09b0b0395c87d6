"""What all pages in HTML have in common: they need nothing else, run no script, and what is text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --dim: #66717e; --line: #d9dee4; --back: #fff }
@media (prefers-color-scheme: dark) { :root { --text: #dde3ea; --dim: #93a0ad; --line: #36414c; --back: #14191f } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem }
.dim, dl { color: var(--dim) } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dd { margin: 0; overflow-wrap: anywhere } .scroll { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right }
th { font-weight: 600; color: var(--dim) } th:first-child, td:first-child { text-align: left }
td { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; font-size: 12px } svg text { fill: var(--text) } svg .right { text-anchor: end }
svg .middle { text-anchor: middle } svg .grid { stroke: var(--line) } svg .change { stroke: var(--dim);
  stroke-dasharray: 3 4 } svg polyline { fill: none; stroke-width: 2 }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; border-radius: 50% }
"""
_LIGHT = ("#868e96", "#0b7285", "#e67700", "#862e9c", "#2b8a3e", "#c92a2a", "#364fc7", "#a61e4d")
_DARK = ("#adb5bd", "#3bc9db", "#ffa94d", "#da77f2", "#69db7c", "#ff8787", "#748ffc", "#faa2c1")
"""Of lines: grey, for what others are compared with, then those of whom it is about."""
_NUMBERED = (
    f":root {{ {'; '.join(f'--c{n}: {colour}' for n, colour in enumerate(_LIGHT))} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ "
    f"{'; '.join(f'--c{n}: {colour}' for n, colour in enumerate(_DARK))} }} }}\n"
    + "".join(f".k{n} {{ stroke: var(--c{n}) }} .key .k{n} {{ background: var(--c{n}) }}" for n in range(len(_LIGHT)))
)


def document(title: str, body: str, style: str = "") -> str:
    """A page with its heading. style: what this page has besides, after what all have."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}{_NUMBERED}{style}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def facts(told: Mapping[str, object] | Iterable[tuple[str, object]]) -> str:
    """What is so, by name."""
    pairs = told.items() if isinstance(told, Mapping) else told
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>' for name, value in pairs)}</dl>"


def cell(text: str, kind: str = "") -> str:
    """Of a table. kind: its class in the style sheet."""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of texts."""
    return table_of_cells(headings, (map(cell, row) for row in rows))


def table_of_cells(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Of <td>s."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def colour(number: int) -> str:
    """The class of a line; after the last colour comes the first again."""
    return f"k{number % len(_LIGHT)}"


def key(names: Iterable[str], first: int = 0) -> str:
    """Which line has which colour; first: the number of the first."""
    return key_of((colour(number), name) for number, name in enumerate(names, first))


def key_of(pairs: Iterable[tuple[str, str]]) -> str:
    """Of classes, and what they stand for."""
    spans = (f'<span class="{kind}"></span>{escape(name)}' for kind, name in pairs)
    return f'<p class="key">{"".join(spans)}</p>'


def grid(left: float, right: float, y: float, label: str) -> str:
    """A line across a plot, and what it stands for left of it."""
    return (
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="right" x="{left - 8}" y="{y + 4:.1f}">{escape(label)}</text>'
    )


def line(points: Iterable[tuple[float, float]], number: int, name: str, kind: str = "") -> str:
    """Through points of a plot, in the colour of that number. kind: its class in the style sheet, too."""
    kinds = f"{colour(number)} {kind}".rstrip()
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kinds}" points="{places}"><title>{escape(name)}</title></polyline>'
