"""What the rounds amount to: medians, the distance to Redis, and whether the goals were met. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .case import (
    COST,
    OWN_PATHS,
    P50,
    PLAIN_PATHS,
    RATE,
    SHARE,
    TUNED_PATHS,
    Case,
    Cores,
    Ends,
    How,
    Kind,
    Path,
)
from .goals import Goal, goals
from .rounds import Outcome, Regime, Round
from .stats import Estimate, estimate, ratios

MAIN = (P50, RATE, COST, SHARE)
"""The figures that a sample is known by, of which it has one."""


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one regime."""

    regime: Regime
    rounds: int
    figures: dict[Case, dict[str, Estimate]]
    """The best of its kind and size first."""
    against_redis: dict[Case, Estimate]
    """Of ring and pipe against the better of list and stream in the same round, redis-py as it comes. Latency: percent
    less; throughput: how many times as much."""
    against_tuned: dict[Case, Estimate]
    """The same, redis-py tuned."""
    goals: tuple[Goal, ...]
    missing: dict[Case, str]
    """Why a case was not measured."""


def summarize(outcome: Outcome, seed: int) -> tuple[Summary, ...]:
    """A summary for each regime that had rounds, mixed ones left out."""
    by_regime = {
        regime: [item for item in outcome.rounds if item.regime is regime] for regime in (Regime.NEAR, Regime.FAR)
    }
    return tuple(_summary(regime, chosen, outcome.missing, seed) for regime, chosen in by_regime.items() if chosen)


def main_figure(figures: dict[str, float] | dict[str, Estimate]) -> str:
    """Its name."""
    return next(name for name in MAIN if name in figures)


def _summary(regime: Regime, rounds: list[Round], missing: dict[Case, str], seed: int) -> Summary:
    found = {
        case: {name: estimate(_values(rounds, case, name), seed=seed) for name in sample.figures}
        for case, sample in rounds[0].samples.items()
    }
    figures = dict(sorted(found.items(), key=_place))
    plain, tuned = (_all_against(paths, rounds, figures, seed) for paths in (PLAIN_PATHS, TUNED_PATHS))
    readers = [_Figures(item) for item in rounds]
    return Summary(regime, len(rounds), figures, plain, tuned, goals(readers, seed), missing)


def _place(item: tuple[Case, dict[str, Estimate]]) -> tuple[int, int, float]:
    case, figures = item
    name = main_figure(figures)
    median = figures[name].median
    return list(Kind).index(case.kind), case.size, -median if name == RATE else median


class _Figures:
    """One round, as goals read it."""

    def __init__(self, item: Round) -> None:
        self._samples = item.samples

    def __call__(self, case: Case, figure: str | None = None) -> float:
        figures = self._samples[case].figures
        return figures[figure or main_figure(figures)]


def _values(rounds: list[Round], case: Case, figure: str) -> list[float]:
    return [item.samples[case].figures[figure] for item in rounds]


def _all_against(
    paths: tuple[Path, ...], rounds: list[Round], figures: dict[Case, dict[str, Estimate]], seed: int
) -> dict[Case, Estimate]:
    """Of all cases of ours for which Redis was measured too."""
    found = {}
    for case in figures:
        theirs = [replace(case, path=path, ends=Ends.PYTHON, cores=Cores.ANY, how=How.WAITING) for path in paths]
        if case.path in OWN_PATHS and all(other in figures for other in theirs):
            found[case] = estimate(_against(theirs, rounds, case), seed=seed)
    return found


def _against(theirs: list[Case], rounds: list[Round], case: Case) -> list[float]:
    """One value a round: a regime that changes, or a busy neighbour, hits both sides of the ratio."""
    figure = P50 if case.kind is Kind.LATENCY else RATE
    better = min if case.kind is Kind.LATENCY else max
    both = [_values(rounds, other, figure) for other in theirs]
    paired = ratios(_values(rounds, case, figure), [better(pair) for pair in zip(*both, strict=True)])
    return [100.0 * (1.0 - ratio) for ratio in paired] if case.kind is Kind.LATENCY else paired
