"""The channels of what is traced, as its processes tell of them to who asks (as `cwasi ps` does)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..census import census
from ..description import EndDescription
from ..errors import Error


@dataclass(frozen=True, slots=True)
class Edge:
    """A channel between functions, or between processes (`pid N`) where no function holds the end."""

    channel: str
    sender: str
    receivers: tuple[str, ...]
    transport: str
    """Empty before both ends have met."""
    mode: str
    messages: int
    """Since the channel was opened."""
    bytes: int

    @property
    def functions(self) -> set[str]:
        """Both sides."""
        return {self.sender, *self.receivers}


class Edges:
    """Remembers what was told last: when a function has ended nobody tells of its channels any more."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, tuple[str, ...]], Edge] = {}

    def look(self, pids: frozenset[int]) -> tuple[Edge, ...]:
        """Those of these processes, past ones included. One that does not answer is left out; takes up to 2 s then."""
        try:
            ends, _ = census()
        except Error:  # no runtime directory: then there are none
            ends = []
        for edge in edges_of(end for end in ends if end.pid in pids and not end.foreign):
            self._known[(edge.channel, edge.sender, edge.receivers)] = edge
        return tuple(self._known.values())


def edges_of(ends: Iterable[EndDescription]) -> list[Edge]:
    """An edge for each sender, and for each receiver whose sender is not among them."""
    ends = [end for end in ends if end.state == "open"]
    edges = [_edge(end, _me(end), _others(end)) for end in ends if end.role == "sender"]
    told = {(edge.channel, name) for edge in edges for name in edge.receivers}
    for end in ends:
        if end.role != "sender" and (end.channel, _me(end)) not in told:
            edges += [_edge(end, sender, (_me(end),)) for sender in _others(end)]
    return edges


def _me(end: EndDescription) -> str:
    return end.function or f"pid {end.pid}"


def _others(end: EndDescription) -> tuple[str, ...]:
    """Without functions the processes, as far as they can be seen from here."""
    if end.function is not None:
        return tuple(end.peers)
    pids = [*end.peer_pids, *[0] * len(end.peers)]
    return tuple(f"pid {pid}" if pid else name for pid, name in zip(pids, end.peers, strict=False))


def _edge(end: EndDescription, sender: str, receivers: tuple[str, ...]) -> Edge:
    return Edge(
        channel=end.channel,
        sender=sender,
        receivers=receivers,
        transport=end.transport or "",
        mode=end.mode or "",
        messages=int(end.metrics.get("messages", 0)),
        bytes=int(end.metrics.get("bytes", 0)),
    )
