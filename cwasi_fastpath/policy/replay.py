"""Any policy on a trace: what it would have cost, against the best that anybody could have done who knew the future."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from ..metrics import Observation
from .decision import Objective, Policy, Request, ruled_out_way
from .outlook import switch_ns
from .trace import Block, Measured, Trace
from .way import Way

GOOD = 1.05
"""A way on which a message costs at most so many times what it does on the best is as good."""
ADAPTED_SECONDS, ADAPTED_MESSAGES = 0.1, 1000


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How a policy answered to one change after which another way was the best."""

    at: float
    """When it changed, seconds."""
    seconds: float
    messages: int
    """Until it was on a good way."""
    done: bool
    """False: it was not, until the next change."""

    @property
    def in_time(self) -> bool:
        """Within 100 ms or 1,000 messages, whichever is later."""
        return self.done and (self.seconds <= ADAPTED_SECONDS + 1e-9 or self.messages <= ADAPTED_MESSAGES)


@dataclass(frozen=True, slots=True)
class Replay:
    """One policy on one trace."""

    policy: str
    ways: tuple[Way, ...]
    """In each block."""
    cost_ns: tuple[float, ...]
    """Of each block, with the switch before it."""
    switches: int
    """That it chose."""
    forced: int
    """That it had to, as the way in use was not possible any more."""
    adaptations: tuple[Adaptation, ...] = ()

    @property
    def total_ns(self) -> float:
        return sum(self.cost_ns)

    def regret(self, oracle: Replay) -> float:
        """The part that it cost more than the optimum."""
        return self.total_ns / oracle.total_ns - 1 if oracle.total_ns else 0.0

    @property
    def time_to_adapt(self) -> float | None:
        """Seconds, the median; None where nothing had to be adapted to."""
        return median(one.seconds for one in self.adaptations) if self.adaptations else None


def replay(trace: Trace, policy: Policy, name: str, objective: Objective | None = None) -> Replay:
    """What the policy would have done. It sees only what was measured on the way that it is on."""
    wanted = objective or Objective()
    request = Request(trace.blocks[0].facts, objective=wanted)
    current: Way | None = None
    taken, costs = [], []
    switches = forced = 0
    for block in trace.blocks:
        price = 0.0
        if current is None or request.facts != block.facts or request.ways != block.measured.keys():
            ways = frozenset(block.measured)
            available = frozenset(way.transport for way in ways)
            request = replace(
                request, facts=block.facts, ways=ways, available=available, now=block.at, observation=None
            )
            if current is None or ruled_out_way(request, current) is not None:
                way = _decided(policy, request, block)
                forced += current is not None
                price = switch_ns(trace.costs, current, way)
                current, request = way, _switched(request, block.at, way)
        taken.append(current)
        price += block_ns(block, current, wanted)
        now = block.at + block.seconds
        request = replace(request, now=now, observation=observed(block, block.measured[current]))
        history, chosen = policy.step(request)
        request = replace(request, history=history)
        if chosen is not None and chosen != current and chosen in request.ways:
            switches += 1
            price += switch_ns(trace.costs, current, chosen)
            current, request = chosen, _switched(request, now, chosen)
        costs.append(price)
    return Replay(name, tuple(taken), tuple(costs), switches, forced)


def _decided(policy: Policy, request: Request, block: Block) -> Way:
    decision = policy.decide(request)
    if decision is not None and decision.way in request.ways:
        return decision.way
    return min(block.measured)


def _switched(request: Request, now: float, way: Way) -> Request:
    first = request.current is None
    history = request.history if first or request.history is None else request.history.switched(now, way)
    return replace(request, current=way, history=history)


def observed(block: Block, one: Measured) -> Observation:
    """What the ends on that way would have counted."""
    return Observation(
        block.messages, block.size, min(1.0, one.parked), seconds=block.seconds, latency_ns=one.latency_ns,
        rate=block.messages / block.seconds if one.rate is None else one.rate, burst=block.burst, cpu_ns=one.cpu_ns,
        contention=one.contention, others=block.others, srtt_ns=block.srtt_ns, bytes_per_second=block.bytes_per_second,
    )  # fmt: skip


def block_ns(block: Block, way: Way, objective: Objective) -> float:
    """What all messages of a block cost on a way. A stream's time per message is its latency: nothing else was
    measured.
    """
    one = block.measured[way]
    return block.messages * (
        (objective.latency + objective.throughput) * one.latency_ns + objective.cpu * (one.cpu_ns or 0.0)
    )


def oracle(trace: Trace, objective: Objective | None = None) -> Replay:
    """The least that was possible, switches paid: dynamic programming over the blocks."""
    wanted = objective or Objective()
    prices = {(old, new): switch_ns(trace.costs, old, new) for old in trace.ways for new in trace.ways}
    best: dict[Way, float] = {}
    came: list[dict[Way, Way]] = []
    for block in trace.blocks:
        totals: dict[Way, float] = {}
        source: dict[Way, Way] = {}
        for way in block.measured:
            before, start = 0.0, way
            if best:
                before, start = min((cost + prices[old, way], old) for old, cost in best.items())
            totals[way], source[way] = before + block_ns(block, way, wanted), start
        best = totals
        came.append(source)
    taken = [min(best, key=best.__getitem__)]
    for source in reversed(came[1:]):
        taken.append(source[taken[-1]])
    taken.reverse()
    costs = [
        block_ns(block, way, wanted) + (switch_ns(trace.costs, taken[index - 1], way) if index else 0.0)
        for index, (block, way) in enumerate(zip(trace.blocks, taken, strict=True))
    ]
    switched = [index for index in range(1, len(taken)) if taken[index] != taken[index - 1]]
    forced = sum(taken[index - 1] not in trace.blocks[index].measured for index in switched)
    return Replay("oracle", tuple(taken), tuple(costs), len(switched) - forced, forced)


def with_adaptations(trace: Trace, found: Replay, best: Replay, objective: Objective | None = None) -> Replay:
    """Says how long it took after each change that called for another way. best: of the oracle."""
    wanted, starts = objective or Objective(), [block.at for block in trace.blocks]
    changes = trace.changes
    if changes is None:   # then those that the optimum answered to
        changes = tuple(
            starts[index] for index in range(1, len(starts)) if best.ways[index] != best.ways[index - 1]
        )
    begins = sorted({0, *(bisect_right(starts, change - 1e-9) for change in changes)} - {len(starts)})
    phases = list(zip(begins, [*begins[1:], len(starts)], strict=True))
    answers = []
    for (first, last), before in zip(phases[1:], phases, strict=False):
        good = _good_ways(trace.blocks[first:last], wanted) | {best.ways[last - 1]}
        if best.ways[before[1] - 1] in good or found.ways[before[1] - 1] in good:
            continue   # nothing to be done
        answers.append(_answer(trace.blocks[first:last], found.ways[first:last], good))
    return replace(found, adaptations=tuple(answers))


def _good_ways(blocks: Sequence[Block], objective: Objective) -> set[Way]:
    """On which nearly as little was to be paid as on the best, of those possible all the time."""
    ways = set.intersection(*(set(block.measured) for block in blocks))
    totals = {way: sum(block_ns(block, way, objective) for block in blocks) for way in ways}
    least = min(totals.values(), default=0.0)
    return {way for way, total in totals.items() if total <= GOOD * least}


def _answer(blocks: Sequence[Block], ways: Sequence[Way], good: set[Way]) -> Adaptation:
    messages = 0
    for block, way in zip(blocks, ways, strict=True):
        if way in good:
            return Adaptation(blocks[0].at, block.at - blocks[0].at, messages, True)
        messages += block.messages
    return Adaptation(blocks[0].at, sum(block.seconds for block in blocks), messages, False)
