"""What a tracer tells a steward of functions, as long as that is new and makes sense; and what it adds to an
observation.

The tracer counts in sums: what came between two answers is what a policy is told, for one message by how many came in a
second. Nobody waits for a tracer, and nothing of it is on the path of a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from . import attribution
from .channel import Channel
from .figures import Figures, Spent
from .kept import functions_of
from .metrics import Observation
from .modes import Transport
from .spanned import SpannedChannel
from .tally import Tally

_PACE = 0.25
"""Seconds between two questions."""
STALE_SECONDS = 5.0
"""For so long the last figures of a function count."""
_SHORTEST, _SKEW = 0.001, 5.0
"""Seconds by which the tracer's clock goes on between two answers: at least, and at most more than ours."""
_LATE = 1.0
"""Seconds more or less than ours: an answer that has waited is not of the time in which messages were counted."""


class Told(NamedTuple):
    """Of one function, which may be anything."""

    tracer: object
    """Who tells it: sums of another one are others."""
    at: object
    """When that looked, ns by a clock of its own,"""
    figures: object
    """and what it saw."""
    messages: int | None = None
    """That the function had in its channels, since they were opened; None: see Feed.sent."""


class Source(Protocol):
    """Who is told by tracers."""

    def figures(self, names: Iterable[str]) -> Mapping[str, Told] | None:
        """What was told of these functions; asks for more. Does not wait. None while that cannot be said."""

    def untold(self, names: Iterable[str]) -> str:
        """Why nothing is told of them, if so."""


class Here:
    """This process."""

    def figures(self, names: Iterable[str]) -> Mapping[str, Told] | None:
        found = attribution.figures(names)
        if found is None:
            return None
        tracer, told = found
        return {name: Told(tracer, *one) for name, one in told.items()}

    def untold(self, names: Iterable[str]) -> str:
        return attribution.untold()


class Elsewhere:
    """Processes that this one has started, by what they say: each is believed for its own functions."""

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        """tallies: by function."""
        self._tallies = tallies

    def figures(self, names: Iterable[str]) -> Mapping[str, Told]:
        told = {name: self._tallies[name].told for name in names}
        return {
            name: Told(one.did[name].tracer, *row, one.messages[name])
            for name, one in told.items() if one is not None and (row := one.did[name].told) is not None
        }  # fmt: skip

    def untold(self, names: Iterable[str]) -> str:
        told = {name: self._tallies[name].told for name in names}
        traced = any(one is not None and one.did[name].tracer for name, one in told.items())
        return "" if traced else attribution.NO_TRACER


@dataclass(slots=True)
class _Function:
    """The last answer about it."""

    told: Told
    heard: float
    figures: Figures | None = None
    spent: Spent | None = None
    """Since the answer before."""
    nonsense: str = ""
    messages: int = 0
    """Of all its channels, since it was heard, where that is not told;"""
    rate: float = 0.0
    """and a second, in the time of `spent`."""
    late: float = 0.0
    """Seconds that the answer has waited longer than that before."""


class Feed:
    """Of one steward, who alone uses it; lack() may be called from any thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._functions: dict[str, _Function] = {}
        self._heard: float | None = None
        """When anything new was."""
        self._asked: float | None = None

    def latest(self, names: Iterable[str], now: float) -> dict[str, Spent]:
        """What functions did lately, by name; and asks for newer figures. now: of any clock, seconds."""
        due = self._asked is None or abs(now - self._asked) >= _PACE
        told = self._source.figures(names) if due else None
        if told is not None:
            paused = self._asked is not None and now - self._asked > STALE_SECONDS
            self._asked = now
            if paused:   # what is told now it has seen long ago
                self._functions = {name: _Function(one, now) for name, one in told.items()}
            for name, one in told.items():
                self._hear(name, one, now)
            if len(self._functions) > len(told):   # the others have ended
                self._functions = {name: one for name, one in self._functions.items() if name in told}
            if not told:
                self._heard = None
        return {
            name: one.spent for name, one in self._functions.items()
            if one.spent is not None and now - one.heard <= STALE_SECONDS
        }  # fmt: skip

    @property
    def silent(self) -> bool:
        """Whether nothing is told at all."""
        return not self._functions

    def sent(self, messages: Mapping[str, int]) -> None:
        """How many messages functions had in their channels since this was called the last time. Where a source tells
        that, this is not used: what one process says of a channel, or does not, is no figure of another's function.
        """
        for name, count in messages.items():
            if name in self._functions:
                self._functions[name].messages += count

    def forget(self, names: Iterable[str]) -> None:
        """Functions of a channel that goes another way: what is told of them begins anew."""
        for name in names:
            if (one := self._functions.get(name)) is not None:
                self._functions[name] = _Function(one.told, one.heard)

    def rates(self) -> dict[str, float]:
        """Messages a second, in the time that the last figures are of."""
        return {name: one.rate for name, one in self._functions.items()}

    def lack(self, now: float, names: Iterable[str]) -> tuple[str, ...]:
        """What is not told of functions, in words."""
        names = sorted(names)
        if untold := self._source.untold(names):
            return (untold,)
        heard = self._heard
        if heard is None:
            return ("the tracer has told nothing of these functions yet",)
        if now - heard > STALE_SECONDS:
            return (f"the tracer has told nothing new for {now - heard:.0f} s, and what it told counts no more",)
        return tuple(dict.fromkeys(words for name in names for words in self._lack_of(name, now)))

    def _lack_of(self, name: str, now: float) -> list[str]:
        """Of one of them, while the tracer tells something."""
        one = self._functions.get(name)
        if one is None:
            return [f"the tracer has told nothing of {name}"]
        if now - one.heard > STALE_SECONDS:
            return [f"the tracer has told nothing new of {name} for {now - one.heard:.0f} s, which counts no more"]
        if one.nonsense:
            return [one.nonsense]
        told = one.figures
        lacks = {
            "the tracer counts no system calls": told is not None and told.calls is None,
            "the tracer counts no scheduling": told is not None and told.off_ns is None,
        }
        return [words for words, so in lacks.items() if so]

    def _hear(self, name: str, told: Told, now: float) -> None:
        before = self._functions.get(name)
        if before is not None and (told.tracer != before.told.tracer or _came(before, told) < 0):   # an end was closed
            before = None
        if before is not None and told.at == before.told.at:
            return   # it has not looked again
        heard = self._functions[name] = _Function(told, now)
        self._heard = now
        try:
            at = _time(told.at)
            heard.figures = Figures.parsed(told.figures)
            if before is not None and before.figures is not None:
                ours = now - before.heard
                seconds = _seconds(_time(before.told.at), at, ours + before.late)
                heard.late = max(0.0, ours - seconds)
                if ours > 0 and abs(ours - seconds) > _LATE:
                    return
                heard.spent = Spent(seconds, heard.figures.since(before.figures))
                heard.rate = _came(before, told) / (now - before.heard) if now > before.heard else 0.0
        except ValueError as error:
            heard.nonsense = f"the tracer told what cannot be of {name}, which was left out: {error}"


def _came(before: _Function, told: Told) -> int:
    """How many messages, since then."""
    if told.messages is None or before.told.messages is None:
        return before.messages
    return told.messages - before.told.messages


def _time(at: object) -> int:
    """Raises ValueError."""
    if type(at) is not int or not 0 <= at < 1 << 63:
        raise ValueError(f"its time is {at!r:.40}")
    return at


def _seconds(before: int, at: int, ours: float) -> float:
    """Between two answers that make sense, by the clock of the tracer. ours: by our own. Raises ValueError."""
    seconds = (at - before) / 1e9
    if not _SHORTEST <= seconds <= max(0.0, ours) + _SKEW:
        raise ValueError(f"its clock went on by {seconds:.3g} s")
    return seconds


def with_told(
    seen: Observation, channel: Channel | SpannedChannel, spent: Mapping[str, Spent], rates: Mapping[str, float]
) -> Observation:
    """With what was told of the functions at its ends, if it was of all of them. What is known already stays.

    rates: by function, the messages a second of all its channels: its time is that of all of them.
    """
    names = functions_of(channel)
    told = {name: spent[name] for name in names if name in spent and rates.get(name)}
    if len(told) < len(names):
        return seen
    woken = [told[receiver].woken_ns for _, receiver in channel.decisions]
    srtt = [one.srtt_ns for one in told.values()] if channel.transport is Transport.TCP else []
    return replace(
        seen,
        contention=_contention(told.values()) if seen.contention is None else seen.contention,
        cpu_ns=_cpu_ns(told, rates, _apart(channel)) if seen.cpu_ns is None else seen.cpu_ns,
        srtt_ns=_most(srtt) if seen.srtt_ns is None else seen.srtt_ns,
        syscalls_ns=_most(_a_message(one.kernel_ns, one, rates[name]) for name, one in told.items()),
        woken_ns=_most(woken),
    )


def _a_message(ns: float | None, spent: Spent, rate: float) -> float | None:
    """Of what a function did."""
    return None if ns is None else ns / spent.seconds / rate


def _contention(ends: Iterable[Spent]) -> float | None:
    """Of all ends together."""
    ran = queued = 0.0
    for one in ends:
        if one.ran_ns is None or one.figures.queued_ns is None:
            return None
        ran, queued = ran + one.ran_ns / one.seconds, queued + one.figures.queued_ns / one.seconds
    return queued / (ran + queued) if ran + queued else 0.0


def _apart(channel: Channel | SpannedChannel) -> frozenset[str]:
    """Its senders, where the rate of each is that of its own messages, and not of all of them."""
    return frozenset(name for name, _ in channel.senders) if isinstance(channel, SpannedChannel) else frozenset()


def _cpu_ns(told: Mapping[str, Spent], rates: Mapping[str, float], apart: frozenset[str]) -> float | None:
    """Of all ends together, for one message, which comes from one of those that are apart."""
    sent, ns = sum(rates[name] for name in apart), 0.0
    for name, one in told.items():
        took = _a_message(one.ran_ns, one, rates[name])
        if took is None:
            return None
        ns += took * rates[name] / sent if name in apart else took
    return ns


def _most(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    return max((value for value in values if value is not None), default=None)
