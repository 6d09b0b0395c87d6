"""What a live run found: plain records, and the figures that are made of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .script import Phase


@dataclass(frozen=True, slots=True)
class Slice:
    """A hundredth of a second, or the time of one message where that takes longer."""

    at: float
    """Its end, seconds since the run began."""
    messages: int
    """That came, both ways."""
    total_ns: int
    """What they took, from send to receipt, in all."""
    worst_ns: float
    """The longest time there and back, halved."""

    @property
    def mean_ns(self) -> float:
        """Of a message."""
        return self.total_ns / self.messages


@dataclass(frozen=True, slots=True)
class Change:
    """A channel goes another way from then on."""

    at: float
    channel: str
    way: str
    mode: str


@dataclass(frozen=True, slots=True)
class Part:
    """A phase as it was played."""

    phase: Phase
    begin: float
    """Seconds since the run began."""
    end: float
    slices: tuple[Slice, ...]
    explanation: dict[str, Any]
    """At its end, of the channel of what is asked; see cwasi_fastpath.explanation. Empty where its host cannot tell."""
    text: str
    """The same in words."""

    @property
    def messages(self) -> int:
        return sum(one.messages for one in self.slices)

    @property
    def mean_ns(self) -> float:
        """Of a message."""
        return sum(one.total_ns for one in self.slices) / max(1, self.messages)

    @property
    def worst_ns(self) -> float:
        return max((one.worst_ns for one in self.slices), default=0.0)

    def predicted(self, way: str) -> tuple[float, float, float] | None:
        """Of a message on that way: ns, and the interval; None where the policy predicts nothing of it."""
        for one in self.explanation.get("alternatives", ()):
            if one["way"] == way and one["ns"] is not None:
                return one["ns"], one["low"], one["high"]
        return None


@dataclass(frozen=True, slots=True)
class Played:
    """A script under one policy."""

    policy: str
    cores: tuple[int, ...]
    """That guests and neighbours were kept to."""
    parts: tuple[Part, ...]
    changes: tuple[Change, ...] = field(default=())
    """The first of each channel is the way that it began on."""

    @property
    def messages(self) -> int:
        """Each of them was checked."""
        return sum(part.messages for part in self.parts)

    @property
    def mean_ns(self) -> float:
        """Of a message, over all phases."""
        return sum(part.mean_ns * part.messages for part in self.parts) / max(1, self.messages)

    def ways(self, channel: str) -> list[Change]:
        """Of one channel."""
        return [change for change in self.changes if change.channel == channel]

    def switches(self, part: Part, channel: str) -> list[Change]:
        """To another way, in one phase. (Where only the mode changes, an end has moved.)"""
        return [
            change
            for before, change in pairwise(self.ways(channel))
            if change.way != before.way and part.begin <= change.at < part.end
        ]

    def adapted(self, part: Part, channel: str) -> float | None:
        """Seconds from the begin of a phase to its last switch; None where there was none."""
        found = self.switches(part, channel)
        return found[-1].at - part.begin if found else None

    def way_at(self, at: float, channel: str) -> str:
        """In use then."""
        found = [change.way for change in self.ways(channel) if change.at <= at]
        return found[-1] if found else self.ways(channel)[0].way


def as_plain(played: Sequence[Played], channel: str) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "policy": one.policy,
            "cores": list(one.cores),
            "messages": one.messages,
            "mean_ns": one.mean_ns,
            "switches": sum(len(one.switches(part, channel)) for part in one.parts),
            "ways": [
                {"at": change.at, "channel": change.channel, "way": change.way, "mode": change.mode}
                for change in one.changes
            ],
            "phases": [_plain_part(one, part, channel) for part in one.parts],
        }
        for one in played
    ]


def _plain_part(played: Played, part: Part, channel: str) -> dict[str, Any]:
    phase = part.phase
    return {
        "phase": phase.name, "size": phase.size, "rate": phase.rate, "busy": phase.busy, "receiver": phase.receiver,
        "begin": part.begin, "end": part.end, "messages": part.messages, "mean_ns": part.mean_ns,
        "worst_ns": part.worst_ns, "way": played.way_at(part.end, channel),
        "switches": len(played.switches(part, channel)), "adapt_seconds": played.adapted(part, channel),
        "explanation": part.explanation,
        "latency": [{"at": one.at, "messages": one.messages, "ns": one.mean_ns} for one in part.slices],
    }  # fmt: skip
