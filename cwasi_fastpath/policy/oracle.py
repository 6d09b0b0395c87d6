"""The offline optimum: what somebody who knew the future could have done at the least, with the switches paid."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .decision import Objective
from .outlook import switch_ns
from .replay import Replay, Stint, message_ns, met, middle_of
from .trace import Trace
from .way import Way

_RELUCTANCES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


def oracle(trace: Trace, objective: Objective | None = None) -> Replay:
    """The least that was possible: as a message costs the same all through a block, or a half of it, nobody gains by a
    switch within.

    What is measured has noise, and the least of several figures lies below what it would be without: nobody reaches
    this.
    """
    steps = _halved(trace)
    return _followed(trace, steps, _cheapest(trace, steps, objective or Objective()), objective, "oracle")


def oracle_without_luck(trace: Trace, objective: Objective | None = None) -> Replay | None:
    """The same for somebody who knows the future, but not its noise: chosen by what was measured in one half of each
    block and charged by the other, and the other way round; the mean of both. How reluctant it is to switch is what
    serves it best. It still pays for noise that it takes for more: the true optimum lies between this and the oracle.
    None where the blocks have no halves.
    """
    if not all(one.halves for block in trace.blocks for one in block.measured.values()):
        return None
    return min((_blind(trace, objective, reluctance) for reluctance in _RELUCTANCES), key=lambda one: one.total_ns)


def oracle_of_phases(trace: Trace, objective: Objective | None = None) -> Replay | None:
    """The same with one switch for each change, when it comes: what nobody who takes no more can do better, though he
    knew each phase before. It stays where two ways are better in turn for a while, for no reason that is told.
    None where nobody tells of the changes, or in a phase no way is possible all the time.
    """
    if trace.changes is None:
        return None
    steps, wanted = _halved(trace), objective or Objective()
    phases = [bisect_right(trace.changes, trace.blocks[step.block].at) for step in steps]
    prices: dict[int, dict[Way, float]] = {}
    for step, phase in zip(steps, phases, strict=True):
        here = trace.blocks[step.block].measured
        before = prices.get(phase, dict.fromkeys(here, 0.0))
        prices[phase] = {
            way: total + _price(trace, step, way, wanted) for way, total in before.items() if way in here
        }
    if not all(prices.values()):
        return None
    taken = dict(zip(prices, _path(trace, list(prices.values())), strict=True))
    return _followed(trace, steps, [taken[phase] for phase in phases], objective, "oracle of phases")


def _blind(trace: Trace, objective: Objective | None, reluctance: float) -> Replay:
    halves = [[_Step(number, block.messages, half) for number, block in enumerate(trace.blocks)] for half in (0, 1)]
    one, other = (
        _followed(
            trace, charged, _cheapest(trace, known, objective or Objective(), reluctance), objective,
            "oracle without luck",
        )
        for known, charged in (halves, halves[::-1])
    )  # fmt: skip
    costs = tuple((a + b) / 2 for a, b in zip(one.cost_ns, other.cost_ns, strict=True))
    return replace(one, cost_ns=costs, switches=(one.switches + other.switches + 1) // 2)


class _Step(NamedTuple):
    """Messages of a block that are charged by what was measured in one half of it, or in all of it."""

    block: int
    messages: int
    half: int | None = None


def _halved(trace: Trace) -> list[_Step]:
    """All that comes, one after the other."""
    steps = []
    for number, block in enumerate(trace.blocks):
        if any(one.halves for one in block.measured.values()):
            steps += [_Step(number, middle := middle_of(block), 0), _Step(number, block.messages - middle, 1)]
        else:
            steps.append(_Step(number, block.messages))
    return steps


def _price(trace: Trace, step: _Step, way: Way, objective: Objective) -> float:
    return step.messages * message_ns(met(trace.blocks[step.block], way, step.half), objective)


def _cheapest(trace: Trace, steps: Sequence[_Step], objective: Objective, reluctance: float = 1.0) -> list[Way]:
    """The way for each step."""
    prices = [
        {way: _price(trace, step, way, objective) for way in trace.blocks[step.block].measured} for step in steps
    ]
    return _path(trace, prices, reluctance)


def _path(trace: Trace, prices: Sequence[Mapping[Way, float]], reluctance: float = 1.0) -> list[Way]:
    """The way for each of them: dynamic programming. reluctance: a switch is taken to cost so many times what it does.
    """
    switches = {(old, new): reluctance * switch_ns(trace.costs, old, new) for old in trace.ways for new in trace.ways}
    best: dict[Way, float] = {}
    came: list[dict[Way, Way]] = []
    for possible in prices:
        totals: dict[Way, float] = {}
        source: dict[Way, Way] = {}
        for way, price in possible.items():
            before, start = 0.0, way
            if best:
                before, start = min((cost + switches[old, way], old) for old, cost in best.items())
            totals[way], source[way] = before + price, start
        best = totals
        came.append(source)
    taken = [min(best, key=best.__getitem__)]
    for source in reversed(came[1:]):
        taken.append(source[taken[-1]])
    return taken[::-1]


def _followed(
    trace: Trace, steps: Sequence[_Step], ways: Sequence[Way], objective: Objective | None, name: str
) -> Replay:
    """What these ways cost."""
    wanted = objective or Objective()
    costs = [0.0] * len(trace.blocks)
    stints = []
    switches = forced = 0
    before = ways[0]
    for step, way in zip(steps, ways, strict=True):
        block = trace.blocks[step.block]
        costs[step.block] += _price(trace, step, way, wanted) + switch_ns(trace.costs, before, way)
        possible = before in block.measured
        switches, forced = switches + (before != way and possible), forced + (not possible)
        share = step.messages / block.messages if block.messages else 1.0
        stints.append(Stint(step.block, way, step.messages, block.seconds * share, step.half))
        before = way
    return Replay(name, tuple(stints), tuple(costs), switches, forced)
