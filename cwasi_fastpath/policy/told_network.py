"""In replay: what a host would know of the network between two nodes, on this way and on that."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from ..metrics import Observation
from ..modes import Locality, Transport
from .known_network import KnownNetwork
from .sounding import FIRST_SECONDS, SECONDS, holds, pause, sounded
from .trace import Block
from .way import Way

_TCP = Way(Transport.TCP)


@dataclass(slots=True)
class ToldNetwork:
    """Of one edge. By tcp its connection tells; else it is sounded, where tcp is possible."""

    _known: KnownNetwork[Observation] = field(default_factory=KnownNetwork)
    _due: float = -inf
    """When the next sounding begins."""
    _coming: tuple[float, float, Observation] | None = None
    """When the one that has begun is over, what it took, and what it finds."""

    def told(self, block: Block, seen: Observation, now: float, way: Way) -> Observation:
        """What was seen on a way, with what is known of the network there. seen: with the network as it is."""
        far, direct = block.facts.locality is Locality.ELSEWHERE, way.transport is Transport.TCP
        self._known.met(seen if direct else None, now, far)
        if direct or not far:
            self._due, self._coming = -inf, None
            return seen
        if _TCP in block.measured:
            if self._due == -inf:
                self._known.watch(now + FIRST_SECONDS)
            self._sound(seen, now)
        known = self._known.seen
        return replace(
            seen,
            srtt_ns=None if known is None else known.srtt_ns,
            bytes_per_second=self._known.gives,
            network_age=self._known.unseen(now),
        )

    def _sound(self, seen: Observation, now: float) -> None:
        if self._coming is not None and now >= self._coming[0]:
            at, took, found = self._coming
            self._known.sounded(found, at)
            self._known.watch(at + holds(took))
            self._coming = None
        if self._coming is None and now >= self._due and seen.srtt_ns is not None:
            took, gives = sounded(seen.srtt_ns / 1e9, seen.bytes_per_second)
            self._due = now + took + pause(took)
            if took < SECONDS:
                self._coming = now + took, took, replace(seen, bytes_per_second=gives)
