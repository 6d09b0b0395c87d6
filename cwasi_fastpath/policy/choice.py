"""The rule by which the cost policy stays or switches."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot
from typing import NamedTuple

from .costs import SIZES
from .history import EdgeHistory
from .model import REGULAR
from .outlook import Outlook, switch_ns
from .trial import Trial, may_try
from .unseen import hope
from .untried import untried, used
from .way import FREE_RING, ONE_CORE, TWO_CORES, Way

_SURER = 1.001
"""Just so much that of two ways that cost the same that is taken of which more is known."""


@dataclass(frozen=True, slots=True)
class Caution:
    """How sure the policy wants to be."""

    gain: float = 0.05
    """The part of the cost that a switch must save at least."""
    margin: float = 3.5
    """Standard deviations of what it saves that this must exceed. As it is asked often, few would be exceeded by
    chance."""
    hope: float = 2.0
    """The same of what a way that was not measured is to save, in those of the way in use alone, for it to be tried."""
    settle: int = 3
    """Windows on a way before it is left again, if nothing else changes."""
    between: float = 2.0
    """Seconds from one trial to the next; four times as long each time."""
    pause: float = 10.0
    """Seconds before a way that it was a mistake to be on is taken again; twice as long each time."""
    rest: float = 0.25
    """The same where others have wanted a core, as they may leave soon."""
    retry: float = 1.0
    """Seconds before a network that was still bad is tried again; twice as long each time,"""
    loss: float = 0.02
    """until such trials cost no more than so much of what messages cost meanwhile;"""
    longer: float = 1.1
    """and then so many times as long."""
    share: float = 0.01
    """Of the time, at most, for trying."""


class Choice(NamedTuple):
    """What the rule says."""

    way: Way
    why: str
    """first, best, new, small, unsure, dear, cheaper, trial, look, mistake."""
    best: Way
    """The cheapest by expectation."""
    saves: float
    """What a message costs less on it, ns."""
    sure: float
    """Within which that is uncertain, ns, one standard deviation."""


class Likely(NamedTuple):
    """What messages cost on the ways of an outlook by all that is known."""

    cost_ns: list[float]
    errors: list[float]
    hoped: int | None = None
    """The way that may cost so little only as nobody has seen what it costs, or not for some time."""


def likely(history: EdgeHistory, outlook: Outlook, now: float, current: Way | None) -> Likely:
    """The model, corrected by what was measured, and what may be where nobody has looked for some time."""
    costs, errors = _corrected(history, outlook, now, current)
    _leave_to_the_kernel(history, outlook, costs, current)
    better = hope(history, outlook, costs, now, current) or untried(history, outlook, costs, now, current)
    if better is None:
        return Likely(costs, errors)
    costs[better.place] *= exp(better.factor)
    errors[better.place] = hypot(errors[better.place], better.factor / 2)
    return Likely(costs, errors, better.place)


def _corrected(
    history: EdgeHistory, outlook: Outlook, now: float, current: Way | None
) -> tuple[list[float], list[float]]:
    if not history.records:
        return list(outlook.cost_ns), [estimate.error for estimate in outlook.estimates]
    costs, errors = [], []
    for way, ns, estimate in zip(outlook.ways, outlook.cost_ns, outlook.estimates, strict=True):
        kind = outlook.kind + len(SIZES) * estimate.level
        factor, deviation = history.corrected(way, kind, estimate.error, now, current)
        costs.append(ns * exp(factor) if factor else ns)
        errors.append(deviation)
    return costs, errors


def _leave_to_the_kernel(history: EdgeHistory, outlook: Outlook, cost_ns: list[float], current: Way | None) -> None:
    """Ends that the kernel places share a core or have two. So until it is seen what that comes to, messages of theirs
    are not expected to cost less than on the better of both; where it is the same, the surer is taken.
    """
    free, one, two = map(outlook.place, (FREE_RING, ONE_CORE, TWO_CORES))
    if free is None or one is None or two is None or current == FREE_RING or used(history, outlook, free):
        return
    cost_ns[free] = max(cost_ns[free], _SURER * min(cost_ns[one], cost_ns[two]))


def owed(history: EdgeHistory, found: Likely, current: int, messages: float) -> tuple[float, ...]:
    """What each way would have saved since the last switch: counted on, and never less than nothing."""
    before = history.owed if len(history.owed) == len(found.cost_ns) else (0.0,) * len(found.cost_ns)
    here = found.cost_ns[current]
    return tuple([
        total if (total := debt + (here - ns) * messages) > 0.0 else 0.0
        for debt, ns in zip(before, found.cost_ns, strict=True)
    ])


def choose(
    caution: Caution, history: EdgeHistory, outlook: Outlook, found: Likely, now: float, current: Way | None
) -> Choice:
    """The way to be on. The outlook has one at least."""
    ways, costs = outlook.ways, found.cost_ns
    here = outlook.place(current)
    barred = [way for way in ways if history.bars(way, now)] if history.trials else []
    able = [index for index in range(len(ways)) if ways[index] not in barred] or list(range(len(ways)))
    best = min(able, key=costs.__getitem__)
    if current is None or here is None:
        return Choice(ways[best], "first", ways[best], 0.0, 0.0)
    if here not in able:
        return Choice(ways[best], "mistake", ways[best], 0.0, 0.0)
    if best == here:
        return Choice(current, "best", current, 0.0, 0.0)
    saves, sure = _saves(found, here, best)
    looks = _looks(caution, history, current, now)
    if history.switches and history.windows < caution.settle and not looks and not history.changed_since():
        return Choice(current, "new", ways[best], saves, sure)
    rate = outlook.conditions.rate
    chosen, why = here, "small"
    most = 0.0
    for index in able:
        way = ways[index]
        gain = costs[here] - costs[index]
        if gain <= caution.gain * costs[here]:
            continue
        debt = history.owed[index] if index < len(history.owed) else 0.0
        price = switch_ns(outlook.costs, current, way)
        worth = gain * rate * history.span + debt - price
        # Who has only looked goes back to where it was known to be better.
        certain = index != found.hoped and (looks or gain > caution.margin * _saves(found, here, index)[1])
        known = caution.hope * costs[here] * found.errors[here]
        if not certain and (gain <= known or not may_try(history, way, now)):
            why = "unsure" if chosen == here else why
        elif worth <= (0.0 if certain else price):
            why = "dear" if chosen == here else why
        elif worth > most:
            chosen, most, why = index, worth, "look" if index == found.hoped else "cheaper" if certain else "trial"
    if history.idle and chosen != here:   # the ways are not compared in such a window
        chosen, why = here, "small"
    return Choice(ways[chosen], why, ways[best], saves, sure)


def _saves(found: Likely, here: int, there: int) -> tuple[float, float]:
    """What a message costs less there, and the standard deviation of that."""
    a, b = found.cost_ns[here] * found.errors[here], found.cost_ns[there] * found.errors[there]
    return found.cost_ns[here] - found.cost_ns[there], (a * a + b * b) ** 0.5


def _looks(caution: Caution, history: EdgeHistory, current: Way, now: float) -> bool:
    """Whether the way in use was taken only just, to see how it is."""
    just = history.windows < caution.settle or now - (history.since or 0.0) < caution.retry
    return just and history.looks(current, now)


def looked(
    caution: Caution, history: EdgeHistory, outlook: Outlook, way: Way, current: Way | None, now: float, window: float
) -> EdgeHistory:
    """A way, or a network, of which nothing was seen is tried now, to see how it is."""
    last = next((trial for trial in history.trials if trial.way == way and trial.brief), None)
    pause = max(caution.retry, caution.settle * window)
    if last is not None and history.since is not None and history.since <= last.again:   # it was left at once
        bearable = _bearable(caution, outlook, way, current, window)
        pause = min(3600.0, max(pause, caution.longer * last.pause, min(2 * last.pause, bearable)))
    others = tuple(trial for trial in history.trials if trial is not last)
    return history._replace(trials=(*others, Trial(way, now + pause, pause, brief=True)), trying=way)


def _bearable(caution: Caution, outlook: Outlook, way: Way, current: Way | None, window: float) -> float:
    """Seconds from one such trial in vain to the next with which these cost little of what messages do."""
    index, back = outlook.place(way), outlook.place(current)
    assert index is not None and current is not None and back is not None
    there, here = outlook.cost_ns[index], max(1.0, outlook.cost_ns[back])
    rate = max(1e-9, outlook.conditions.rate)
    met = window * rate * (min(1.0, here / there) if outlook.conditions.burst < REGULAR else 1.0)
    switches = switch_ns(outlook.costs, current, way) + switch_ns(outlook.costs, way, current)
    return (met * max(0.0, there - here) + switches) / (caution.loss * here * rate)


def barred(
    caution: Caution, history: EdgeHistory, way: Way, now: float, window: float, *, crowded: bool = False
) -> EdgeHistory:
    """It was a mistake to be on a way. crowded: because of others on its cores."""
    least = caution.rest if crowded else max(caution.pause, caution.settle * window / caution.share)
    last = next((trial for trial in history.trials if trial.way == way and trial.barred), None)
    pause = least if last is None else min(3600.0, max(least, 2 * last.pause))
    others = tuple(trial for trial in history.trials if trial is not last)
    return history._replace(
        trials=(*others, Trial(way, now + pause, pause, barred=True, under=history.held)), trying=None
    )
