"""Medians with bootstrap intervals, of single values and of pairs. Pure: the same seed gives the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its 95% interval."""

    median: float
    low: float
    high: float
    rounds: int
    """How many values it is of."""


def quantile_of(ordered: Sequence[float], q: float) -> float:
    """The q-quantile (0 to 1) of values in ascending order, interpolated. Raises ValueError for none."""
    if not ordered:
        raise ValueError("no values")
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The median of `values`, and where the medians of their resamples lie. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    random = Random(seed)
    medians = sorted(median(random.choices(values, k=len(values))) for _ in range(RESAMPLES))
    edge = (1.0 - CONFIDENCE) / 2.0
    return Estimate(median(values), quantile_of(medians, edge), quantile_of(medians, 1.0 - edge), len(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of each pair: what both share of a round's conditions cancels out."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]
