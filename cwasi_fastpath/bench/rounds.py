"""Rounds: every case once in each, in an order of its own, so that what drifts drifts for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from ..errors import Unavailable
from .case import BYTE_FLOORS, Case, Kind, Sample

FAR_FROM_NS = 180.0
"""A cache line that takes this long goes another way: hypervisors move virtual CPUs to cores that share no cache."""

SEND_COST_COUNT = 20_000
"""That many messages of 64 bytes fit in a ring with its default of 4 MiB, so that no send waits."""

_STREAMS = {Kind.THROUGHPUT, Kind.FLOW}
_FIRST_BYTES = 64 << 20
_LARGE = 16 << 20
_FEWEST = 4
_FEWEST_IN_BURSTS = 5000
_MOST_ROUND_TRIPS = 20_000
_MOST_BYTES = 2 << 30
_IDLE_MS = 1000
_IDLE_MS_A_SECOND = 25
"""Of all the time there is: an idle channel uses up more of it than others."""


class Regime(StrEnum):
    """How the cores of the machine stood to each other. Figures of different regimes must not be mixed."""

    NEAR = "near"
    FAR = "far"
    MIXED = "mixed"
    """It changed in the middle of the round."""


def regime_of(hop_before_ns: float, hop_after_ns: float) -> Regime:
    """That of a round with these hops before and after it."""
    far = [hop >= FAR_FROM_NS for hop in (hop_before_ns, hop_after_ns)]
    if any(far):
        return Regime.FAR if all(far) else Regime.MIXED
    return Regime.NEAR


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for."""

    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    """About how long all rounds together may take, set-up apart."""
    seed: int
    full: bool = False
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """One round, with the machine's hop before and after it."""

    hop_before_ns: float
    hop_after_ns: float
    samples: dict[Case, Sample]

    @property
    def regime(self) -> Regime:
        return regime_of(self.hop_before_ns, self.hop_after_ns)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rounds, and why cases are in none of them."""

    rounds: list[Round]
    missing: dict[Case, str]


Measure = Callable[[Case, int], Sample]


def run_rounds(
    settings: Settings,
    cases: tuple[Case, ...],
    measure: Measure,
    probe: Callable[[], float],
    before_case: Callable[[Case], None],
) -> Outcome:
    """Measures; a short round that warms everything and finds out how fast each case is comes first and is dropped.

    measure: runs a case with that many messages; a case that raises Unavailable is left out from then on.
    probe: the hop now, ns. before_case: told what comes next.
    """
    counts = {case: _first_count(case, settings.seconds) for case in cases}
    budget = settings.seconds / (settings.rounds * len(cases))
    rounds: list[Round] = []
    missing: dict[Case, str] = {}
    for number in range(settings.rounds + 1):
        before, samples = probe(), {}
        for case in _shuffled(cases, settings.seed, number):
            before_case(case)
            if case in missing:
                continue
            try:
                samples[case] = measure(case, counts[case])
            except Unavailable as error:
                missing[case] = str(error)
                continue
            counts[case] = _next_count(case, counts[case], samples[case].seconds, budget)
        rounds.append(Round(before, probe(), samples))
    for item in rounds:
        for case in missing.keys() & item.samples.keys():
            del item.samples[case]
    return Outcome(rounds[1:], missing)


def _shuffled(cases: tuple[Case, ...], seed: int, number: int) -> list[Case]:
    order = list(cases)
    Random(f"{seed}/{number}").shuffle(order)
    return order


def _first_count(case: Case, seconds: float) -> int:
    if case.kind is Kind.SEND_COST:
        return SEND_COST_COUNT
    if case.kind is Kind.IDLE:
        return min(_IDLE_MS, max(1, int(seconds * _IDLE_MS_A_SECOND)))
    if case.kind is Kind.BURST:
        return _FEWEST_IN_BURSTS
    return max(1, min(8 if case.kind in _STREAMS else 20, _FIRST_BYTES // case.size))


def _next_count(case: Case, count: int, seconds: float, budget: float) -> int:
    """As many messages as fit in `budget`, going by the last run."""
    if case.kind in (Kind.SEND_COST, Kind.IDLE):
        return count
    by_bytes = case.kind in _STREAMS or case.path in BYTE_FLOORS
    most = _MOST_BYTES // case.size if by_bytes else _MOST_ROUND_TRIPS
    fewest = _FEWEST_IN_BURSTS if case.kind is Kind.BURST else _FEWEST if case.size <= _LARGE else 1
    return max(fewest, min(most, int(budget * count / max(seconds, 1e-9))))
