"""Why a channel goes the way it goes, what others would cost, and what it would be like if things were otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import BadSpec, Corrupted
from .metrics import Observation, nonsense
from .modes import EdgeFacts, Locality, Transport
from .policy import Decision, Policy, Request, Way
from .policy.decision import ruled_out_way
from .policy.model import ways_of

EXPLAIN = "explain"
"""The kind of request by which a process is asked for it."""

LOCALITIES = {"process": Locality.PROCESS, "node": Locality.NODE, "elsewhere": Locality.ELSEWHERE}


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way, and what it would cost."""

    way: str
    ns: float | None = None
    """A message from send to receipt, with the interval in which it lies nineteen times in twenty."""
    low: float | None = None
    high: float | None = None
    ruled_out: str | None = None
    """The constraint that forbids it."""

    def __str__(self) -> str:
        if self.ruled_out is not None or self.ns is None:
            return f"{self.way}: {self.ruled_out or 'not predicted'}"
        between = f" ({_us(self.low)} to {_us(self.high)})" if self.low is not None and self.high is not None else ""
        return f"{self.way}: {_us(self.ns)} us a message{between}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of a channel, now."""

    channel: str
    way: str
    """In use."""
    mode: str
    reason: str = ""
    decision: str = ""
    """In words, as it was made."""
    pinned: str = ""
    """Why the policy leaves it alone, if so."""
    changes: int = 0
    """That the policy made."""
    seconds: float | None = None
    """Since the last of them."""
    alternatives: tuple[Alternative, ...] = ()
    """Of each way, also of that in use."""
    observation: dict[str, Any] = field(default_factory=dict)
    """What was seen in the last window in which messages came."""
    age_seconds: float | None = None
    """How long ago that was."""
    lacked: tuple[str, ...] = ()
    """What could not be observed."""
    queued: bool = False
    """Its messages wait for each other all the time: what counts is the time of one in a stream."""
    trouble: str = ""
    """Why the last choice is held, where the policy or a change failed."""
    network: str = ""
    """What the kernel knows of the network behind it, in words, where it goes by one."""

    @classmethod
    def of_plain(cls, plain: object) -> Explanation:
        """What another process says of its channel. Raises Corrupted."""
        try:
            found = cls(**plain)   # type: ignore[arg-type]
            ways = tuple(Alternative(**way) for way in found.alternatives)   # type: ignore[arg-type]
            found = replace(found, alternatives=ways, lacked=tuple(found.lacked))
            if not all(isinstance(one, float | int | None) for one in (found.seconds, found.age_seconds)):
                raise TypeError("a time is a number")
            found.at_length()   # all of it can be told
            return found
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Corrupted("who was asked for an explanation gave none") from error

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [self.decision]
        if self.pinned:
            lines.append(f"  pinned: {self.pinned}")
        if self.changes:
            lines.append(f"  changed {self.changes} times, last {self.seconds:.1f} s ago")
        if self.observation:
            lines.append(f"  seen {self.age_seconds:.1f} s ago: {seen(Observation(**self.observation))}")
        if self.network:
            lines.append(f"  the network: {self.network}")
        if self.queued:
            lines.append("  its messages wait in a queue: what counts is how long one of a stream takes")
        if self.observation or self.trouble:
            lines += [f"  lacked: {what}" for what in self.lacked]
        if self.trouble:
            lines.append(f"  held: {self.trouble}")
        return "\n".join(lines)


    def at_length(self) -> str:
        """With what each way would cost."""
        costs = [f"    {way}{'   <- in use' if way.way == self.way else ''}" for way in self.alternatives]
        return "\n".join([str(self), *(["  what a message would cost:"] if costs else []), *costs])


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What else may be asked: as it is, but ..."""

    size: str | None = None
    """10x, 0.5x, or bytes."""
    rate: str | None = None
    """10x, 0.5x, or messages a second."""
    locality: str | None = None
    """process, node or elsewhere."""

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.size, self.rate, self.locality))

    def __str__(self) -> str:
        parts = (("messages of", self.size), ("a rate of", self.rate), ("the peer's place", self.locality))
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None)

    def as_plain(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self)

    @classmethod
    def of(cls, size: str | float | None, rate: str | float | None, locality: str | None) -> WhatIf:
        """As a program gives it."""
        return cls(None if size is None else str(size), None if rate is None else str(rate), locality)

    @classmethod
    def of_plain(cls, plain: object) -> WhatIf:
        """What another process asks. Raises BadSpec."""
        match plain:
            case None:
                return cls()
            case {"size": str() | None as size, "rate": str() | None as rate, "locality": str() | None as locality}:
                return cls(size, rate, locality)
        raise BadSpec("what else it would cost is asked with size, rate and locality, each a text or nothing")

    def check(self) -> None:
        """Raises BadSpec for what makes no sense, whatever channel it is asked of."""
        size, rate = changed("size", self.size, 0.0), changed("rate", self.rate, 0.0)
        if self.locality is not None and self.locality not in LOCALITIES:
            raise BadSpec(f"locality {self.locality!r} is unknown: use {', '.join(LOCALITIES)}")
        _check_possible(Observation(1, size or 0.0, 0.0, rate=rate))

    def applied(self, request: Request) -> Request:
        """The same question for what would then be. Raises BadSpec."""
        self.check()
        observation = request.observation or Observation(1, 65536.0, 0.0)
        size = changed("size", self.size, observation.mean_bytes)
        rate = changed("rate", self.rate, observation.rate)
        facts = request.facts
        if self.locality is not None:
            facts = EdgeFacts(LOCALITIES[self.locality], facts.same_user, facts.same_trust)
        near = facts.locality is Locality.PROCESS
        # What was measured of the way in use holds only for what was.
        wanted = replace(observation, mean_bytes=size or 0.0, rate=rate, latency_ns=None, cpu_ns=None)
        _check_possible(wanted)
        return replace(
            request,
            facts=facts,
            observation=wanted,
            ways=request.ways if near else frozenset(way for way in request.ways if way == Way(way.transport)),
            current=None,
            history=None,
            pinned=False,
        )


def changed(name: str, wish: str | None, now: float | None) -> float | None:
    """`now`, or a multiple of it (10x), or a number. Raises BadSpec."""
    if wish is None:
        return now
    try:
        value = float(wish.removesuffix("x"))
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e12:
        raise BadSpec(f"{name} {wish!r}: give a number, or a multiple like 10x")
    if not wish.endswith("x"):
        return value
    if now is None:
        raise BadSpec(f"{name} {wish!r}: none was seen yet of which that would be a multiple; give a number")
    return value * now


def _check_possible(wanted: Observation) -> None:
    """Raises BadSpec."""
    if absurd := nonsense(wanted):
        raise BadSpec(f"{', '.join(absurd)}: there are no such messages")


def alternatives(policy: Policy, request: Request) -> tuple[tuple[Alternative, ...], Decision | None]:
    """What the policy says of each way now, and which it would take. Raises what the policy raises."""
    decision = policy.decide(request)
    predicted = {prediction.way: prediction for prediction in decision.predictions} if decision is not None else {}
    found = []
    # A transport that this host has not is one of the ways, too: the user may wonder.
    for way in dict.fromkeys((*ways_of(request.ways), *map(Way, Transport))):
        one, obstacle = predicted.get(way), ruled_out_way(request, way)
        if one is None or obstacle is not None or one.ruled_out is not None:
            found.append(Alternative(str(way), ruled_out=obstacle or (one.ruled_out if one is not None else None)))
        else:
            found.append(Alternative(str(way), one.ns, one.low, one.high))
    return tuple(sorted(found, key=lambda one: (one.ns is None, one.ns or 0.0))), decision


def explained(policy: Policy, request: Request, told: Explanation, decision: Decision) -> Explanation:
    """What is told of a channel, with what the policy says now. decision: that which was made for it."""
    ways: tuple[Alternative, ...] = ()
    trouble = told.trouble
    try:
        ways, fresh = alternatives(policy, request)
        if fresh is not None and fresh.way == request.current and told.observation and not told.pinned:
            decision = fresh
    except (Exception, SystemExit) as error:
        trouble = trouble or f"the policy failed: {type(error).__name__}: {error}"
    lacked = tuple(dict.fromkeys((*told.lacked, *decision.lacked)))
    return replace(
        told, reason=decision.reason, decision=decision.explain(), alternatives=ways, lacked=lacked, trouble=trouble
    )


def what_if(policy: Policy, request: Request, wish: WhatIf) -> dict[str, Any]:
    """Costs and choice as it is, and as it would be. Raises BadSpec, and what the policy raises."""
    answers = {}
    for name, asked in (("now", WhatIf()), ("then", wish)):
        wanted = asked.applied(request)
        ways, decision = alternatives(policy, wanted)
        way = None if decision is None else decision.way
        obstacle = None if way is None else wanted.obstacle(way)
        answers[name] = {
            "chosen": None if way is None or obstacle is not None else str(way),
            "trouble": "" if obstacle is None else f"the policy chose {way}, which cannot be: {obstacle}",
            "alternatives": [asdict(way) for way in ways],
        }
    return {"if": {name: value for name, value in asdict(wish).items() if value is not None}, **answers}


def what_if_in_words(wish: WhatIf, answer: Mapping[str, Any]) -> str:
    """What what_if() gave."""
    then, now = (one["chosen"] or one["trouble"] or "nothing can carry it" for one in (answer["then"], answer["now"]))
    lines = [f"  with {wish}: {then}, now {now}"]
    before = {one["way"]: Alternative(**one) for one in answer["now"]["alternatives"]}
    for plain in answer["then"]["alternatives"]:
        one = Alternative(**plain)
        as_is = before.get(one.way)
        told = f", now {_us(as_is.ns)} us" if one.ns is not None and as_is is not None and as_is.ns is not None else ""
        lines.append(f"    {one}{told}")
    return "\n".join(lines)


def answered(explanation: Explanation, wish: WhatIf, answer: Mapping[str, Any]) -> dict[str, Any]:
    """What another process is told that asks for it. answer: what what_if() gave, if anything was wished."""
    text = explanation.at_length() + (f"\n{what_if_in_words(wish, answer)}" if wish else "")
    return {"text": text, "explanation": explanation.as_plain(), "what_if": answer}


def seen(observation: Observation) -> str:
    """In words."""
    parts = [f"{observation.messages:,} messages of {observation.mean_bytes / 1024:,.1f} KiB"]
    told: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("in", observation.seconds, lambda value: f"{value:.2f} s"),
        ("latency", observation.latency_ns, lambda value: f"{_us(value)} us"),
        ("the receiver slept for", observation.parked, lambda value: f"{value:.0%} of them"),
        ("the ends waited for a core for", observation.contention, lambda value: f"{value:.0%} of their time"),
        ("others had", observation.others, lambda value: f"{value:.1f} cores"),
        ("system calls took", observation.syscalls_ns, lambda value: f"{_us(value)} us a message"),
        ("the receivers ran", observation.woken_ns, lambda value: f"{_us(value)} us after being woken"),
        ("the network's round trip was", observation.srtt_ns, lambda value: f"{_us(value)} us"),
        ("which was seen", observation.network_age, lambda value: f"{value:.1f} s ago"),
    ]
    return ", ".join(parts + [f"{name} {words(value)}" for name, value, words in told if value is not None])


def _us(ns: float | None) -> str:
    return f"{(ns or 0.0) / 1000:,.1f}"
