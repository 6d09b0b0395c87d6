"""A channel of a recording of cwasi-trace as a trace for policies: one block for each interval in which messages came.

On the way that was in use a block has what was measured. What the other ways would have cost was not: it is what the
model says, and is marked so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import BadName, BadSpec
from ..metrics import Observation, queued
from ..modes import EdgeFacts, Locality, Mode, Transport
from ..names import checked
from .costs import Costs, number
from .model import Conditions, estimate, sleeps
from .trace import SHORTEST, Block, Measured, Trace
from .way import FREE_RING, ONE_CORE, TWO_CORES, Way, way_of

_NEAR = [FREE_RING, *map(way_of, (Transport.PIPE, Transport.TCP))]
_WAYS = {Locality.PROCESS: _NEAR, Locality.NODE: _NEAR, Locality.ELSEWHERE: [way_of(Transport.TCP)]}
_COUNTS = ("messages", "bytes", "parks")
_TIMES = ("timed", "timed_ns")
"""Missing where an older tracer has recorded."""
_FASTEST = 1e10
"""Messages a second: what is more is no rate."""
_LONGEST = 1e6


def is_recording(line: str) -> bool:
    """Whether a file with this first line is one."""
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(head, dict) and "recording" in head


def load(
    head: Mapping[str, Any], intervals: Sequence[Mapping[str, Any]], costs: Costs, channel: str | None = None
) -> Trace:
    """The load of the channel of that name, or of the only one. head, intervals: of the recording. costs: what the
    model is told of the machine. Raises BadSpec where there is none, or figures that cannot be.
    """
    windows = []
    for count, interval in enumerate(intervals, 1):
        try:
            windows.append(_window(interval))
        except (BadSpec, BadName) as error:
            raise BadSpec(f"interval {count}: {error}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadSpec(f"interval {count} is damaged: {error!r}") from None
    ends = [end for window in windows for end in window.ends]
    wanted = _wanted(channel, sorted({end.channel for end in ends}))
    edge = _Edge.among(ends, wanted)
    blocks = tuple(_blocks(windows, edge, costs))
    if not blocks:
        raise BadSpec(f"by which transport the messages of channel {wanted!r} came was not recorded")
    trace = Trace(wanted, costs, blocks, about={"channel": wanted, **_about(head, costs)})
    return replace(trace, about={**trace.about, "note": trace.note})


@dataclass(frozen=True, slots=True)
class _End:
    """What one end of a channel counted in an interval in which messages came by it."""

    channel: str
    function: str | None
    sends: bool
    transport: str
    local: bool
    messages: float
    bytes: float
    parks: float
    timed: float
    timed_ns: float


@dataclass(frozen=True, slots=True)
class _Window:
    """An interval."""

    seconds: float
    ends: list[_End]
    heard: Mapping[str, str] = field(hash=False)
    """By channel the transport, as the processes told who asked."""

    def transport_of(self, ends: Sequence[_End]) -> str:
        """Of most messages; empty where that is not known."""
        told = [end for end in ends if end.transport]
        if told:
            return max(told, key=lambda end: end.messages).transport
        if any(end.local for end in ends):
            return Transport.RING
        return self.heard.get(ends[0].channel, "")


def _window(interval: Mapping[str, Any]) -> _Window:
    seconds = number(interval, "seconds")
    if not SHORTEST <= seconds < _LONGEST:
        raise BadSpec(f"it takes {SHORTEST * 1e6:g} us or more, and less than {_LONGEST:g} s, not {seconds:g}")
    ends = [_end(told) for told in interval["tax"]["channels"]]
    heard = {str(told["channel"]): _transport(told["transport"]) for told in interval["channels"]}
    return _Window(seconds, [end for end in ends if end.messages], heard)


def _end(told: Mapping[str, Any]) -> _End:
    counts = {name: number(told, name) for name in _COUNTS}
    counts |= {name: number(told, name) if name in told else 0.0 for name in _TIMES}
    function, direction = told["function"], told["direction"]
    named = function is None or (isinstance(function, str) and function.isprintable())
    if not named or direction not in ("sends", "receives"):
        raise BadSpec(f"{direction!r} by {function!r} is no end of a channel")
    channel, transport = checked(told["channel"], "channel"), _transport(told["transport"])
    return _End(channel, function, direction == "sends", transport, told["mode"] == str(Mode.LOCAL), **counts)


def _transport(told: object) -> str:
    if told != "" and told not in set(Transport):
        raise BadSpec(f"transport {told!r} is unknown")
    return str(told)


def _wanted(channel: str | None, names: Sequence[str]) -> str:
    """The name of the channel to take, of those that there are."""
    if not names:
        raise BadSpec("no messages came on any channel")
    if channel is None and len(names) > 1:
        raise BadSpec(f"there are several channels, of which --channel is to name one: {', '.join(names)}")
    if channel is not None and channel not in names:
        raise BadSpec(f"there is no channel {channel!r}: there {'is' if len(names) == 1 else 'are'} {', '.join(names)}")
    return channel or names[0]


@dataclass(frozen=True, slots=True)
class _Edge:
    """What is known of the channel all the time."""

    channel: str
    sides: frozenset[bool]
    """Of which ends came to be recorded: of the sender (True), of the receiver."""
    alone: bool
    """Two functions that have channels with nobody else: a host may place them."""
    by_server: bool
    """The channel was on redis at some time, so that there is one."""

    @classmethod
    def among(cls, ends: Sequence[_End], channel: str) -> _Edge:
        """Of all ends of a recording. Raises BadSpec where one side has several."""
        mine = [end for end in ends if end.channel == channel]
        parties = {(end.sends, end.function) for end in mine}
        sides = frozenset(sends for sends, _ in parties)
        if len(parties) > len(sides):
            names = ", ".join(sorted({function or "a process" for _, function in parties}))
            raise BadSpec(f"channel {channel!r} has several senders or receivers, of {names}: only pairs are replayed")
        pair = {function for _, function in parties}
        channels: dict[str, set[str | None]] = {}
        for end in ends:
            channels.setdefault(end.channel, set()).add(end.function)
        alone = len(pair) == 2 and None not in pair and all(them == pair for them in channels.values() if them & pair)
        return cls(channel, sides, alone, any(end.transport == Transport.REDIS for end in mine))

    def locality(self, way: Way, local: bool, before: Locality) -> Locality:
        """As far as it is known. before: in the interval before."""
        if way == FREE_RING:
            return Locality.PROCESS if local else Locality.NODE
        if len(self.sides) == 2:   # both were traced, so they are here
            return min(before, Locality.NODE)
        return Locality.NODE if way.transport is Transport.PIPE else Locality.ELSEWHERE

    def ways(self, locality: Locality, costs: Costs, used: Way) -> list[Way]:
        """Those that might have been taken, and the one that was."""
        placed = self.alone and locality is Locality.PROCESS and costs.cores > 1
        server = [way_of(Transport.REDIS)] if self.by_server else []
        return list(dict.fromkeys([*_WAYS[locality], *([ONE_CORE, TWO_CORES] if placed else []), *server, used]))


def _blocks(windows: Sequence[_Window], edge: _Edge, costs: Costs) -> Iterator[Block]:
    at, transport, locality = 0.0, "", Locality.NODE
    for window in windows:
        ends = [end for end in window.ends if end.channel == edge.channel]
        came = [end for end in ends if end.sends is (True in edge.sides)]
        if came:
            transport = window.transport_of(ends) or transport
        if came and transport:
            way = way_of(Transport(transport))
            locality = edge.locality(way, any(end.local for end in ends), locality)
            seen = _observation(came, [end for end in ends if not end.sends], window.seconds)
            measured = _measured(seen, way, edge.ways(locality, costs, way), locality, costs)
            yield Block(at, window.seconds, seen.messages, seen.mean_bytes, measured, EdgeFacts(locality))
        at += window.seconds


def _observation(came: Sequence[_End], received: Sequence[_End], seconds: float) -> Observation:
    """What a host would have seen. came: the ends that say how many messages there were."""
    messages = sum(end.messages for end in came)
    taken, timed = sum(end.messages for end in received), sum(end.timed for end in received)
    return Observation(
        messages=int(messages),
        mean_bytes=sum(end.bytes for end in came) / messages,
        parked=min(1.0, sum(end.parks for end in received) / max(1.0, taken)),
        seconds=seconds,
        latency_ns=sum(end.timed_ns for end in received) / timed if timed else None,
        rate=min(_FASTEST, messages / seconds),
    )


def _measured(
    seen: Observation, way: Way, ways: Sequence[Way], locality: Locality, costs: Costs
) -> dict[Way, Measured]:
    """way: the one in use. In a full queue how long messages took says nothing of it."""
    conditions = Conditions.of(seen, way, far=locality is Locality.ELSEWHERE)
    found = {one: _modelled(costs, one, conditions) for one in ways}
    if seen.latency_ns is not None and not queued(seen):
        found[way] = replace(found[way], latency_ns=seen.latency_ns, parked=seen.parked, modelled=False)
    return found


def _modelled(costs: Costs, way: Way, conditions: Conditions) -> Measured:
    said = estimate(costs, way, conditions)
    return Measured(said.latency, said.cpu, parked=sleeps(way, conditions), modelled=True)


def _about(head: Mapping[str, Any], costs: Costs) -> dict[str, Any]:
    """Where it is from."""
    told = {name: head[name] for name in ("started", "interval", "command", "pids", "machine") if name in head}
    of = "what cwasi calibrate has measured on" if costs.curves else "the parts (cwasi calibrate measures more) of"
    return {**told, "model": f"with {of} the machine on which it is replayed"}
