"""What the rounds amount to: medians, the distance to Redis, and whether the goals were met. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .case import PLAIN_PATHS, REDIS_PATHS, SEND_COST_BYTES, TUNED_PATHS, Case, Kind, Path
from .rounds import Regime, Round
from .stats import Estimate, estimate, ratios

REDUCTION_GOAL = 95.0
FACTOR_GOAL = 20.0
SEND_COST_GOAL = 100.0
_REDUCED = range(1 << 10, (1 << 20) + 1)
_STREAMED = 1 << 20

P50, P99, RATE, COST = "p50_ns", "p99_ns", "bytes_per_second", "ns_per_call"


@dataclass(frozen=True, slots=True)
class Goal:
    """Something that the product promises."""

    name: str
    unit: str
    wanted: float
    at_least: bool
    """Whether more is better."""
    measured: Estimate

    @property
    def verdict(self) -> str:
        """met, not met, or undecided where the interval reaches over the goal."""
        interval = (self.measured.low, self.measured.high)
        good = [value >= self.wanted if self.at_least else value <= self.wanted for value in interval]
        if any(good):
            return "met" if all(good) else "undecided"
        return "not met"


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one regime."""

    regime: Regime
    rounds: int
    figures: dict[Case, dict[str, Estimate]]
    against_redis: dict[Case, Estimate]
    """Of ring and pipe against the better of list and stream in the same round, redis-py as it comes. Latency: percent
    less; throughput: how many times as much."""
    against_tuned: dict[Case, Estimate]
    """The same, redis-py tuned."""
    goals: tuple[Goal, ...]


def summarize(rounds: Sequence[Round], seed: int) -> tuple[Summary, ...]:
    """A summary for each regime that had rounds, mixed ones left out."""
    by_regime = {regime: [item for item in rounds if item.regime is regime] for regime in (Regime.NEAR, Regime.FAR)}
    return tuple(_summary(regime, chosen, seed) for regime, chosen in by_regime.items() if chosen)


def _summary(regime: Regime, rounds: list[Round], seed: int) -> Summary:
    cases = tuple(rounds[0].samples)
    figures = {
        case: {figure: estimate(_values(rounds, case, figure), seed=seed) for figure in rounds[0].samples[case].figures}
        for case in sorted(cases, key=lambda case: (case.kind, case.size, list(Path).index(case.path)))
    }
    local = [case for case in figures if case.path not in REDIS_PATHS and case.kind is not Kind.SEND_COST]
    plain, tuned = (
        {case: estimate(_against(paths, rounds, case), seed=seed) for case in local}
        for paths in (PLAIN_PATHS, TUNED_PATHS)
    )
    return Summary(regime, len(rounds), figures, plain, tuned, tuple(_goals(figures, plain)))


def _values(rounds: list[Round], case: Case, figure: str) -> list[float]:
    return [item.samples[case].figures[figure] for item in rounds]


def _against(paths: tuple[Path, ...], rounds: list[Round], case: Case) -> list[float]:
    """One value a round: a regime that changes, or a busy neighbour, hits both sides of the ratio."""
    figure = P50 if case.kind is Kind.LATENCY else RATE
    better = min if case.kind is Kind.LATENCY else max
    both = [_values(rounds, Case(case.kind, path, case.size), figure) for path in paths]
    paired = ratios(_values(rounds, case, figure), [better(pair) for pair in zip(*both, strict=True)])
    return [100.0 * (1.0 - ratio) for ratio in paired] if case.kind is Kind.LATENCY else paired


def _goals(figures: dict[Case, dict[str, Estimate]], against: dict[Case, Estimate]) -> list[Goal]:
    goals = []
    for case, measured in against.items():
        if case.path is not Path.RING:
            continue
        if case.kind is Kind.LATENCY and case.size in _REDUCED:
            goals.append(Goal(f"latency, {size_text(case.size)}", "% less than Redis", REDUCTION_GOAL, True, measured))
        if case.kind is Kind.THROUGHPUT and case.size == _STREAMED:
            goals.append(Goal(f"throughput, {size_text(case.size)}", "x Redis", FACTOR_GOAL, True, measured))
    for case, found in figures.items():
        if case.kind is Kind.SEND_COST:
            name = f"send of {size_text(SEND_COST_BYTES)}"
            goals.append(Goal(name, "ns a call", SEND_COST_GOAL, False, found[COST]))
    return goals


def size_text(size: int) -> str:
    """64 B, 1 KiB, 1.5 MiB, ..."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} B"


def time_text(ns: float) -> str:
    """140 ns, 3.1 us, 27 ms, ..."""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= factor:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns:.3g} ns"


def rate_text(bytes_per_second: float) -> str:
    """800 MB/s, 17 GB/s, ..."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_second >= factor:
            return f"{bytes_per_second / factor:.3g} {unit}"
    return f"{bytes_per_second:.3g} B/s"
