"""Any policy on a trace: what it would have done, and what that would have cost.

A block is work: the same messages for everybody. Where each of them waits for the one before it, they take longer on a
slow way, and so does the block; and a policy looks again after each window of that time, also within the block. What
was measured in two halves is so: the first half of the messages met the first, the others the second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from operator import attrgetter
from statistics import median

from ..metrics import Observation
from ..modes import Locality
from .decision import Objective, Policy, Request, ruled_out_way
from .history import EdgeHistory
from .outlook import switch_ns
from .rush import Rushes, most
from .told_network import ToldNetwork
from .trace import Block, Measured, Trace
from .way import Way

GOOD = 1.05
"""A way on which a message costs at most so many times what it does on the best is as good."""
ADAPTED_SECONDS, ADAPTED_MESSAGES = 0.1, 1000
LOOK_SECONDS = 0.05
"""A policy is asked again after so long, as by a host;"""
RUSH_SECONDS = 0.025
"""and after so long where suddenly far more messages come: half of the time from peek to peek, a window, and what that
was seen to take longer.
"""


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
class Stint:
    """Messages of one block on one way, until the next look."""

    block: int
    way: Way
    messages: int
    seconds: float
    half: int | None = None
    """Of the block, where it is not the whole of one that was measured in halves."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One policy on one trace."""

    policy: str
    stints: tuple[Stint, ...]
    """One after the other; one at least for each block."""
    cost_ns: tuple[float, ...]
    """Of each block, with the switch before it."""
    switches: int
    """That it chose."""
    forced: int
    """That it had to, as the way in use was not possible any more."""
    refused: int = 0
    """Answers that could not be, which a host would not have followed: another way was taken, or that in use."""
    adaptations: tuple[Adaptation, ...] = ()

    @property
    def total_ns(self) -> float:
        return sum(self.cost_ns)

    @property
    def ways(self) -> tuple[Way, ...]:
        """On which each block began."""
        return tuple(next(stints).way for _, stints in groupby(self.stints, attrgetter("block")))

    @property
    def time_to_adapt(self) -> float | None:
        """Seconds, the median; None where nothing had to be adapted to."""
        return median(one.seconds for one in self.adaptations) if self.adaptations else None


def replay(trace: Trace, policy: Policy, name: str, objective: Objective | None = None) -> Replay:
    """What the policy would have done. It sees only what was measured on the way that it is on, and of the network what
    a host would know there.
    """
    wanted = objective or Objective()
    request = Request(trace.blocks[0].facts, objective=wanted)
    current: Way | None = None
    stints, costs, network, looks = [], [], ToldNetwork(), _Looks()
    switches = forced = refused = 0
    behind = 0.0   # seconds that slow ways have taken longer than the blocks they were taken in
    for number, block in enumerate(trace.blocks):
        price = spent = 0.0
        if current is None or request.facts != block.facts or request.ways != block.measured.keys():
            ways = frozenset(block.measured)
            available = frozenset(way.transport for way in ways)
            now = block.at + behind
            request = replace(request, facts=block.facts, ways=ways, available=available, now=now, observation=None)
            if current is None or ruled_out_way(request, current) is not None:
                decision = policy.decide(request)
                possible = decision is not None and decision.way in request.ways
                way = decision.way if decision is not None and possible else min(block.measured)
                refused += not possible
                forced += current is not None
                price = switch_ns(trace.costs, current, way)
                current, request = way, _switched(request, now, way, forced=True)
        done, more = 0, True
        while more:
            look = looks.seconds(block, current, block.at + behind + spent, request.observation)
            stint = _stint(number, block, current, done, spent, look)
            stints.append(stint)
            done, spent = done + stint.messages, spent + stint.seconds
            more = done < block.messages
            price += stint_ns(block, stint, wanted)
            now = block.at + behind + spent
            seen = network.told(block, observed(block, stint), now, current)
            request = replace(request, now=now, observation=seen)
            history, chosen = policy.step(request)
            if not isinstance(history, EdgeHistory) or not isinstance(chosen, Way | None):
                raise TypeError(f"it answered {history!r:.80}, {chosen!r:.80}")
            request = replace(request, history=history)
            if chosen is not None and chosen not in request.ways:
                refused += 1
            elif chosen is not None and chosen != current:
                switches += 1
                price += switch_ns(trace.costs, current, chosen)
                current, request = chosen, _switched(request, now, chosen)
        behind += max(0.0, spent - block.seconds)
        costs.append(price)
    return Replay(name, tuple(stints), tuple(costs), switches, forced, refused)


class _Looks:
    """When a host looks."""

    def __init__(self) -> None:
        self._rushes = Rushes()

    def seconds(self, block: Block, way: Way, now: float, before: Observation | None) -> float:
        """From now to the next time. before: what it has seen in the last window."""
        rate = block.measured[way].rate
        if rate is None or before is None or before.rate is None or not self._rushes.due(now):
            return LOOK_SECONDS
        if rate <= most(before.rate):
            return LOOK_SECONDS
        self._rushes.answer(now)
        return RUSH_SECONDS


def _stint(number: int, block: Block, way: Way, done: int, spent: float, look: float) -> Stint:
    """What comes after `done` messages, which took `spent` seconds, until the next look, after so many seconds. The
    last lasts as long as the block at least: its messages were not there sooner.
    """
    one, left, half = block.measured[way], block.messages - done, None
    if one.halves is not None and (done or _seconds(one, left) > look):
        half = int(done >= middle_of(block))
        one, left = one.halves[half], (block.messages if half else middle_of(block)) - done
    takes = _seconds(one, left)
    parts = takes / look if look < LOOK_SECONDS else ceil(takes / look)   # what is left after a rush comes later
    if parts > 1:
        count = ceil(left / parts)
        return Stint(number, way, count, takes * count / left, half)
    last = done + left >= block.messages
    return Stint(number, way, left, max(takes, block.seconds - spent) if last else takes, half)


def _seconds(one: Measured, messages: int) -> float:
    """How long that many take, where each waits for the one before it."""
    return messages / one.rate if one.rate else 0.0


def middle_of(block: Block) -> int:
    """How many messages are of its first half."""
    return (block.messages + 1) // 2


def _switched(request: Request, now: float, way: Way, *, forced: bool = False) -> Request:
    """forced: the way before is not there any more; how many messages came by it is no measure of the new one."""
    first = request.current is None
    history = request.history if first or request.history is None else request.history.switched(now, way)
    if forced and history is not None:
        history = history._replace(rate_before=None)
    return replace(request, current=way, history=history)


def observed(block: Block, stint: Stint) -> Observation:
    """What the ends would have counted, and the network as it is. Of a receiver on another node nothing is known."""
    one = met(block, stint.way, stint.half)
    seen = Observation(
        stint.messages, block.size, 0.0, seconds=stint.seconds,
        rate=stint.messages / stint.seconds if one.rate is None else one.rate,
        srtt_ns=block.srtt_ns, bytes_per_second=block.bytes_per_second,
    )  # fmt: skip
    if block.facts.locality is Locality.ELSEWHERE:
        return seen
    return replace(
        seen, parked=min(1.0, one.parked), latency_ns=one.latency_ns, burst=block.burst, cpu_ns=one.cpu_ns,
        contention=one.contention, others=block.others if one.others is None else one.others,
    )  # fmt: skip


def met(block: Block, way: Way, half: int | None = None) -> Measured:
    """By the messages of that half of a block on a way; or of all of it."""
    one = block.measured[way]
    return one if half is None or one.halves is None else one.halves[half]


def message_ns(one: Measured, objective: Objective) -> float:
    """What a message costs. A stream's time per message is its latency: nothing else was measured."""
    return (objective.latency + objective.throughput) * one.latency_ns + objective.cpu * (one.cpu_ns or 0.0)


def block_ns(block: Block, way: Way, objective: Objective) -> float:
    """What all messages of a block cost on a way."""
    one, middle = block.measured[way], middle_of(block)
    if one.halves is None:
        return block.messages * message_ns(one, objective)
    parts = zip((middle, block.messages - middle), one.halves, strict=True)
    return sum(count * message_ns(half, objective) for count, half in parts)


def stint_ns(block: Block, stint: Stint, objective: Objective) -> float:
    """What the messages of a stint cost."""
    if stint.messages == block.messages and stint.half is None:
        return block_ns(block, stint.way, objective)
    return stint.messages * message_ns(met(block, stint.way, stint.half), objective)


def with_adaptations(trace: Trace, found: Replay, best: Replay, objective: Objective | None = None) -> Replay:
    """Says how long it took after each change that called for another way. best: of the oracle."""
    wanted, starts = objective or Objective(), [block.at for block in trace.blocks]
    best_ways, ways, changes = best.ways, found.ways, trace.changes
    if changes is None:   # then those that the optimum answered to
        changes = tuple(
            starts[index] for index in range(1, len(starts)) if best_ways[index] != best_ways[index - 1]
        )
    begins = sorted({0, *(bisect_right(starts, change - 1e-9) for change in changes)} - {len(starts)})
    phases = list(zip(begins, [*begins[1:], len(starts)], strict=True))
    answers = []
    for (first, last), (begin, end) in zip(phases[1:], phases, strict=False):
        good = _good_ways(trace.blocks[first:last], wanted) | {_mostly(best, first, last)}
        was_good = _good_ways(trace.blocks[begin:end], wanted) | {_mostly(best, begin, end)}
        if ways[end - 1] in good or not (ways[end - 1] in was_good or was_good.isdisjoint(good)):
            continue   # nothing to be done, or it was not on a good way before either
        stints = [stint for stint in found.stints if first <= stint.block < last]
        answers.append(_answer(trace.blocks[first].at, stints, good))
    return replace(found, adaptations=tuple(answers))


def _mostly(found: Replay, first: int, last: int) -> Way:
    """The way of most messages in these blocks: by chance, an oracle is on others, too."""
    messages: Counter[Way] = Counter()
    for stint in found.stints:
        if first <= stint.block < last:
            messages[stint.way] += stint.messages
    return messages.most_common(1)[0][0]


def _good_ways(blocks: Sequence[Block], objective: Objective) -> set[Way]:
    """On which nearly as little was to be paid as on the best, of those possible all the time."""
    ways = set.intersection(*(set(block.measured) for block in blocks))
    totals = {way: sum(block_ns(block, way, objective) for block in blocks) for way in ways}
    least = min(totals.values(), default=0.0)
    return {way for way, total in totals.items() if total <= GOOD * least}


def _answer(at: float, stints: Iterable[Stint], good: set[Way]) -> Adaptation:
    messages, seconds = 0, 0.0
    for stint in stints:
        if stint.way in good:
            return Adaptation(at, seconds, messages, True)
        messages, seconds = messages + stint.messages, seconds + stint.seconds
    return Adaptation(at, seconds, messages, False)
