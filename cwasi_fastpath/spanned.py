"""A channel whose ends are in several host processes, as the process sees it that connects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import transport
from .channel import Edge
from .endpoint import RECEIVER, SENDER
from .policy import Decision
from .process import HostProcess
from .workflow import End

if TYPE_CHECKING:
    from .transport.tls import TlsFiles


@dataclass(frozen=True, slots=True)
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

    def connect(
        self, processes: Mapping[str, HostProcess], redis: str | None, sample: int, tls: TlsFiles | None
    ) -> None:
        """Makes its links and hands each process, found by function, its ends."""
        first = self.receivers[0][0]
        links = []
        try:
            for sender, _ in self.senders:
                kind = self.decisions[sender, first].transport
                key = transport.key_of(self.name, sender, len(self.senders))
                links.append(transport.create(kind, readers=len(self.receivers), redis=redis, key=key, tls=tls))
            for number, end in enumerate(self.senders):
                message = self._message(SENDER, end, sample, self.backs[number : number + 1])
                processes[end[0]].join(message, [links[number].export(SENDER)])
            for number, end in enumerate(self.receivers):
                message = self._message(RECEIVER, end, sample, self.backs)
                message["reader"] = number
                processes[end[0]].join(message, [link.export(RECEIVER, number) for link in links])
        finally:
            for link in links:
                link.close()
        for sender, receiver in self.decisions:
            one, other = processes[sender], processes[receiver]
            if one is not other:
                one.neighbours.append((other, self.name, (sender, receiver)))
                other.neighbours.append((one, self.name, (sender, receiver)))

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
