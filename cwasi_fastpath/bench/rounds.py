"""Rounds: every case once in each, in an order of its own, so that what drifts drifts for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from .case import REDIS_PATHS, SEND_COST_COUNT, Case, Kind, Sample

FAR_FROM_NS = 180.0
"""A cache line that takes this long goes another way: hypervisors move virtual CPUs to cores that share no cache."""

_IMPLAUSIBLE_NS = 30.0
_PROBES = 5
_FIRST = {Kind.LATENCY: 20, Kind.THROUGHPUT: 8}
_FEWEST = 4
_MOST_ROUND_TRIPS = 20_000
_MOST_BYTES = 2 << 30


class Regime(StrEnum):
    """How the cores of the machine stood to each other. Figures of different regimes must not be mixed."""

    NEAR = "near"
    FAR = "far"
    MIXED = "mixed"
    """It changed in the middle of the round."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for."""

    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    """About how long all rounds together may take."""
    seed: int


@dataclass(frozen=True, slots=True)
class Round:
    """One round, with the machine's hop before and after it."""

    hop_before_ns: float
    hop_after_ns: float
    samples: dict[Case, Sample]

    @property
    def regime(self) -> Regime:
        far = [hop >= FAR_FROM_NS for hop in (self.hop_before_ns, self.hop_after_ns)]
        if any(far):
            return Regime.FAR if all(far) else Regime.MIXED
        return Regime.NEAR


Measure = Callable[[Case, int], Sample]


def run_rounds(
    settings: Settings,
    cases: tuple[Case, ...],
    measure: Measure,
    probe: Callable[[], float],
    before_case: Callable[[Case], None],
) -> list[Round]:
    """Measures; a short round that warms everything and finds out how fast each case is comes first and is dropped.

    measure: runs a case with that many messages. probe: the hop now, ns. before_case: told what comes next.
    """
    counts = {case: _FIRST.get(case.kind, SEND_COST_COUNT) for case in cases}
    budget = settings.seconds / (settings.rounds * len(cases))
    rounds = []
    for number in range(settings.rounds + 1):
        before, samples = probe(), {}
        for case in _shuffled(cases, settings.seed, number):
            before_case(case)
            samples[case] = measure(case, counts[case])
            counts[case] = _next_count(case, counts[case], samples[case].seconds, budget)
        rounds.append(Round(before, probe(), samples))
    return rounds[1:]


def _shuffled(cases: tuple[Case, ...], seed: int, number: int) -> list[Case]:
    order = list(cases)
    Random(f"{seed}/{number}").shuffle(order)
    return order


def _next_count(case: Case, count: int, seconds: float, budget: float) -> int:
    """As many messages as fit in `budget`, going by the last run."""
    if case.kind is Kind.SEND_COST:
        return count
    most = _MOST_ROUND_TRIPS if case.kind is Kind.LATENCY else _MOST_BYTES // case.size
    return max(_FEWEST, min(most, int(budget * count / seconds)))


def measure_channels(settings: Settings, cases: tuple[Case, ...], before_case: Callable[[Case], None]) -> list[Round]:
    """Runs everything on this machine, with a redis-server of its own. Raises RedisUnavailable."""
    from ..redis_server import RedisServer
    from . import guests
    from .redis_pair import RedisPair

    with RedisServer() as server, RedisPair(server.url) as pair:

        def measure(case: Case, count: int) -> Sample:
            return (pair if case.path in REDIS_PATHS else guests).measure(case, count)

        return run_rounds(settings, cases, measure, _hop_ns, before_case)


def _hop_ns() -> float:
    """The hop now; probed again while its two threads seem to have shared one core."""
    from ..calibration import hop_ns

    hop = hop_ns()
    for _ in range(_PROBES):
        if hop >= _IMPLAUSIBLE_NS:
            break
        hop = hop_ns()
    return hop
