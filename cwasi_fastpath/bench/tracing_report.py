"""What tracing costs, as JSON, as tables on a terminal and as a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from .page import document, topic_table
from .plot import Bar, bar_plot
from .report import GOAL_COLUMNS, NOTHING, Topic, goal_texts, print_machine, print_topic, regime_title, rounds_text
from .rounds import FAR_FROM_NS
from .stats import Estimate
from .tracing import Figure, Plan, TracingRound, TracingSummary, Watching, summaries
from .units import plain_text, time_text

SCHEMA = 1
METHOD = (
    "A call is getppid in a loop in C, the fastest of 101 runs of 2,003 in each round: others on the machine make "
    "calls slower, never faster. Empty programs: one on the entry of every system call and one on its return that do "
    "nothing, which is what any tracer of system calls costs at the least. A tracer, others only: a process that is "
    "not traced while another one is. Attaching is that of a process that has just begun, the tracer's test of itself "
    "included; for the first time the probes are compiled, which is then kept. The pace: 100 times a second a sleep "
    "and 99 calls, traced by cwasi-trace with a report each second, without the seconds in which it begins and ends. "
    "As fast as it goes: two threads at once; lost is what was made and not counted, or what the tracer says. All in "
    "random order in every round; ratios are of one round. Intervals: 95%, bootstrap of the median over rounds."
)
_CLASSES = {
    Watching.NOBODY: "raw-unix", Watching.EMPTY: "mp-pipe", Watching.FUNCTION: "ring", Watching.PROCESS: "windows",
    Watching.OTHERS: "pipe", Watching.LIGHT: "tcp",
}  # fmt: skip
"""The colours of the page."""


@dataclass(frozen=True)
class TracingReport:
    """All that one run gave."""

    plan: Plan
    environment: dict[str, str | int]
    rounds: list[TracingRound]

    @cached_property
    def summaries(self) -> tuple[TracingSummary, ...]:
        """One for each regime in which whole rounds were measured."""
        return summaries(self.rounds, self.plan.seed)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `schema` changes when their meaning does."""
        return {
            "schema": SCHEMA,
            "settings": asdict(self.plan),
            "environment": self.environment,
            "far_from_ns": FAR_FROM_NS,
            "rounds": [{"regime": one.regime, **asdict(one)} for one in self.rounds],
            "summaries": [_summary_json(summary) for summary in self.summaries],
        }

    def print(self, console: Console) -> None:
        """Everything a reader wants, a part for each regime."""
        print_machine(console, self.environment)
        console.print(rounds_text(self.rounds), highlight=False)
        if not self.summaries:
            console.print(NOTHING)
        for summary in self.summaries:
            console.print()
            console.print(regime_title(summary), style="bold", highlight=False)
            for topic in _topics(summary):
                print_topic(console, topic)
        console.print()
        console.print(METHOD, style="dim", highlight=False)

    def page(self) -> str:
        """One HTML page that needs nothing else."""
        parts = [_part(summary) for summary in self.summaries]
        return document("What tracing costs", self.environment, [rounds_text(self.rounds)], parts, [METHOD])


def _summary_json(summary: TracingSummary) -> dict[str, Any]:
    return {
        "regime": summary.regime,
        "rounds": summary.rounds,
        "calls": {watching: asdict(found) for watching, found in summary.calls.items()},
        "figures": {figure: asdict(found) for figure, found in summary.figures.items()},
        "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in summary.goals],
    }


def _topics(summary: TracingSummary) -> list[Topic]:
    """The goals come last."""
    calls = [(str(watching), *_texts(found, time_text)) for watching, found in summary.calls.items()]
    figures = [(str(figure), *_texts(found, _count_text if figure in _COUNTS else plain_text))
               for figure, found in summary.figures.items()]  # fmt: skip
    return [
        Topic("A system call", ("who watches", "median", "95%"), calls),
        Topic("The tracer", ("what", "median", "95%"), figures),
        Topic("Goals", GOAL_COLUMNS, [goal_texts(goal) for goal in summary.goals]),
    ]


_COUNTS = (Figure.PACE, Figure.FLOOD, Figure.LOST)


def _count_text(value: float) -> str:
    return f"{value:,.0f}"


def _texts(found: Estimate, text: Callable[[float], str]) -> tuple[str, ...]:
    return text(found.median), f"{text(found.low)} .. {text(found.high)}"


def _part(summary: TracingSummary) -> str:
    *tables, goals = map(topic_table, _topics(summary))
    bars = [Bar(str(watching), _CLASSES[watching], found, time_text(found.median))
            for watching, found in summary.calls.items()]  # fmt: skip
    plot = bar_plot("A system call, by who watches", bars)
    return f"<h2>{regime_title(summary)}</h2>{goals}<h3>A system call, by who watches</h3>{plot}{''.join(tables)}"
