"""The offline optimum: what somebody who knew the future could have done at the least, with the switches paid."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from .decision import Objective
from .outlook import switch_ns
from .replay import Replay, Stint, block_ns
from .trace import Trace
from .way import Way

_RELUCTANCES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


def oracle(trace: Trace, objective: Objective | None = None) -> Replay:
    """The least that was possible. A message costs the same all through a block: nobody gains by a switch within one.

    What is measured has noise, and the least of several figures lies below what it would be without: nobody reaches
    this.
    """
    wanted = objective or Objective()
    return _followed(trace, _cheapest(trace, wanted), wanted, "oracle")


def oracle_without_luck(trace: Trace, objective: Objective | None = None) -> Replay | None:
    """The same for somebody who knows the future, but not its noise: chosen by what was measured in one half of each
    block and charged by the other, and the other way round; the mean of both. How reluctant it is to switch is what
    serves it best. It still pays for noise that it takes for more, so the true optimum lies between this and the oracle.
    None where the blocks have no halves.
    """
    if not all(one.halves for block in trace.blocks for one in block.measured.values()):
        return None
    wanted = objective or Objective()
    return min((_blind(trace, wanted, reluctance) for reluctance in _RELUCTANCES), key=lambda one: one.total_ns)


def _blind(trace: Trace, objective: Objective, reluctance: float) -> Replay:
    one, other = (
        _followed(trace, _cheapest(trace, objective, half, reluctance), objective, "oracle without luck", 1 - half)
        for half in (0, 1)
    )
    costs = tuple((a + b) / 2 for a, b in zip(one.cost_ns, other.cost_ns, strict=True))
    return replace(one, cost_ns=costs, switches=(one.switches + other.switches + 1) // 2)


def _cheapest(trace: Trace, objective: Objective, half: int | None = None, reluctance: float = 1.0) -> list[Way]:
    """The way in each block: dynamic programming. reluctance: a switch is taken to cost so many times what it does."""
    prices = {(old, new): reluctance * switch_ns(trace.costs, old, new) for old in trace.ways for new in trace.ways}
    best: dict[Way, float] = {}
    came: list[dict[Way, Way]] = []
    for block in trace.blocks:
        totals: dict[Way, float] = {}
        source: dict[Way, Way] = {}
        for way in block.measured:
            before, start = 0.0, way
            if best:
                before, start = min((cost + prices[old, way], old) for old, cost in best.items())
            totals[way], source[way] = before + block_ns(block, way, objective, half), start
        best = totals
        came.append(source)
    taken = [min(best, key=best.__getitem__)]
    for source in reversed(came[1:]):
        taken.append(source[taken[-1]])
    return taken[::-1]


def _followed(trace: Trace, ways: list[Way], objective: Objective, name: str, half: int | None = None) -> Replay:
    """What these ways cost. half: the one that is charged."""
    costs = [block_ns(block, way, objective, half) for block, way in zip(trace.blocks, ways, strict=True)]
    switches = forced = 0
    for number, (old, new) in enumerate(pairwise(ways), 1):
        costs[number] += switch_ns(trace.costs, old, new)
        possible = old in trace.blocks[number].measured
        switches, forced = switches + (old != new and possible), forced + (not possible)
    stints = tuple(
        Stint(number, way, block.messages, block.seconds)
        for number, (block, way) in enumerate(zip(trace.blocks, ways, strict=True))
    )
    return Replay(name, stints, tuple(costs), switches, forced)
