"""A workflow: functions and the edges between them, as the user describes them. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from . import errors


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function to run once."""

    name: str
    path: Path
    arguments: tuple[str, ...] = ()
    stdin: Path | None = None
    stdout: Path | None = None
    trust: str = "default"


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """A channel from one function to another; a port is what a function calls it where that is not its name.

    Several edges may share a channel: then each of its senders sends to each of its receivers.
    """

    channel: str
    sender: str
    receiver: str
    sender_port: str | None = None
    receiver_port: str | None = None
    calls: bool = False
    """Whether its messages are requests, to which answers come back."""


End = tuple[str, str | None]
"""A function and its port."""


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A channel with all its ends."""

    name: str
    senders: tuple[End, ...]
    receivers: tuple[End, ...]
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Workflow:
    """What is to run. Raises BadSpec where it contradicts itself."""

    functions: tuple[FunctionSpec, ...]
    edges: tuple[EdgeSpec, ...]

    def __post_init__(self) -> None:
        names = [function.name for function in self.functions]
        _unique(names, "function", "give one of them another name (NAME=PATH)")
        for edge in self.edges:
            for name in (edge.sender, edge.receiver):
                if name not in names:
                    raise errors.BadSpec(
                        f"channel {edge.channel!r}: there is no function {name!r}; "
                        f"there are: {', '.join(sorted(names))}"
                    )
            if edge.sender == edge.receiver:
                raise errors.BadSpec(f"channel {edge.channel!r} leads from {edge.sender} to itself, which would wait")
        for channel in self.channels:
            self._check(channel)

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """The edges, joined by channel."""
        joined = {}
        for edge in self.edges:
            mine = [other for other in self.edges if other.channel == edge.channel]
            joined[edge.channel] = ChannelSpec(
                edge.channel,
                tuple(dict.fromkeys((other.sender, other.sender_port) for other in mine)),
                tuple(dict.fromkeys((other.receiver, other.receiver_port) for other in mine)),
                edge.calls,
            )
        return tuple(joined.values())

    def _check(self, channel: ChannelSpec) -> None:
        """Each sender is connected to each receiver, once."""
        mine = [edge for edge in self.edges if edge.channel == channel.name]
        what = f"channel {channel.name!r}"
        ends = (*channel.senders, *channel.receivers)
        if len({(edge.sender, edge.receiver) for edge in mine}) < len(mine):
            raise errors.BadSpec(f"{what} is connected twice between the same functions")
        if len({function for function, _ in ends}) < len(ends):
            raise errors.BadSpec(f"{what}: a function has one end of it and one port for it")
        if len(mine) != len(channel.senders) * len(channel.receivers):
            raise errors.BadSpec(f"{what}: each of its senders sends to each of its receivers; some edges are missing")
        if len({edge.calls for edge in mine}) > 1 or (channel.calls and len(channel.receivers) > 1):
            raise errors.BadSpec(f"{what}: calls have one function that answers them")

    def with_streams(self, stdin: Path | None, stdout: Path | None) -> Workflow:
        """Gives the only function that receives nothing its input, the only one that sends nothing its output."""
        receivers = {edge.receiver for edge in self.edges}
        senders = {edge.sender for edge in self.edges}
        first = self._only_one("input", receivers) if stdin else None
        last = self._only_one("output", senders) if stdout else None
        return replace(
            self,
            functions=tuple(
                replace(
                    function,
                    stdin=stdin if function is first else function.stdin,
                    stdout=stdout if function is last else function.stdout,
                )
                for function in self.functions
            ),
        )

    def _only_one(self, what: str, others: set[str]) -> FunctionSpec:
        ends = [function for function in self.functions if function.name not in others]
        if len(ends) != 1:
            found = ", ".join(function.name for function in ends) or "none"
            raise errors.BadSpec(f"the {what} belongs to the one function at that end of the workflow; here: {found}")
        return ends[0]


def _unique(names: list[str], what: str, remedy: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise errors.BadSpec(f"{what} {name!r} is named twice: {remedy}")
