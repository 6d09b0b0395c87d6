"""How much more a policy has cost than another, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from .noise import Noise
from .replay import Replay

_DRAWS = 400
_STRETCHES = 40
"""So many blocks in a row are drawn together that the trace has about that many such stretches: what lasts for some
blocks counts as one event."""


@dataclass(frozen=True, slots=True)
class Regret:
    """The part that it has cost more."""

    share: float
    low: float
    high: float
    """It lies between these nineteen times in twenty, if the trace went on with such blocks."""


def regret(found: Replay, best: Replay) -> Regret:
    """Of what `found` cost, against `best`. The interval is a block bootstrap (H. R. Künsch, "The jackknife and the
    bootstrap for general stationary observations", 1989), the same for the same figures.
    """
    paid, least = list(accumulate(found.cost_ns, initial=0.0)), list(accumulate(best.cost_ns, initial=0.0))
    count = len(found.cost_ns)
    length = max(1, count // _STRETCHES)
    noise = Noise(count)
    shares = []
    for _ in range(_DRAWS):
        starts = [int(noise.uniform() * (count - length + 1)) for _ in range(max(1, count // length))]
        above = sum(least[start + length] - least[start] for start in starts)
        shares.append(_more(sum(paid[start + length] - paid[start] for start in starts), above))
    shares.sort()
    return Regret(_more(paid[-1], least[-1]), shares[_DRAWS // 40], shares[-_DRAWS // 40 - 1])


def _more(paid: float, least: float) -> float:
    return paid / least - 1 if least else 0.0
