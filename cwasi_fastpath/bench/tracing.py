"""What watching costs: a system call under every kind of watching, attaching, and what the tracer itself uses.

Rounds, in each of which everything is measured once in a random order; what is compared is of one round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import Error
from .empty_program import empty_programs
from .floors import plausible_hop_ns
from .goals import Goal
from .rounds import Regime, regime_of
from .stats import Estimate, estimate

CALLS = 2003
"""In a run: so few that some run has a core for itself, even on a busy machine."""
RUNS = 101
"""Of which the fastest counts: others on the machine make calls slower, never faster."""
RATE = 10_000.0
THREADS = 2
STEPS = 6
"""Of a round."""
_FUNCTION = "watched"


class Watching(StrEnum):
    """What watches while a thread makes calls."""

    NOBODY = "nobody"
    EMPTY = "empty programs"
    FUNCTION = "a tracer, in a function"
    PROCESS = "a tracer, in no function"
    OTHERS = "a tracer, others only"
    LIGHT = "a tracer, --light"


class Figure(StrEnum):
    """What else there is to know."""

    ATTACH = "attach, s"
    ATTACH_FIRST = "attach for the first time, s"
    SHARE = "tracer at the pace, % of a core"
    PACE = "the pace, calls/s"
    FLOOD = "as fast as it goes, calls/s"
    LOST = "of these lost"


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    rounds: int
    seed: int
    paced: float
    """Seconds at the pace."""
    flood: int = 1_000_003
    """Calls of each thread that makes them as fast as it goes."""


@dataclass(frozen=True, slots=True)
class TracingRound:
    """One round: ns a call under each kind of watching, and the rest."""

    hop_before_ns: float
    hop_after_ns: float
    calls: dict[Watching, float]
    figures: dict[Figure, float]

    @property
    def regime(self) -> Regime:
        return regime_of(self.hop_before_ns, self.hop_after_ns)


@dataclass(frozen=True, slots=True)
class TracingSummary:
    """All rounds of one regime."""

    regime: Regime
    rounds: int
    calls: dict[Watching, Estimate]
    """ns."""
    figures: dict[Figure, Estimate]
    goals: tuple[Goal, ...]


# ---- measuring ----


def measure(plan: Plan, before_step: Callable[[str], None]) -> list[TracingRound]:
    """A round that warms everything comes first and is dropped. before_step: told what comes next.

    Raises TracerUnavailable, Error, OSError.
    """
    _check()
    with _Talker("tracing_worker") as plain:
        rounds = [_round(plan, number, plain, before_step) for number in range(plan.rounds + 1)]
    return rounds[1:]


def _check() -> None:
    from ..tracer import TracerUnavailable, requirements

    lacking = [f"{check.name}: {check.found}. Remedy: {check.remedy}" for check in requirements()
               if check.status == "fail"]  # fmt: skip
    if lacking:
        raise TracerUnavailable("tracing is not available:\n" + "\n".join(f"- {lack}" for lack in lacking))


def _round(plan: Plan, number: int, plain: _Talker, before_step: Callable[[str], None]) -> TracingRound:
    order = Random(f"{plan.seed}/{number}")
    calls: dict[Watching, float] = {}
    figures: dict[Figure, float] = {}

    def nobody() -> None:
        calls[Watching.NOBODY] = _ns_per_call(plain, None)

    def empty() -> None:
        with empty_programs():
            calls[Watching.EMPTY] = _ns_per_call(plain, None)

    def full() -> None:
        with _Talker("tracing_peer", "full") as tracer:
            figures[Figure.ATTACH] = tracer.heard()
            looks = [(Watching.FUNCTION, tracer, _FUNCTION), (Watching.PROCESS, tracer, None),
                     (Watching.OTHERS, plain, None)]  # fmt: skip
            for watching, who, function in order.sample(looks, len(looks)):
                calls[watching] = _ns_per_call(who, function)
            figures.update(_flood(tracer, plan.flood))

    def light() -> None:
        with _Talker("tracing_peer", "light") as tracer:
            tracer.heard()
            calls[Watching.LIGHT] = _ns_per_call(tracer, _FUNCTION)

    def first() -> None:
        with TemporaryDirectory() as empty, _Talker("tracing_peer", "full", CWASI_CACHE_DIR=empty) as tracer:
            figures[Figure.ATTACH_FIRST] = tracer.heard()

    def pace() -> None:
        figures.update(_pace(plan.paced))

    hop = plausible_hop_ns()
    for step in order.sample([nobody, empty, full, light, first, pace], STEPS):
        before_step(step.__name__)
        step()
    return TracingRound(hop, plausible_hop_ns(), calls, figures)


def _ns_per_call(who: _Talker, function: str | None) -> float:
    answer = who.ask({"calls": CALLS, "repeats": RUNS, "function": function})
    return float(answer["answer"] if isinstance(answer, dict) else answer)


def _flood(tracer: _Talker, calls: int) -> dict[Figure, float]:
    """Two threads make calls as fast as they can; what was not counted, or twice, is lost, whatever the tracer says."""
    answer = tracer.ask({"calls": calls, "threads": THREADS})
    made = calls * THREADS
    lost = max(abs(made - answer["counted"]), answer["lost"])
    return {Figure.FLOOD: made * 1e9 / answer["answer"], Figure.LOST: lost}


def _pace(seconds: float) -> dict[Figure, float]:
    """What cwasi-trace uses that reports each second. Attaching and the worker's start and end are left out."""
    worker = [sys.executable, "-m", "cwasi_fastpath.bench.tracing_worker", str(seconds), str(RATE)]
    command = [sys.executable, "-m", "cwasi_fastpath.cli.trace", "-i", "1", "--json", "--", *worker]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Error(f"cwasi-trace ended with {done.returncode}: {done.stderr.strip()}")
    intervals = [json.loads(line) for line in done.stdout.splitlines()]
    steady = intervals[1:-1] or intervals
    spent = sum(one["seconds"] for one in steady)
    return {
        Figure.SHARE: 100 * sum(one["tracer"]["cpu_seconds"] for one in steady) / spent,
        Figure.PACE: sum(one["calls"] for one in steady) / spent,
    }


class _Talker:
    """A process that answers each line with a line. It ends when nothing more can come."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", f"cwasi_fastpath.bench.{module}", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, text=True, bufsize=1,
                                         env={**os.environ, **environment})  # fmt: skip

    def __enter__(self) -> _Talker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with self._process, suppress(BrokenPipeError):
            self._process.stdin.close()

    def ask(self, what: dict[str, Any]) -> Any:
        """Raises Error."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):   # it has said why
            self._process.stdin.write(json.dumps(what) + "\n")
        return self.heard()

    def heard(self) -> Any:
        """The next line. Raises Error."""
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise Error(f"a process of the benchmark has ended: {self._process.stderr.read().strip()}")
        return json.loads(line)


# ---- what it amounts to ----


@dataclass(frozen=True, slots=True)
class _Promise:
    name: str
    unit: str
    wanted: float
    value: Callable[[TracingRound], float] = field(repr=False)
    always: bool = False
    """Whether every single round must keep it: then the worst stands for all."""
    at_least: bool = False


def _times(one: Watching, other: Watching) -> Callable[[TracingRound], float]:
    return lambda found: found.calls[one] / found.calls[other]


def _calls(watching: Watching) -> Callable[[TracingRound], float]:
    return lambda found: found.calls[watching]


def _figure(figure: Figure) -> Callable[[TracingRound], float]:
    return lambda found: found.figures[figure]


_PROMISES = (
    _Promise("a traced call, in a function", "x empty programs", 2.2, _times(Watching.FUNCTION, Watching.EMPTY)),
    _Promise("a traced call, in no function", "x empty programs", 2.2, _times(Watching.PROCESS, Watching.EMPTY)),
    _Promise("a call of who is not traced", "x empty programs", 1.2, _times(Watching.OTHERS, Watching.EMPTY)),
    _Promise("a call traced with --light", "x nobody watching", 1.3, _times(Watching.LIGHT, Watching.NOBODY)),
    _Promise("attaching", "s", 0.3, _figure(Figure.ATTACH)),
    _Promise("tracer's CPU at 10,000 calls/s", "% of a core", 1, _figure(Figure.SHARE)),
    _Promise("calls as fast as it goes", "calls/s", 1e6, _figure(Figure.FLOOD), at_least=True),
    _Promise("lost of these", "calls", 0, _figure(Figure.LOST), always=True),
)  # fmt: skip


def summaries(rounds: Sequence[TracingRound], seed: int) -> tuple[TracingSummary, ...]:
    """One for each regime in which whole rounds were measured. Pure."""
    by_regime = {regime: [one for one in rounds if one.regime is regime] for regime in (Regime.NEAR, Regime.FAR)}
    return tuple(_summary(regime, chosen, seed) for regime, chosen in by_regime.items() if chosen)


def _summary(regime: Regime, rounds: list[TracingRound], seed: int) -> TracingSummary:
    def estimated(value: Callable[[TracingRound], float], always: bool = False) -> Estimate:
        values = [value(found) for found in rounds]
        return estimate([max(values)] * len(values) if always else values, seed=seed)

    return TracingSummary(
        regime,
        len(rounds),
        {watching: estimated(_calls(watching)) for watching in Watching},
        {figure: estimated(_figure(figure)) for figure in Figure},
        tuple(
            Goal(one.name, one.unit, one.wanted, one.at_least, estimated(one.value, one.always)) for one in _PROMISES
        ),
    )
