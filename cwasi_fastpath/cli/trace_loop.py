"""A trace from start to end: when to look at what has been counted, and whom to show it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import click

from ..trace_report import TraceReport
from .trace_edges import Edge, Edges

if TYPE_CHECKING:
    from ..tracer import Tracer
    from .trace_target import Target

_BUDGET_SECONDS = 1.0
"""How often a budget is looked at, at least."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When to look."""

    interval: float | None = None
    """Seconds; None only at the end."""
    count: int | None = None
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """What is to be shown after each."""

    number: int
    time: float
    """When it ended, of time.time()."""
    report: TraceReport
    """What came in it."""
    total: TraceReport
    """What came since the trace began."""
    edges: tuple[Edge, ...]


class Sink(Protocol):
    """Who is shown what was counted."""

    def show(self, interval: Interval) -> None:
        """After every interval, the last and shorter one too."""


class Budget:
    """What tracing may cost; beyond it the tracer goes on in the light mode."""

    def __init__(self, tracer: Tracer, most: float | None) -> None:
        """most: a share of one CPU, added to what is traced; None for any."""
        self._tracer = tracer
        self._most = most
        self.limits = most is not None

    def check(self, spent: TraceReport) -> None:
        """spent: what came in some time."""
        if self._most is None or spent.light or spent.overhead <= self._most:
            return
        cost = f"tracing cost {spent.overhead * 100:.3g}% of a CPU, over --max-overhead {self._most * 100:.3g}%"
        self._tracer.lighten(f"since {cost}")
        click.echo(f"cwasi-trace: {cost}: system calls are left out from now on", err=True)


def follow(
    tracer: Tracer,
    first: TraceReport,
    target: Target,
    pace: Pace,
    sinks: Sequence[Sink],
    budget: Budget,
    edges: Edges | None,
    often: bool = False,
) -> TraceReport:
    """Shows each interval to the sinks until the target has ended or the time is up. Returns the whole.

    first: from before the target was traced. often: look every second at least, at what is soon gone. Intervals that
    could not be looked at in time are one longer one.
    """
    start = time.monotonic()
    end = None if pace.duration is None else start + pace.duration
    step = min(_BUDGET_SECONDS, pace.interval or _BUDGET_SECONDS) if budget.limits or often else pace.interval
    due, number, over = start + (pace.interval or 0.0), 0, False
    shown = checked = first
    while not over:
        until = [moment for moment in (end, None if step is None else time.monotonic() + step) if moment is not None]
        if pace.interval is not None:
            until.append(due)
        over = target.wait(min(until, default=None))
        now = time.monotonic()
        over = over or (end is not None and now >= end)
        total = tracer.snapshot()
        budget.check(total.since(checked))
        checked = total
        if pace.interval is None or not (over or now >= due):
            continue
        number += 1
        due = max(due + pace.interval, now)
        known = edges.look(tracer.pids()) if edges is not None else ()
        interval = Interval(number, time.time(), total.since(shown), total.since(first), known)
        for sink in sinks:
            sink.show(interval)
        shown = total
        over = over or number == pace.count
    return total.since(first)
