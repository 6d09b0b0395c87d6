"""What a host process says at its end, as plain data: written there, and read by who has started it, who believes
nothing of it that cannot be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .endpoint import HISTOGRAM_BUCKETS
from .metrics import EndMetrics, EndReport

_MOST = 2**64 - 1
_LONGEST_SECONDS = 1e9
_COUNTS = [one.name for one in fields(EndMetrics) if one.name != "latency"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a host process reported at its end."""

    ends: tuple[EndReport, ...] = ()
    cpu_seconds: dict[str, float] = field(default_factory=dict)


def plain(outcome: Outcome) -> dict[str, Any]:
    """For JSON; of histograms what is not 0."""
    return {"ends": [_row(one) for one in outcome.ends], "cpu_seconds": outcome.cpu_seconds}


def read(done: object, functions: Collection[str]) -> Outcome:
    """functions: those that it runs; it knows of no others. Raises ValueError where that is no such report."""
    if done is None:
        return Outcome()
    try:
        found = _object(done)
        seconds = {str(name): _seconds(value) for name, value in _object(found["cpu_seconds"]).items()}
        ends = tuple(_end(_object(row)) for row in found["ends"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is no report: {error!r}") from error
    if not {*seconds, *(end.function for end in ends)} <= set(functions):
        raise ValueError("it speaks for functions of others")
    return Outcome(ends, seconds)


def _row(report: EndReport) -> dict[str, Any]:
    row = asdict(report)
    for counted in (row["metrics"], *row["sources"]):
        counted["buckets"] = len(counted["latency"])
        counted["latency"] = [(index, count) for index, count in enumerate(counted["latency"]) if count]
    return row


def _end(row: Mapping[str, Any]) -> EndReport:
    metrics, *sources = (_metrics(_object(one)) for one in (row["metrics"], *row["sources"]))
    channel, function, sends = row["channel"], row["function"], row["sends"]
    if not (isinstance(channel, str) and isinstance(function, str) and isinstance(sends, bool)):
        raise ValueError("it names no end of a channel")
    return EndReport(channel, function, sends, metrics, tuple(sources))


def _metrics(counted: Mapping[str, Any]) -> EndMetrics:
    latency = [0] * _count(counted["buckets"], HISTOGRAM_BUCKETS)
    for index, count in counted["latency"]:
        latency[_count(index, len(latency) - 1)] = _count(count)
    return EndMetrics(latency=tuple(latency), **{name: _count(counted[name]) for name in _COUNTS})


def _object(found: object) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("it is no report: an object is missing")
    return found


def _count(value: object, most: int = _MOST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{value!r:.40} is no number from 0 to {most}")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_SECONDS:
        raise ValueError(f"{value!r:.40} are no seconds")
    return float(value)
