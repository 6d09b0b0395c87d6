"""A channel whose ends are in several host processes, as the process sees it that connects them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import errors, transport
from .channel import Edge, too_long_for
from .endpoint import RECEIVER, SENDER
from .modes import EdgeFacts, Mode, Transport
from .named_channel import Counted
from .observing import total
from .policy import Decision
from .process import HostProcess
from .tally import Tally, Told
from .thread_watch import together
from .workflow import End

if TYPE_CHECKING:
    from .transport.tcp_info import Network
    from .transport.tls import TlsFiles

T = TypeVar("T")


class Changer(Protocol):
    """Can take it to another transport."""

    def change(self, decision: Decision, timeout: float) -> None:
        """Goes on as decided, all of it or nothing. Raises BadSpec where the user has chosen meanwhile, Timeout, and
        what else forbids it.
        """


@dataclass(slots=True, eq=False)
class SpannedChannel:
    """A channel whose ends are in several host processes."""

    name: str
    decisions: dict[Edge, Decision]
    """For each edge; kept up to date when it is switched."""
    senders: tuple[End, ...]
    receivers: tuple[End, ...]
    backs: tuple[str, ...] = ()
    """The channels of the answers to its senders' requests, connected before."""
    private: bool = False
    """The functions do not know it by name."""
    facts: Mapping[Edge, EdgeFacts] = field(default_factory=dict)
    """Of each edge."""
    wanted: Mode | None = None
    """Only transports of this mode, where the user asks for one."""
    pinned: str = ""
    """Why nobody but the user changes what carries it, if so."""
    switch: Changer | None = None
    changes: int = 0
    """That the policy made."""
    targets: dict[str, str] = field(default_factory=dict)
    """By which transport each sender goes, or by which server."""
    _rows: list[tuple[HostProcess, int]] = field(default_factory=list)
    """Of each end, senders first: who tells what it has counted, and where in its tally."""
    _told: list[Told] = field(default_factory=list)
    """What was told of each of them, the last time that all was."""
    _since: float = 0.0
    """What was so before is of another way."""

    def connect(
        self, processes: Mapping[str, HostProcess], redis: str | None, sample: int, tls: TlsFiles | None
    ) -> None:
        """Makes its links and hands each process, found by function, its ends."""
        first = self.receivers[0][0]
        links = []
        try:
            for sender, _ in self.senders:
                kind = self.decisions[sender, first].transport
                self.targets[sender] = redis if redis is not None and kind is Transport.REDIS else str(kind)
                key = transport.key_of(self.name, sender, len(self.senders))
                links.append(transport.create(kind, readers=len(self.receivers), redis=redis, key=key, tls=tls))
            for number, end in enumerate(self.senders):
                message = self._message(SENDER, end, sample, self.backs[number : number + 1])
                self._joined(processes[end[0]], message, [links[number].export(SENDER)])
            for number, end in enumerate(self.receivers):
                message = self._message(RECEIVER, end, sample, self.backs)
                message["reader"] = number
                self._joined(processes[end[0]], message, [link.export(RECEIVER, number) for link in links])
        finally:
            for link in links:
                link.close()
        for sender, receiver in self.decisions:
            one, other = processes[sender], processes[receiver]
            if one is not other:
                one.neighbours.append((other, self.name, (sender, receiver)))
                other.neighbours.append((one, self.name, (sender, receiver)))

    def _joined(self, process: HostProcess, message: dict[str, Any], exported: list[Any]) -> None:
        self._rows.append((process, process.join(message, exported)))

    def _message(self, role: int, end: End, sample: int, backs: Sequence[str]) -> dict[str, Any]:
        function, port = end
        return {
            "join": self.name,
            "decisions": [[*edge, asdict(decision)] for edge, decision in self.decisions.items()],
            "role": role,
            "reader": 0,
            "function": function,
            "port": port,
            "backs": list(backs),
            "private": self.private,
            "sample": sample,
        }

    # ---- while they run ----

    @property
    def decision(self) -> Decision:
        """That of the only edge, or of the first."""
        return next(iter(self.decisions.values()))

    @property
    def transport(self) -> Transport:
        return self.decision.transport

    @property
    def mode(self) -> Mode:
        """The path class in use; the farthest, where edges differ."""
        return max(decision.mode for decision in self.decisions.values())

    @property
    def mixed(self) -> bool:
        """Whether its senders go by different transports: a change has failed in the middle."""
        return len({decision.transport for decision in self.decisions.values()}) > 1

    @property
    def missing(self) -> Mapping[Transport, str]:
        """What cannot carry it from now on, and why."""
        if len(self.senders) == 1 or len(self.receivers) == 1:
            return {}
        return too_long_for(max(transport.longest_whole(one.transport) for one in self.decisions.values()))

    def network(self) -> Network | None:
        """Nothing: its ends know."""
        return None

    def change(self, decision: Decision, timeout: float) -> None:
        """As Changer.change."""
        if self.switch is None:
            raise errors.BadSpec(f"channel {self.name!r} is not in use yet")
        try:
            self.switch.change(decision, timeout)
        finally:
            self._since = time.monotonic()

    def counted(self, now: float) -> Counted | None:
        """What all its ends have counted; None where a process has not told anything new of its own, or an end was
        closed. Asks for more.
        """
        found = [
            told for process, _ in self._rows
            if (told := process.tally.latest(now)) is not None and told.at >= self._since
        ]  # fmt: skip
        if len(found) < len(self._rows) or any(new is old for new, old in zip(found, self._told, strict=False)):
            return None
        self._told = found
        counts = [told.counts[row] for told, (_, row) in zip(found, self._rows, strict=True)]
        sent, received = total(counts[: len(self.senders)]), total(counts[len(self.senders) :])
        if sent is None or received is None:
            return None
        at = max(told.at for told in found[: len(self.senders)])
        ran = together(told.did[name].thread for name, told in self._by_name(found).items())
        return Counted(at, sent, received, ran)

    @property
    def tallies(self) -> dict[str, Tally]:
        """By function, what its process tells."""
        return {name: process.tally for name, (process, _) in self._by_name(self._rows).items()}

    def _by_name(self, of_ends: Sequence[T]) -> Mapping[str, T]:
        """By function, of what is one for each end."""
        return {name: one for (name, _), one in zip((*self.senders, *self.receivers), of_ends, strict=True)}

    def lacks(self, now: float) -> tuple[str, ...]:
        """Which processes have not told, or nothing that can be, in words."""
        return tuple(filter(None, dict.fromkeys(process.tally.lack(now) for process, _ in self._rows)))
