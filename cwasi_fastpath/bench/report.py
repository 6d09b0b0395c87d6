"""A finished run, as JSON and as tables on a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .case import Case, Kind
from .rounds import FAR_FROM_NS, Regime, Round, Settings
from .stats import Estimate
from .summary import COST, P50, P99, RATE, Goal, Summary, rate_text, size_text, summarize, time_text

SCHEMA = 1
PUBLISHED = "CWASI as published, on other hardware: up to 95% less latency, up to 30 times the throughput of Redis."
METHOD = (
    "Latency is one way, from the start of send to the return of receive, one message at a time. "
    "Redis: its own server on a unix socket without persistence, redis-py with hiredis, a warm connection for each "
    "process; compared is, in each round, the better of list and stream. Tuned: one connection without a pool, and "
    "large payloads packed without a copy. Intervals: 95%, bootstrap of the median over rounds."
)
NOTHING = "The machine changed in the middle of every round: nothing to show. Run it again."
_STYLES = {"met": "green", "not met": "red", "undecided": "yellow"}


@dataclass(frozen=True)
class Report:
    """All that one run gave."""

    settings: Settings
    environment: dict[str, str | int]
    rounds: list[Round]

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """One for each regime in which whole rounds were measured."""
        return summarize(self.rounds, self.settings.seed)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `schema` changes when their meaning does."""
        return {
            "schema": SCHEMA,
            "settings": asdict(self.settings),
            "environment": self.environment,
            "far_from_ns": FAR_FROM_NS,
            "rounds": [_round_json(item) for item in self.rounds],
            "summaries": [_summary_json(summary) for summary in self.summaries],
        }


def _round_json(item: Round) -> dict[str, Any]:
    return {
        "regime": item.regime,
        "hop_before_ns": item.hop_before_ns,
        "hop_after_ns": item.hop_after_ns,
        "samples": {case.key: asdict(sample) for case, sample in item.samples.items()},
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    return {
        "regime": summary.regime,
        "rounds": summary.rounds,
        "figures": {
            case.key: {figure: asdict(found) for figure, found in figures.items()}
            for case, figures in summary.figures.items()
        },
        "against_redis": {case.key: asdict(found) for case, found in summary.against_redis.items()},
        "against_tuned": {case.key: asdict(found) for case, found in summary.against_tuned.items()},
        "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in summary.goals],
    }


# ---- tables ----


def print_report(report: Report, console: Console) -> None:
    """Everything a reader wants, a part for each regime."""
    found = report.environment
    console.print(f"{found['cpu']}, {found['cores']} cores, Linux {found['kernel']}", style="dim", highlight=False)
    versions = ", ".join(f"{name} {found[name]}" for name in ("redis-server", "redis-py", "hiredis", "wasmtime"))
    console.print(versions, style="dim", highlight=False)
    console.print(rounds_text(report), highlight=False)
    if not report.summaries:
        console.print(NOTHING)
    for summary in report.summaries:
        console.print()
        console.print(regime_title(summary), style="bold", highlight=False)
        for table in (*_figures_tables(summary), _goals_table(summary)):
            console.print()
            console.print(table)
    console.print()
    console.print(METHOD, style="dim", highlight=False)
    console.print(PUBLISHED, style="dim", highlight=False)


def rounds_text(report: Report) -> str:
    """Each round's regime with what was probed before and after it."""
    parts = (f"{item.regime} ({item.hop_before_ns:.0f}, {item.hop_after_ns:.0f})" for item in report.rounds)
    dropped = sum(item.regime is Regime.MIXED for item in report.rounds)
    note = f"; {dropped} mixed, which count nowhere" if dropped else ""
    return f"rounds, with a cache line's hop before and after in ns: {', '.join(parts)}{note}"


def regime_title(summary: Summary) -> str:
    """A heading."""
    word = "below" if summary.regime is Regime.NEAR else "from"
    return f"{summary.regime} regime (hop {word} {FAR_FROM_NS:.0f} ns), {summary.rounds} rounds"


def _figures_tables(summary: Summary) -> list[Table]:
    tables: dict[Kind, Table] = {}
    for case, figures in summary.figures.items():
        if case.kind not in tables:
            table = tables[case.kind] = Table(box=None, pad_edge=False)
            numbers = (str(case.kind).upper(), "MEDIAN", "P99")
            for title in (numbers[0], "PATH", "MEDIAN", "95%", "P99", "TO REDIS", "TUNED"):
                table.add_column(title, justify="right" if title in numbers else "left")
        tables[case.kind].add_row(
            size_text(case.size), str(case.path), *figure_texts(figures), *against_texts(summary, case)
        )
    return list(tables.values())


def figure_texts(figures: dict[str, Estimate]) -> tuple[str, str, str]:
    """Median, interval, 99th percentile."""
    name, text = next((name, text) for name, text in ((P50, time_text), (RATE, rate_text), (COST, time_text))
                      if name in figures)  # fmt: skip
    found = figures[name]
    p99 = time_text(figures[P99].median) if P99 in figures else ""
    return text(found.median), f"{text(found.low)} .. {text(found.high)}", p99


def against_texts(summary: Summary, case: Case) -> tuple[str, str]:
    """How far from Redis as it comes, and tuned; nothing for Redis itself."""
    plain, tuned = summary.against_redis.get(case), summary.against_tuned.get(case)
    if plain is None or tuned is None:
        return "", ""
    if case.kind is Kind.LATENCY:
        return f"{plain.median:.1f}% less ({plain.low:.1f} .. {plain.high:.1f})", f"{tuned.median:.1f}%"
    return f"{plain.median:.1f}x ({plain.low:.1f} .. {plain.high:.1f})", f"{tuned.median:.1f}x"


def _goals_table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("GOAL (ring)", "WANTED", "MEASURED", "95%", ""):
        table.add_column(title)
    for goal in summary.goals:
        table.add_row(*goal_texts(goal), Text(goal.verdict, _STYLES[goal.verdict]))
    return table


def goal_texts(goal: Goal) -> tuple[str, str, str, str]:
    """What, how much is wanted, how much it is, its interval."""
    found = goal.measured
    sign = ">=" if goal.at_least else "<="
    return (
        goal.name,
        f"{sign} {goal.wanted:g} {goal.unit}",
        f"{found.median:.1f}",
        f"{found.low:.1f} .. {found.high:.1f}",
    )
