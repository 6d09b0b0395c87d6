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
    """A channel from one function to another; a port is what a function calls it where that is not its name."""

    channel: str
    sender: str
    receiver: str
    sender_port: str | None = None
    receiver_port: str | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """What is to run. Raises BadSpec where it contradicts itself."""

    functions: tuple[FunctionSpec, ...]
    edges: tuple[EdgeSpec, ...]

    def __post_init__(self) -> None:
        names = [function.name for function in self.functions]
        _unique(names, "function", "give one of them another name (NAME=PATH)")
        _unique([edge.channel for edge in self.edges], "channel", "a channel has one sender and one receiver")
        for edge in self.edges:
            for name in (edge.sender, edge.receiver):
                if name not in names:
                    raise errors.BadSpec(
                        f"channel {edge.channel!r}: there is no function {name!r}; "
                        f"there are: {', '.join(sorted(names))}"
                    )
            if edge.sender == edge.receiver:
                raise errors.BadSpec(f"channel {edge.channel!r} leads from {edge.sender} to itself, which would wait")

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

    def with_default_stdout(self, path: Path) -> Workflow:
        """Gives every function that has no output of its own this one."""
        return replace(self, functions=tuple(replace(item, stdout=item.stdout or path) for item in self.functions))

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
