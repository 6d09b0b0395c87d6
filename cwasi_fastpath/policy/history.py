"""What is remembered of an edge from one decision to the next: a pure reducer, in which times are arguments.

Three questions are answered from it. Under which conditions does the edge run now: of each figure the median of what
was held before, the last window and this one, so that one odd window changes nothing. How does what was measured on a
way compare with the model: the mean and the variance of log(measured / predicted), for each way and each kind of
conditions. And has something changed: Page's cumulative sums of how far that lies from its mean (E. S. Page,
"Continuous inspection schemes", 1954).
"""

from __future__ import annotations

from math import exp, isfinite, log, sqrt
from typing import TYPE_CHECKING, NamedTuple

from ..metrics import Observation, sane
from .costs import SIZES
from .model import LEVELS, REGULAR, Conditions
from .way import Way

if TYPE_CHECKING:
    from .outlook import Outlook
    from .trial import Trial

FADES_SECONDS = 600.0
"""What was measured counts for 1 / e of what it did after so long."""
SPAN_SECONDS = 30.0
"""How long things are expected to stay as they are, before it was seen how long they do; and at most."""
_SHORTEST_SPAN = 0.05
_ALARM, _SLACK, _FARTHEST = 8.0, 1.0, 4.0
"""Of the sums: when they mean a change, what belongs to none, what counts of one window; in standard deviations. So it
takes three windows in a row: one that is late for a reason of its own is no change."""
UNEASY = 4.0
"""Of the sums: when the ways are compared all the same."""
_LEARNT = 4
"""Windows before a change can be told."""
_MEMORY = 50
"""Windows that the mean is of, about."""
_LARGEST_RATIO = 12.0
_FLOOR = 0.03
"""A standard deviation of log(measured / predicted) that is less is not believed."""
_WORST = 0.25
"""What few messages that take very long make uncertain, at most: it is they who are to be left."""
_PRIOR = 20.0
"""Windows that what the model says counts for, at most, on a way on which some were measured."""
_FIRST = 0.1
_SHAKEN = 0.15
"""What a change of the costs adds to the standard deviation of what was measured before it."""
_RECOVERS_SECONDS = 1.0
"""After so long a way on which messages took longer for no reason is as likely as not to be as it was before."""
_WOKEN_NS = 30_000.0
"""A wake that takes longer by less than this is as any other."""
_FEWER, _COLLAPSED, _SURE, _PROBATION = 0.5, 0.1, 2, 5
"""A switch after which less than so much of the messages a second come was a mistake; with less than the second even
if that was seen once; else in so many windows in a row, of that many after the switch."""
_SELDOM, _LARGE = 5000.0, 65536.0
"""Messages a second, and bytes: fewer of smaller ones find everybody asleep."""
_COMMON = 0.3
"""What of the error on the way in use may be that of the whole machine, at most, and so of ways not seen, too."""


class Record(NamedTuple):
    """What was measured on one way under one kind of conditions, against the model."""

    way: Way
    kind: int
    mean: float
    """Of log(measured / predicted)."""
    variance: float
    windows: int
    seen: float
    """When, last, seconds."""
    factor: float
    """The mean of measured / predicted itself: where few messages take very long, these are what counts."""
    spread: float
    """Its variance."""


class Fall(NamedTuple):
    """A way on which messages take longer than they did, for no reason that was seen."""

    way: Way
    kind: int
    mean: float
    """Of log(measured / predicted), before."""


class EdgeHistory(NamedTuple):
    """Of one edge. EdgeHistory() is that of a new one."""

    since: float | None = None
    """When the way in use was taken, seconds; None before the first switch."""
    switches: int = 0
    held: Conditions | None = None
    """Those that a decision is for."""
    previous: Conditions | None = None
    """Of the last window alone."""
    anchor: Conditions | None = None
    """Those at the last change."""
    changed: float | None = None
    """When something changed."""
    shaken: float | None = None
    """When the costs did, and not the conditions."""
    span: float = SPAN_SECONDS
    """How long it takes from one change to the next."""
    falls: tuple[Fall, ...] = ()
    trials: tuple[Trial, ...] = ()
    rate_before: float | None = None
    """Messages a second on the way that the last switch left, where each waited for an answer; None once the way in use
    has proved itself."""
    fewer: int = 0
    """Windows in a row with far fewer."""
    crowded: int = 0
    """Windows in a row in which the ends have waited for their cores."""
    outlook: Outlook | None = None
    """What the model said last."""
    owed: tuple[float, ...] = ()
    """What each way of the outlook would have saved so far, ns; never less than nothing."""
    patience: int = 0
    """For so many windows the ways need not be compared again, as long as nothing happens."""
    # What follows is new with each window, see went_on().
    observation: Observation | None = None
    """The last that made sense."""
    observed_at: float | None = None
    windows: int = 0
    """Since the last switch, that made sense."""
    trying: Way | None = None
    """What was decided to be tried at the last window."""
    idle: int = 0
    """Windows since the ways were compared, in which nothing has happened."""
    unpaid: int = 0
    """The messages of these."""
    records: tuple[Record, ...] = ()
    up: float = 0.0
    down: float = 0.0
    """The cumulative sums."""
    run: float = 0.0
    """The sum of log(measured / predicted) since one of them rose,"""
    runs: int = 0
    """in so many windows."""

    def observed(
        self, now: float, observation: Observation | None, predicted_ns: float | None, way: Way | None = None
    ) -> EdgeHistory:
        """With one more window. predicted_ns: what the model says to it on the way in use, `way`, if known."""
        seen = None if observation is None or not isfinite(now) else sane(observation)
        if seen is None or seen.messages == 0:
            return self
        new = self.met(now, Conditions.of(seen, way, held=self.held, gone=self.gone(now)))
        new = new._replace(observation=seen, observed_at=now, windows=self.windows + 1)
        if way is None or predicted_ns is None or seen.latency_ns is None:
            return new
        return new.measured(now, way, seen.latency_ns, predicted_ns)

    def rebased(self, by: float) -> EdgeHistory:
        """For a clock that has jumped: all times moved."""
        return self._replace(
            since=None if self.since is None else self.since + by,
            observed_at=None if self.observed_at is None else self.observed_at + by,
            changed=None if self.changed is None else self.changed + by,
            shaken=None if self.shaken is None else self.shaken + by,
            records=tuple(record._replace(seen=record.seen + by) for record in self.records),
            trials=tuple(trial._replace(again=trial.again + by) for trial in self.trials),
        )

    def met(self, now: float, raw: Conditions, sure: bool = False) -> EdgeHistory:
        """With the conditions of one more window. sure: they have come to stay, as what was measured fits them."""
        held, previous = self.held, self.previous
        if held is None or previous is None:
            return self._replace(held=raw, previous=raw, anchor=raw, changed=now)
        if alike(raw, held):
            return self if previous is held else self._replace(previous=held)
        held = raw if sure else _median(held, previous, raw)
        if not differ(held, self.anchor or held):
            return self._replace(held=held, previous=raw)
        return self._replace(held=held, previous=raw).change(now)

    def gone(self, now: float) -> float:
        """Seconds since the last window."""
        return now - self.observed_at if self.observed_at is not None and now > self.observed_at else 0.0

    def change(self, now: float) -> EdgeHistory:
        """Something has changed now."""
        span = self.span
        if self.changed is not None:
            lasted = max(0.0, now - self.changed)
            span = min(SPAN_SECONDS, max(_SHORTEST_SPAN, (span + lasted) / 2))
        return self._replace(changed=now, anchor=self.held, span=span)

    def measured(self, now: float, way: Way, measured_ns: float, predicted_ns: float, level: int = 0) -> EdgeHistory:
        """With one more measurement of what a message costs on the way in use. level: how crowded the cores are."""
        if self.held is None:
            return self
        ratio, kind = _ratio(measured_ns, predicted_ns), kind_of(self.held, level)
        index = _find(self.records, way, kind)
        if index is None:
            record = _first(way, kind, ratio, _FIRST * _FIRST, 1, now)
            return self._replace(records=(*self.records, record), up=0.0, down=0.0)
        if self.previous is not self.held:
            return self   # whether these conditions stay is not known yet
        old = self.records[index]
        far, deviation = _off(old, ratio)
        up, down, run, runs = self._sums(old, ratio, far)
        if up > _ALARM or down > _ALARM:
            record = _first(way, kind, run / runs, max(old.variance, _FIRST * _FIRST), runs, now)
            falls = tuple(fall for fall in self.falls if (fall.way, fall.kind) != (way, kind))
            if up > _ALARM:
                falls = (*falls, Fall(way, kind, old.mean))
            new = self._replace(
                records=_put(self.records, index, record), up=0.0, down=0.0, run=0.0, runs=0, shaken=now, falls=falls
            )
            return new.change(now)
        record = _weighed(old, ratio, far * deviation, now)
        return self._replace(records=_put(self.records, index, record), up=up, down=down, run=run, runs=runs)

    def went_on(
        self, now: float, seen: Observation, way: Way, kind: int, measured_ns: float | None, predicted_ns: float
    ) -> EdgeHistory | None:
        """With one more window in which nothing new was to be seen; None if there was, in what was measured.

        The same as measured() and what follows it, for the windows that come most often.
        """
        records, up, down, run, runs = self.records, self.up, self.down, self.run, self.runs
        if measured_ns is not None:
            index = _find(records, way, kind)
            if index is None:
                return None
            old, ratio = records[index], _ratio(measured_ns, predicted_ns)
            far, deviation = _off(old, ratio)
            if up or down or not -_SLACK <= far <= _SLACK:
                up, down, run, runs = self._sums(old, ratio, far)
            else:   # as a rule; _sums() would say the same
                run, runs = 0.0, 0
            record = _weighed(old, ratio, far * deviation, now)
            records = (record,) if len(records) == 1 else _put(records, index, record)
        if not (up < UNEASY and down < UNEASY):
            return None   # or more has happened
        new = (
            seen, now, self.windows + 1, None, self.idle + 1, self.unpaid + seen.messages, records, up, down, run, runs,
        )  # fmt: skip
        return tuple.__new__(EdgeHistory, self[:_STILL] + new)

    def compared(self, owed: tuple[float, ...]) -> EdgeHistory:
        """After the ways were compared: what each would have saved up to now."""
        new = (
            owed, self.patience, self.observation, self.observed_at, self.windows, self.trying, 0, 0, *self[_RECORDS:],
        )  # fmt: skip
        return tuple.__new__(EdgeHistory, self[:_OWED] + new)

    def _sums(self, record: Record, ratio: float, far: float) -> tuple[float, float, float, int]:
        """up, down, run and runs with one more window, `far` standard deviations from the mean of the record."""
        if record.windows < _LEARNT:
            return 0.0, 0.0, 0.0, 0
        up = _risen(self.up, far) if far > 0.0 else 0.0
        down = _risen(self.down, -far) if far < 0.0 else 0.0
        return (up, down, self.run + ratio, self.runs + 1) if up or down else (0.0, 0.0, 0.0, 0)

    def switched(self, now: float, way: Way) -> EdgeHistory:
        """After a switch to `way`."""
        held = self.held
        follows = held is not None and held.burst < REGULAR and held.way is not None and not self.bars(held.way, now)
        return self._replace(
            since=now if isfinite(now) else self.observed_at, switches=self.switches + 1, windows=0, up=0.0, down=0.0,
            owed=(), patience=0, rate_before=held.rate if held is not None and follows else None, fewer=0,
        )  # fmt: skip

    def changed_since(self) -> bool:
        """Whether something has changed since the last switch."""
        return self.changed is not None and self.since is not None and self.changed > self.since

    def bars(self, way: Way | None, now: float) -> bool:
        """Whether the last switch to it was a mistake, not long ago."""
        return any(trial.barred and trial.way == way and trial.stands(self.held, now) for trial in self.trials)

    def awaits(self, now: float) -> bool:
        """Whether a way may be better soon without anything that is seen: one that got worse for no reason, or one that
        is not to be tried yet.
        """
        return bool(self.falls) or any(trial.again > now and not trial.plain for trial in self.trials)

    def looks(self, way: Way | None, now: float) -> bool:
        """Whether it was tried just now, to see how it is by now."""
        return any(trial.brief and trial.way == way and now < trial.again for trial in self.trials)

    def proved(self) -> tuple[EdgeHistory, bool]:
        """With one more window on the way in use; and whether the switch to it was a mistake.

        Where messages wait for a core few come, and what those took that came says little; but where each waits for an
        answer to the one before, it shows in how many there are.
        """
        held, before = self.held, self.rate_before
        if held is None or not before:
            return self, False
        if held.burst >= REGULAR or self.windows > _PROBATION:
            return self._replace(rate_before=None), False
        share = (held.rate if self.previous is None else self.previous.rate) / before
        if share >= 1.0:   # fewer later are for another reason
            return self._replace(rate_before=None), False
        fewer = self.fewer + 1 if share < _FEWER else 0
        if fewer >= _SURE or share < _COLLAPSED:
            return self._replace(rate_before=None), True
        return self._replace(fewer=fewer), False

    def corrected(self, way: Way, kind: int, error: float, now: float, current: Way | None) -> tuple[float, float]:
        """How much more, as a logarithm, a message costs on this way than the model says, and its standard deviation.

        kind: of the conditions. error: of the model.
        """
        likely, found = 0.0, None
        for record in self.records:
            its = record.way
            if its is way or its == way:
                if record.kind == kind:
                    found = record
                    break
                if record.kind // len(SIZES) == kind // len(SIZES):
                    likely = record.mean / 2
            elif record.kind == kind and not likely and (its is current or its == current):
                likely = _clamped(record.mean / 2, _COMMON)
        if found is None:
            return likely, error
        weight = exp((found.seen - now) / FADES_SECONDS) if found.seen < now else 1.0
        noise = max(found.spread / (found.factor * found.factor), _FLOOR * _FLOOR)
        own = noise / found.windows
        # Where windows differ more from each other than the model may be wrong, it is to be heard, too.
        prior = min(_PRIOR, max(0.0, noise / max(error * error, _FLOOR * _FLOOR) - 1))
        weight *= found.windows / (found.windows + prior)
        variance = weight * min(own, _WORST * _WORST) + (1 - weight) * error * error
        if self.shaken is not None and found.seen < self.shaken:
            variance += _SHAKEN * _SHAKEN
        factor = weight * log(found.factor) + (1 - weight) * likely
        if self.falls and way != current:
            for fall in self.falls:
                if fall.way == way and fall.kind == kind:   # what came for no reason may be gone
                    gone = (1 - exp(min(0.0, found.seen - now) / _RECOVERS_SECONDS)) * (fall.mean - factor)
                    factor, variance = factor + gone, variance + gone * gone / 4
        return factor, sqrt(variance)


_OWED, _STILL, _RECORDS = map(EdgeHistory._fields.index, ("owed", "observation", "records"))
"""The fields before the second stay as they are where nothing is new."""


# What follows is asked for with each window of each edge: calls, of max() and min() too, take longer than what they do.
# tuple.__new__() makes a named tuple without the function in Python that its class has for that.


def _ratio(measured_ns: float, predicted_ns: float) -> float:
    ratio = log((measured_ns if measured_ns > 1.0 else 1.0) / (predicted_ns if predicted_ns > 1.0 else 1.0))
    return ratio if -_LARGEST_RATIO <= ratio <= _LARGEST_RATIO else _clamped(ratio, _LARGEST_RATIO)


def _clamped(value: float, most: float) -> float:
    """At most so much, above and below 0."""
    if value > most:
        return most
    return value if value > -most else -most


def _off(record: Record, ratio: float) -> tuple[float, float]:
    """How far it is from the mean, in standard deviations, bounded; and what such a one is."""
    deviation = sqrt(record.variance) if record.variance > _FLOOR * _FLOOR else _FLOOR
    far = (ratio - record.mean) / deviation
    return far if -_FARTHEST <= far <= _FARTHEST else _clamped(far, _FARTHEST), deviation


def _weighed(old: Record, ratio: float, off: float, now: float) -> Record:
    """With one more window, which lies `off` the mean, bounded."""
    way, kind, mean, variance, windows, _seen, factor, spread = old
    if windows < _MEMORY:
        windows += 1
        share = 1 / windows
    else:
        windows, share = _MEMORY, 1 / _MEMORY
    beyond = exp(ratio) - factor
    return tuple.__new__(Record, (
        way,
        kind,
        mean + share * off,
        (1 - share) * (variance + share * off * off),
        windows,
        now,
        factor + share * beyond,
        (1 - share) * (spread + share * beyond * beyond),
    ))  # fmt: skip


def _first(way: Way, kind: int, mean: float, variance: float, windows: int, now: float) -> Record:
    factor = exp(mean)
    return Record(way, kind, mean, variance, windows, now, factor, variance * factor * factor)


def _risen(total: float, far: float) -> float:
    """A cumulative sum; a window on the other side of the mean ends it."""
    total = total + far - _SLACK
    return total if total > 0.0 else 0.0


def kind_of(conditions: Conditions, level: int = 0) -> int:
    """Conditions under which the model may be equally wrong: a class of size, how crowded the cores are, and whether
    messages are small and come so seldom that cores and receivers sleep in the meantime.
    """
    kind = 0
    while kind < len(SIZES) - 1 and conditions.size > SIZES[kind] * 4:
        kind += 1
    if 0.0 < conditions.rate < _SELDOM and conditions.size < _LARGE and conditions.burst >= REGULAR:
        level += LEVELS
    return len(SIZES) * level + kind


def alike(one: Conditions, other: Conditions) -> bool:
    """Whether the model would say about the same."""
    # Taken apart once, as this is asked often.
    size, parked, rate, burst, others, contention, apart, srtt, network, way, receivers, far, woken = one
    size0, parked0, rate0, burst0, others0, contention0, apart0, srtt0, network0, way0, receivers0, far0, woken0 = other
    return (
        (way is way0 or way == way0) and receivers == receivers0 and far == far0
        and abs(size - size0) <= 0.05 * size0 + 8
        and (abs(rate - rate0) <= 0.2 * rate0 or _follows(one, other))
        and abs(parked - parked0) <= 0.1
        and abs((contention or 0.0) - (contention0 or 0.0)) <= 0.1
        and (apart is None) is (apart0 is None)
        and abs((apart or 0.0) - (apart0 or 0.0)) <= 0.1
        and abs((others or 0.0) - (others0 or 0.0)) <= 0.15
        and (srtt is None) is (srtt0 is None)
        and (srtt is None or srtt0 is None or abs(srtt - srtt0) <= 0.15 * srtt0)
        and (network is None) is (network0 is None)
        and (network is None or network0 is None or abs(network - network0) <= 0.15 * network0)
        and abs(burst - burst0) <= 0.5 * burst0 + 0.25
        and (woken is None) is (woken0 is None)
        and abs((woken or 0.0) - (woken0 or 0.0)) <= 0.5 * (woken0 or 0.0) + _WOKEN_NS
    )  # fmt: skip


def differ(one: Conditions, other: Conditions) -> bool:
    """Whether that is a change, and not the ups and downs of one state."""
    return (
        one[10:12] != other[10:12]   # receivers, far
        or _times(one.size, other.size) > 2
        or (_times(one.rate, other.rate) > 2 and not _follows(one, other))
        or abs((one.others or 0.0) - (other.others or 0.0)) > 0.5
        or _times(one.srtt, other.srtt) > 2
        or _times(one.network, other.network) > 2
    )


def _follows(one: Conditions, other: Conditions) -> bool:
    """Where each message waits for the one before it, the rate is no condition: it is what a message takes."""
    return one.burst < REGULAR and other.burst < REGULAR


def _times(one: float | None, other: float | None) -> float:
    low, high = sorted((max(1.0, one or 0.0), max(1.0, other or 0.0)))
    return high / low


def _median(held: Conditions, previous: Conditions, raw: Conditions) -> Conditions:
    """Of each figure, so that what one window alone says changes nothing; what was not known before is taken."""
    if held[9:12] != raw[9:12]:
        return raw
    return Conditions(
        size=_middle(held.size, previous.size, raw.size),
        parked=_middle(held.parked, previous.parked, raw.parked),
        rate=_middle(held.rate, previous.rate, raw.rate),
        burst=_middle(held.burst, previous.burst, raw.burst),
        others=_known(held.others, previous.others, raw.others),
        contention=_known(held.contention, previous.contention, raw.contention),
        apart=_known(held.apart, previous.apart, raw.apart),
        srtt=_known(held.srtt, previous.srtt, raw.srtt),
        network=_known(held.network, previous.network, raw.network),
        way=raw.way,
        receivers=raw.receivers,
        far=raw.far,
        woken=_known(held.woken, previous.woken, raw.woken),
    )


def _middle(a: float, b: float, c: float) -> float:
    return max(min(a, b), min(max(a, b), c))


def _known(a: float | None, b: float | None, c: float | None) -> float | None:
    return c if a is None or b is None or c is None else _middle(a, b, c)


def _find(records: tuple[Record, ...], way: Way, kind: int) -> int | None:
    for index, record in enumerate(records):
        if record.kind == kind and (record.way is way or record.way == way):
            return index
    return None


def _put(records: tuple[Record, ...], index: int, record: Record) -> tuple[Record, ...]:
    return (*records[:index], record, *records[index + 1 :])
