"""A finished run, as JSON and as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .case import BYTE_FLOORS, P99, RATE, RAW_PATHS, SHARE, Case, Ends, Kind, Path
from .goals import Goal
from .rounds import FAR_FROM_NS, Outcome, Regime, Round, Settings
from .summary import Summary, main_figure, summarize
from .tracing import TracingRound, TracingSummary
from .units import plain_text, rate_text, share_text, size_text, time_text

SCHEMA = 3
PUBLISHED = "CWASI as published, on other hardware: up to 95% less latency, up to 30 times the throughput of Redis."
METHOD = (
    "Latency is one way: half of a round trip, one message at a time, guests and C without what their clock takes; of "
    "a message every 10 us, from the start of send to the return of receive, each figure the median over many bursts "
    "of 1 ms. Spinning: asks again and again; waiting: in a call that may sleep. Python: two processes. iceoryx2 "
    "reads in place. Windows: the sender writes all of each message in place, the receiver reads a word of each cache "
    "line there. Redis: its own server on a unix socket without persistence, redis-py with hiredis, a warm connection "
    "for each process; compared is, in each round, the better of list and stream. Tuned: one connection without a "
    "pool, and large payloads packed without a copy. Own work: one guest with the two guests' loops and no channel; "
    "handed over on one core, what comes on top is the channel's; across two, the caches' exchange as well. Plain "
    "buffers: such loops in C by turns on two blocks. Raw vmsplice: a loop that lends a pipe its buffers and one that "
    "reads it, and nothing keeps the buffers as they were; vmsplice-copy: each message is copied into them. "
    "Raw tcp: two loops over a connection on the loopback, a stream, and 64 B to and fro (the mean); raw pipe and raw "
    "unix: the same over a pipe of 1 MiB each way and over a pair of sockets. The latency of raw ways is the median of "
    "the means of a hundredth each. tcp-tls: TLS 1.3 with a certificate at both ends, pumped by a thread at each; "
    "redis: a channel through a server, pumped too. Intervals: 95%, "
    "bootstrap of the median over rounds."
)
NOTHING = "The machine changed in the middle of every round: nothing to show. Run it again."
ONE_CORE = "There is one core: what needs two was left out."
TITLES = {
    Kind.LATENCY: "Latency one way",
    Kind.THROUGHPUT: "Throughput",
    Kind.PASS: "One fills, the other sums up, one at a time",
    Kind.FLOW: "One fills, the other sums up, streaming",
    Kind.BURST: "A message every 10 us",
    Kind.IDLE: "A receiver to whom nothing is sent, share of a core",
    Kind.SEND_COST: "A send with room, ns a call",
    Kind.FLOOR: "Floors: what the machine charges",
}
COLUMNS = ("way", "cores", "how", "median", "95%", "p99", "to Redis", "tuned")
GOAL_COLUMNS = ("goal", "wanted", "measured", "95%", "verdict")
_STYLES = {"met": "green", "missed": "red", "undecided": "yellow", "not measured": "dim", "no goal": "dim"}
_NUMBERS = {"median", "p99", "measured"}
_WITHOUT_ENDS = (Path.HOP, Path.YIELD, Path.WAKE, Path.TCP_TURNS)


@dataclass(frozen=True)
class Report:
    """All that one run gave."""

    settings: Settings
    environment: dict[str, str | int]
    outcome: Outcome

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """One for each regime in which whole rounds were measured."""
        return summarize(self.outcome, self.settings.seed)

    @property
    def notes(self) -> list[str]:
        """What a reader should know first."""
        return [rounds_text(self.outcome.rounds), *([ONE_CORE] if self.environment["cores"] == 1 else [])]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `schema` changes when their meaning does."""
        return {
            "schema": SCHEMA,
            "settings": asdict(self.settings),
            "environment": self.environment,
            "far_from_ns": FAR_FROM_NS,
            "rounds": [_round_json(item) for item in self.outcome.rounds],
            "missing": {case.key: reason for case, reason in self.outcome.missing.items()},
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


@dataclass(frozen=True, slots=True)
class Topic:
    """A table with its title."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    @classmethod
    def of(cls, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Topic:
        """Without the columns in which nothing stands."""
        used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
        return cls(title, tuple(columns[i] for i in used), [tuple(row[i] for i in used) for row in rows])


def print_report(report: Report, console: Console) -> None:
    """Everything a reader wants, a part for each regime."""
    print_machine(console, report.environment)
    for note in report.notes:
        console.print(note, highlight=False)
    if not report.summaries:
        console.print(NOTHING)
    for summary in report.summaries:
        console.print()
        console.print(regime_title(summary), style="bold", highlight=False)
        for topic in filter(lambda topic: topic.rows, topics(summary)):
            print_topic(console, topic)
    console.print()
    console.print(METHOD, style="dim", highlight=False)
    console.print(PUBLISHED, style="dim", highlight=False)


def print_machine(console: Console, found: dict[str, str | int]) -> None:
    """What figures hold for, as environment() has it."""
    console.print(f"{found['cpu']}, {found['cores']} cores, Linux {found['kernel']}", style="dim", highlight=False)
    versions = ", ".join(f"{name} {version}" for name, version in found.items()
                         if name not in ("cpu", "cores", "kernel"))  # fmt: skip
    console.print(versions, style="dim", highlight=False)


def print_topic(console: Console, topic: Topic) -> None:
    """A table with its heading."""
    table = Table(box=None, pad_edge=False)
    for name in topic.columns:
        table.add_column(name.upper(), justify="right" if name in _NUMBERS else "left")
    for row in topic.rows:
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    console.print()
    console.print(topic.title, style="bold cyan", highlight=False)
    console.print(table)


def rounds_text(rounds: Sequence[Round | TracingRound]) -> str:
    """Each round's regime with what was probed before and after it."""
    parts = (f"{item.regime} ({item.hop_before_ns:.0f}, {item.hop_after_ns:.0f})" for item in rounds)
    dropped = sum(item.regime is Regime.MIXED for item in rounds)
    note = f"; {dropped} mixed, which count nowhere" if dropped else ""
    return f"rounds, with a cache line's hop before and after in ns: {', '.join(parts)}{note}"


def regime_title(summary: Summary | TracingSummary) -> str:
    """A heading."""
    word = "below" if summary.regime is Regime.NEAR else "from"
    return f"{summary.regime} regime (hop {word} {FAR_FROM_NS:.0f} ns), {summary.rounds} rounds"


def topics(summary: Summary) -> list[Topic]:
    """A table for each kind, for latency and throughput one for each size; the goals come last."""
    rows = {case: _figure_row(summary, case) for case in summary.figures}
    rows |= {case: (*_names(case), "missing", "", "", reason, "") for case, reason in summary.missing.items()}
    ordered = sorted(rows, key=_topic)   # stable: the best first, the missing last
    tables = [Topic.of(_title(*topic), COLUMNS, [rows[case] for case in cases])
              for topic, cases in groupby(ordered, _topic)]  # fmt: skip
    measured = any(goal.measured is not None for goal in summary.goals)
    return [*tables, Topic.of("Goals", GOAL_COLUMNS, [goal_texts(goal) for goal in summary.goals] if measured else [])]


def _topic(case: Case) -> tuple[int, int]:
    return list(Kind).index(case.kind), case.size if case.kind in (Kind.LATENCY, Kind.THROUGHPUT) else 0


def _title(kind: int, size: int) -> str:
    name = TITLES[list(Kind)[kind]]
    return f"{name}, {size_text(size)}" if size else name


def _names(case: Case) -> tuple[str, str, str]:
    return way_text(case), str(case.cores).partition("-")[0], str(case.how)


def way_text(case: Case) -> str:
    """What carries the messages, and between whom."""
    if case.kind is Kind.FLOOR and case.path in BYTE_FLOORS:
        return f"{case.path}, {size_text(case.size)}"
    return str(case.path) if case.path in (*_WITHOUT_ENDS, *RAW_PATHS) else f"{case.path}, {_ENDS[case.ends]}"


_ENDS = {Ends.GUEST: "guests", Ends.C: "C", Ends.PYTHON: "Python"}


def _figure_row(summary: Summary, case: Case) -> tuple[str, ...]:
    figures = summary.figures[case]
    found = figures[name := main_figure(figures)]
    text = {RATE: rate_text, SHARE: share_text}.get(name, time_text)
    p99 = time_text(figures[P99].median) if P99 in figures else ""
    interval = f"{text(found.low)} .. {text(found.high)}"
    return (*_names(case), text(found.median), interval, p99, *_against_texts(summary, case))


def _against_texts(summary: Summary, case: Case) -> tuple[str, str]:
    """How far from Redis as it comes, and tuned; nothing for others than ours."""
    plain, tuned = summary.against_redis.get(case), summary.against_tuned.get(case)
    form = "{:.1f}%" if case.kind is Kind.LATENCY else "{:.1f}x"
    word = " less" if case.kind is Kind.LATENCY else ""
    return (
        f"{form.format(plain.median)}{word} ({plain.low:.1f} .. {plain.high:.1f})" if plain else "",
        form.format(tuned.median) if tuned else "",
    )


def goal_texts(goal: Goal) -> tuple[str, ...]:
    """What, how much is wanted, how much it is, its interval, and whether that is enough."""
    found = goal.measured
    bound = "" if goal.wanted is None else f"{'>=' if goal.at_least else '<='} {goal.wanted:g} "
    wanted = f"{bound}{goal.unit}"
    if found is None:
        return goal.name, wanted, "", "", goal.verdict
    interval = f"{plain_text(found.low)} .. {plain_text(found.high)}"
    return goal.name, wanted, plain_text(found.median), interval, goal.verdict
