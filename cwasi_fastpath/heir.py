"""Who goes on with an end that is handed over, and what that process asks, one question after another; see handover."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from . import control, errors
from .cluster import ClusterName, FarPeer, FarTie
from .connection import Connection
from .meeting import MOVING, NamedEnd, placed
from .placement import Placement
from .request import Request
from .switch import left

_LOOK = 0.5
"""Seconds after which who waits looks whether its end was closed."""
LOOK_AFAR = 0.02
"""The same, with a look whether a successor of another node knocks."""


def _tie(request: Request) -> Connection | FarTie:
    """By which it has come."""
    assert isinstance(request.connection, Connection | FarTie)
    return request.connection


@dataclass(frozen=True, slots=True)
class Heir:
    """Who will go on."""

    tie: Connection | FarTie
    placement: Placement
    peer: FarPeer | None
    """As the cluster's registry knows it, if it does."""

    @classmethod
    def of(cls, named: NamedEnd, what: str, request: Request) -> Self:
        """Raises BadSpec where it may not be one, RedisUnavailable. what: for messages."""
        tie = _tie(request)
        placement, trust = placed(tie, request.body.get("placement")), named.here.trust
        if placement.trust != trust:
            told = f"so must be its successor, not {placement.trust!r}"
            raise errors.BadSpec(f"{what} is of trust domain {trust!r}; {told}")
        if isinstance(tie, FarTie):
            return cls(tie, placement, tie.peer)
        lease, peer = request.body.get("lease"), None
        if named.cluster is not None and isinstance(lease, str):
            peer = named.cluster.heir(lease, named.role)
        return cls(tie, placement, peer)


@dataclass(slots=True)
class Asked:
    """What a successor asks."""

    request: Request

    def refuse(self, error: BaseException) -> None:
        self.request.refuse(error)


class Questions:
    """Those of one successor, one after another."""

    def __init__(
        self,
        named: NamedEnd,
        what: str,
        asked: queue.SimpleQueue[Asked | None],
        handlers: Mapping[str, control.Handler],
        until: float | None,
    ) -> None:
        """asked: from all processes; None where one has hung up. what: for messages. handlers: that put it there."""
        self._named = named
        self._what = what
        self._asked = asked
        self._handlers = handlers
        self._connection: Connection | FarTie | None = None
        self._gone = False
        self.until = until

    def first(self) -> Asked:
        """That of who comes first. Raises Timeout, and what says that this end is over."""
        while True:
            asked = self._get()
            if asked is None:
                continue   # one that was here before
            if asked.request.kind.startswith("succeed-"):
                if self._named.cluster is not None:
                    self._named.cluster.await_no_more()
                self._connection = _tie(asked.request)
                self._connection.when_gone(self._hung_up)
                return asked
            asked.refuse(errors.Busy(f"{self._what}: that comes too late"))

    def _hung_up(self, died: bool) -> None:
        self._gone = True
        self._asked.put(None)

    def next(self, word: str) -> Asked:
        """The next one, which has to be of that kind. Raises also PeerDied where the successor is gone."""
        assert self._connection is not None   # there was a first one
        while True:
            asked = self._get()
            if self._gone:
                if asked is not None:
                    asked.refuse(errors.Busy(f"{self._what}: another process was just going on with it"))
                raise errors.PeerDied(f"{self._what}: its successor is gone")
            if asked is None:
                continue
            if asked.request.connection is self._connection and asked.request.kind.startswith(f"{word}-"):
                return asked
            asked.refuse(errors.Busy(f"{self._what}: another process is just going on with it"))

    def _get(self) -> Asked | None:
        while True:
            end = self._named.end
            if end is None or end.closed:
                raise errors.ChannelClosed(f"{self._what} is closed")
            if self._named.state != MOVING:
                raise errors.PeerDied(f"{self._what}: the other side is gone; nobody could go on with it")
            rest, look = left(self.until), _LOOK if self._named.cluster is None else LOOK_AFAR
            if self._connection is None and self._named.cluster is not None:
                self._look_outside(self._named.cluster)
            try:
                return self._asked.get(timeout=look if rest is None else min(look, rest))
            except queue.Empty:
                if rest is not None and rest <= look:
                    raise errors.Timeout(f"{self._what}: no other process has gone on with it in time") from None


    def _look_outside(self, cluster: ClusterName) -> None:
        """Whether a process of another node knocks: then it can ask."""
        try:
            heir = cluster.await_heir()
        except errors.RedisUnavailable:
            return   # those of this node can
        if heir is not None:
            tie = FarTie(cluster, heir)
            tie.when_gone(lambda died: None)   # it notices
            tie.serve(self._handlers)
            self._named.at_end(tie.hang_up)
