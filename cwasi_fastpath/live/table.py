"""Live runs as a table and in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..bench.units import time_text
from .played import Part, Played

HEADINGS = ("phase", "policy", "messages", "a message", "worst", "way at its end", "switches", "last after")


def rows(played: Sequence[Played], channel: str) -> list[tuple[str, ...]]:
    """A line for each phase and policy, and one for all of a policy."""
    lines = [
        _row(one.parts[number].phase.name, one, one.parts[number], channel)
        for number in range(len(played[0].parts)) for one in played
    ]  # fmt: skip
    for one in played:
        switches = sum(len(one.switches(part, channel)) for part in one.parts)
        worst = max(part.worst_ns for part in one.parts)
        lines.append(("all", one.policy, f"{one.messages:,}", time_text(one.mean_ns), time_text(worst), "",
                      str(switches), ""))  # fmt: skip
    return lines


def _row(name: str, one: Played, part: Part, channel: str) -> tuple[str, ...]:
    adapted = one.adapted(part, channel)
    return (
        name,
        one.policy,
        f"{part.messages:,}",
        time_text(part.mean_ns),
        time_text(part.worst_ns),
        one.way_at(part.end, channel),
        str(len(one.switches(part, channel))),
        "" if adapted is None else f"{adapted:.2f} s",
    )


def compared(mine: Played, other: Played, channel: str) -> list[str]:
    """What happened in each phase, and what the rule of `other` would have cost: as it was predicted meanwhile, and as
    it was measured under the same script.
    """
    lines = []
    for part, theirs in zip(mine.parts, other.parts, strict=True):
        way = other.way_at(theirs.end, channel)
        found = part.predicted(way)
        predicted = (
            "not predicted" if found is None
            else f"predicted {time_text(found[0])} ({time_text(found[1])} to {time_text(found[2])})"
        )  # fmt: skip
        lines.append(f"{part.phase.name}: {part.phase}")
        lines += [
            f"  {change.at - part.begin:.2f} s after its begin it switched to {change.way}"
            for change in mine.switches(part, channel)
        ] or [f"  nothing needed switching: {mine.way_at(part.end, channel)} was kept"]
        lines.append(
            f"  a message took {time_text(part.mean_ns)}; by the rule {other.policy}, which is on {way}: {predicted}, "
            f"measured {time_text(theirs.mean_ns)}"
        )
    return lines
