"""The default policy: the least cost by the model and by what was measured, with reluctance to switch."""

from __future__ import annotations

from math import isfinite, log

from ..metrics import Observation, sane
from ..modes import Locality, mode_of
from .choice import Caution, Choice, barred, choose, likely, looked, owed
from .costs import Costs
from .credible import credible
from .decision import Decision, Policy, Request, ruled_out_way
from .explanation import basis_of, explained, lacks, reason_of
from .history import UNEASY, EdgeHistory, alike
from .model import REGULAR, Conditions, crowded, estimate, wanted_by_others
from .outlook import Outlook, look, measured_ns, switch_ns
from .trial import tried
from .way import Cores, Way

_PATIENCE = {"best": 9, "small": 9, "unsure": 2, "dear": 2}
"""Windows in which the ways need not be compared where nothing changes, by what the last comparison came to;"""
_MOST_PATIENT = 39
"""twice as many each time that it comes to the best again, up to so many, unless time alone may change that."""
_STRIKING = 0.5
"""Of log(measured / predicted): what noise does not make."""
_LASTING, _OVERWHELMING = 3, 10.0
"""Windows in a row in which the ends wait for their cores until that counts, as any condition that one odd window does
not change; and how many times longer than expected messages take where a single one is enough."""
_UNTIMED_NS = 1e6
"""What a message takes at most, where none was timed: of few messages none may be."""
_BUSY = 0.25
"""Of the time, that messages and answers to them take where each waits for the one before it."""


class CostPolicy(Policy):
    """Of what the constraints leave, the way on which a message costs least.

    Switches only where that saves more than the switch takes, more than it is uncertain, and more than a few percent;
    sees where costs or conditions change, and tries a way that it is not sure of only for a small part of the time.
    """

    def __init__(self, costs: Costs, caution: Caution | None = None) -> None:
        self.costs = credible(costs)
        self.caution = caution or Caution()

    def decide(self, request: Request) -> Decision | None:
        """Deterministic given its input; None where every way is ruled out."""
        history = request.history or EdgeHistory()
        seen = None if request.observation is None else sane(request.observation)
        conditions = history.held or _conditions(request, seen)
        outlook = look(self.costs, request, conditions, history.outlook)
        if not outlook.ways:
            return None
        now = request.now if isfinite(request.now) else history.observed_at or 0.0
        found = likely(history, outlook, now, request.current)
        choice = choose(self.caution, history, outlook, found, now, request.current)
        predictions = explained(request, outlook, found)
        chosen = next(one for one in predictions if one.way == choice.way)
        basis = basis_of(request, history, now)
        return Decision(
            mode=mode_of(choice.way.transport, request.facts.locality),
            transport=choice.way.transport,
            reason=reason_of(request, choice, chosen, basis, alone=len(outlook.ways) == 1),
            alternatives=tuple(str(one) for one in predictions if one.way != choice.way),
            cores=choice.way.cores,
            predictions=predictions,
            basis=basis,
            lacked=(*request.lacked, *lacks(request, history)),
        )

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        """See Policy.step. Where the observation makes no sense, or there is none, the last choice holds."""
        old = request.history or EdgeHistory()
        seen = None if request.observation is None else sane(request.observation)
        if seen is None or not seen.messages or not isfinite(request.now):
            if request.current is not None and ruled_out_way(request, request.current) is None:
                return old, request.current
            history, outlook = old, look(self.costs, request, old.held or _conditions(request, None), old.outlook)
        elif (as_before := self._as_before(request, old, seen)) is not None:
            if old.idle < old.patience:
                return as_before, request.current
            assert old.outlook is not None
            history, outlook = as_before, old.outlook
        else:
            history, outlook = self._learnt(request, old, seen)
            history, mistaken = history.proved()
            if mistaken and request.current is not None and not request.objective.cpu:
                gap = 0.0 if old.observed_at is None else max(0.0, request.now - old.observed_at)
                felt = history.crowded > 0
                history = barred(self.caution, history, request.current, request.now, gap, crowded=felt)
            elif history.idle and old.idle < old.patience:
                return history, request.current
        if not outlook.ways:
            return history, None
        choice, history = self._chosen(request, history, outlook)
        window = 0.0 if old.observed_at is None else max(0.0, request.now - old.observed_at)
        if choice.why == "trial":
            history = tried(self.caution, history, choice.way, request.now, window)
        elif choice.why == "look":
            history = looked(self.caution, history, outlook, choice.way, request.current, request.now, window)
        return history, choice.way

    def _as_before(self, request: Request, old: EdgeHistory, seen: Observation) -> EdgeHistory | None:
        """The history with one more window where that is like those before, which is the rule. None where there may be
        something new: _learnt() would say the same, and does say what is new.
        """
        held, outlook, current, now = old.held, old.outlook, request.current, request.now
        if (
            held is None
            or held is not old.previous
            or outlook is None
            or not outlook.holds(self.costs, request, held)
            or old.rate_before
            or old.observed_at is None
            or now < old.observed_at
        ):
            return None
        raw, crowded_windows = self._felt(request, old, seen)
        if crowded_windows != old.crowded or not alike(raw, held):
            return None
        index = outlook.place(current)
        if current is None or index is None:
            return None
        measured = measured_ns(request.objective, seen, outlook.estimates[index], current.transport)
        return old.went_on(now, seen, current, outlook.kind_at(index), measured, outlook.cost_ns[index])

    def _felt(self, request: Request, old: EdgeHistory, seen: Observation) -> tuple[Conditions, int]:
        """The conditions of a window, and in how many windows in a row the ends have waited for their cores by now.

        Who waits for one of two cores knows at once that others want it; what these are seen to do is an average. But
        that somebody had one for once says nothing: it is to last, or messages are to take very much longer.
        """
        held = old.held
        raw = _conditions(request, seen, held, old.gone(request.now), proved=not old.rate_before)
        if held is None or raw.way is None or raw.way.cores is not Cores.TWO:
            return raw, 0
        waited = seen.contention
        if not waited or not crowded(waited):
            return raw, 0
        expected = estimate(self.costs, raw.way, held).latency
        if old.crowded + 1 < _LASTING and (seen.latency_ns or 0.0) < _OVERWHELMING * expected:
            return raw._replace(contention=held.contention, apart=held.apart), old.crowded + 1
        others = max(seen.others or 0.0, wanted_by_others(self.costs, waited))
        return raw._replace(others=others), old.crowded + 1

    def _learnt(self, request: Request, old: EdgeHistory, seen: Observation) -> tuple[EdgeHistory, Outlook]:
        now, current = request.now, request.current
        if old.observed_at is not None and now < old.observed_at:
            old = old.rebased(now - old.observed_at)
        raw, crowded_windows = self._felt(request, old, seen)
        if old.held is not None and old.previous is old.held and alike(raw, old.held):
            history = old   # as a rule; met() would say the same
        else:
            history = old.met(now, raw, self._believes(request, old, raw, seen))
        assert history.held is not None
        outlook = look(self.costs, request, history.held, old.outlook)
        index = outlook.place(current)
        if current is not None and index is not None:
            measured = measured_ns(request.objective, seen, outlook.estimates[index], current.transport)
            if measured is not None:
                level = outlook.estimates[index].level
                history = history.measured(now, current, measured, outlook.cost_ns[index], level)
        idle = old.idle + 1 if _nothing_new(old, history, outlook) else 0
        history = history._replace(
            observation=seen, observed_at=now, windows=old.windows + 1, outlook=outlook, trying=None, idle=idle,
            unpaid=old.unpaid + seen.messages, crowded=crowded_windows,
        )  # fmt: skip
        return history, outlook

    def _believes(self, request: Request, old: EdgeHistory, raw: Conditions, seen: Observation) -> bool:
        """Whether conditions that were seen in one window only are acted on at once: where they explain what was
        measured, and those that were held do not; or where what was counted (size, rate, and whether messages follow
        each other) makes another way so much cheaper that a single window pays for the switch, and for that back.
        """
        held, way = old.held, raw.way
        if held is None or way is None:
            return False
        if alike(raw, held):
            return False
        if seen.latency_ns is not None:
            before, now = (estimate(self.costs, way, one).latency for one in (held, raw))
            off = log(max(1.0, seen.latency_ns) / max(1.0, before))
            if abs(off) > _STRIKING and abs(log(max(1.0, seen.latency_ns) / max(1.0, now))) < abs(off) / 2:
                return True
        if not alike(raw, held._replace(size=raw.size, rate=raw.rate, parked=raw.parked, burst=raw.burst)):
            return False
        outlook = look(self.costs, request, raw, old.outlook)
        place = outlook.place(way)
        if place is None:
            return False
        found = likely(old, outlook, request.now, way)
        here = found.cost_ns[place]
        return any(
            (here - ns) * (1 - 2 * error) * seen.messages > 2 * switch_ns(self.costs, way, other)
            for other, ns, error in zip(outlook.ways, found.cost_ns, found.errors, strict=True)
        )

    def _chosen(self, request: Request, history: EdgeHistory, outlook: Outlook) -> tuple[Choice, EdgeHistory]:
        now, current = request.now, request.current
        found = likely(history, outlook, now, current)
        here = outlook.place(current)
        debts = history.owed if here is None else owed(history, found, here, history.unpaid)
        again = history.idle > history.patience and not (outlook.conditions.far or history.awaits(now))
        history = history.compared(debts)
        choice = choose(self.caution, history, outlook, found, now, current)
        patience = _PATIENCE.get(choice.why, 0)
        if again and choice.why == "best":
            patience = min(_MOST_PATIENT, max(patience, 2 * history.patience + 1))
        return choice, history if patience == history.patience else history._replace(patience=patience)


def _nothing_new(old: EdgeHistory, new: EdgeHistory, outlook: Outlook) -> bool:
    """Whether the ways need not be compared again if they were not long ago: nothing has changed since."""
    return (
        outlook is old.outlook
        and new.shaken == old.shaken
        and new.up < UNEASY
        and new.down < UNEASY
    )


def _conditions(
    request: Request,
    observation: Observation | None,
    held: Conditions | None = None,
    gone: float = 0.0,
    *,
    proved: bool = True,
) -> Conditions:
    """proved: the way in use is known to be no slower than that before it: see EdgeHistory.proved()."""
    far = request.facts.locality is Locality.ELSEWHERE
    found = Conditions.of(observation, request.current, request.receivers, far, held, gone)
    if found.burst >= REGULAR or observation is None:
        return found
    # There and back, and not much else; where there is, it is not the way that their number follows.
    under_way = 2e-9 * (_UNTIMED_NS if observation.latency_ns is None else observation.latency_ns) * found.rate
    if observation.contention is not None and found.contention is not None and observation.cpu_ns is not None:
        # Few messages come where the ends wait for a core, and those of them that were timed may not have.
        waited = found.contention / max(1.0 - found.contention, 1e-3)
        under_way = max(under_way, 1e-9 * observation.cpu_ns * found.rate * waited)
    elif not proved:
        return found
    return found if under_way >= _BUSY else found._replace(burst=1.0)
