"""The sender's side of a meeting: decides what carries the channel, makes the link, passes on the receiver's end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from types import MappingProxyType

from . import errors, reach
from . import transport as transports
from .cluster import ClusterName, FarPeer, FarTie
from .connection import Connection
from .endpoint import RECEIVER, SENDER
from .lease import SECONDS
from .meeting import Meeting, NamedEnd
from .modes import Transport
from .placement import Placement, of_peer
from .policy import Decision
from .request import Body, Request, close_all, duplicates
from .transport import Link

_LOOK = 0.1
"""Seconds between two looks whether a receiver of another node asks."""

_log = logging.getLogger(__name__)


Decided = Callable[[Placement, Placement, Mapping[Transport, str]], Decision]
"""What carries an edge, given where the receiver is and where we are; and why what is missing is not there."""


def made(named: NamedEnd, decision: Decision, redis: str | None) -> tuple[Body, list[int], Link]:
    """Makes a link: what to tell the receiver, with descriptors for it that are ours to close; the sender's side."""
    link = transports.create(decision.transport, redis=redis, key=named.name)
    try:
        description, fds = link.export(SENDER)
        mine = transports.join(description, duplicates(fds))
        description, fds = link.export(RECEIVER)
        body = {"link": description, "decision": asdict(decision), "placement": named.here.as_plain()}
        try:
            return body, duplicates(fds), mine
        except OSError:
            mine.close()
            raise
    finally:
        link.close()


def made_far(
    named: NamedEnd, decided: Callable[[Mapping[Transport, str]], Decision], redis: str | None, listens: object
) -> tuple[Decision, Body, Link]:
    """The same for a receiver of another node, which gets no descriptors, and what was decided. decided: given why what
    is missing is not there. listens: where it would, if it can; one that cannot be reached has something else.
    """
    decision, link = _decided_far(decided, listens)
    body: Body = {"decision": asdict(decision), "placement": named.here.as_plain()}
    if link is None:
        body, _, link = made(named, decision, redis)
    try:
        if decision.transport is Transport.REDIS:
            body["link"] = reach.marked(body["link"])
    except BaseException:
        link.close()
        raise
    return decision, body, link


def _decided_far(
    decided: Callable[[Mapping[Transport, str]], Decision], listens: object
) -> tuple[Decision, Link | None]:
    if listens is None:
        return decided({Transport.TCP: reach.NOWHERE}), None
    decision = decided(MappingProxyType({}))
    if decision.transport is not Transport.TCP:
        return decision, None
    try:
        return decision, reach.reached(listens)
    except (errors.TcpUnavailable, errors.Corrupted) as error:
        return decided({Transport.TCP: str(error)}), None


class Offer:
    """What a sender has for the receiver that comes first; on the control thread until it is taken."""

    def __init__(self, named: NamedEnd, decided: Decided, redis: str | None) -> None:
        self._named = named
        self._decided = decided
        self._redis = redis
        self._changed = threading.Condition()
        self._meeting: Meeting | None = None
        self._confirmed = False
        named.listen("meet", self._asked)
        named.listen("met", self._met)

    def taken(self, timeout: float | None) -> Meeting:
        """Waits for a receiver that has its end. Raises Timeout, RegistryUnavailable, RedisUnavailable."""
        try:
            return self._awaited(timeout)
        except BaseException:
            self._withdraw(for_good=True)
            raise

    def _awaited(self, timeout: float | None) -> Meeting:
        cluster = self._named.cluster
        far = _FarOffer(self, cluster) if cluster is not None else None
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            with self._changed:
                pause = left if far is None else min(_LOOK, _LOOK if left is None else left)
                if self._changed.wait_for(lambda: self._confirmed, pause):
                    assert self._meeting is not None
                    return self._meeting
            if left is not None and left <= 0:
                raise errors.Timeout(f"channel {self._named.name!r}: no receiver has come within {timeout:g} s")
            if far is not None:
                far.look()

    def _withdraw(self, *, for_good: bool = False) -> None:
        with self._changed:
            meeting, self._meeting, self._confirmed = self._meeting, None, for_good
        if meeting is not None:
            meeting.connection.hang_up()
            meeting.link.close()

    def _asked(self, request: Request) -> None:
        """A receiver is there. Raises what rules it out."""
        connection = request.connection
        assert isinstance(connection, Connection)   # those of other nodes ask by the cluster's registry
        peer = of_peer(connection.peer, request.body.get("placement"))
        with self._changed:
            if self._meeting is not None or self._confirmed:
                raise errors.Busy(f"channel {self._named.name!r} has a receiver already")
            decision = self._decision(peer, str(connection.peer))
            body, fds, link = made(self._named, decision, self._redis)
            try:
                request.answer(body, fds)
            finally:
                close_all(fds)
            self._meeting = Meeting(connection, decision, peer, link)
        connection.stranger = False
        connection.when_gone(lambda died: self._lost(connection))

    def _decision(self, peer: Placement, who: str, missing: Mapping[Transport, str] = MappingProxyType({})) -> Decision:
        """Raises NoTransport; the receiver is told, and we go on waiting for one that can be served."""
        try:
            return self._decided(peer, self._named.here, missing)
        except errors.NoTransport as error:
            _log.warning("%s is refused: %s", who, error)
            raise

    def _met(self, request: Request) -> None:
        with self._changed:
            if self._meeting is None or request.connection is not self._meeting.connection:
                raise errors.Busy(f"channel {self._named.name!r} has another receiver")
            request.answer()   # before we go on: whatever happens to us then, the receiver has met us
            self._confirmed = True
            self._changed.notify_all()

    def _lost(self, connection: Connection) -> None:
        """The receiver is gone; if it had not taken its end, another one may."""
        with self._changed:
            if not self._confirmed and self._meeting is not None and self._meeting.connection is connection:
                self._meeting.link.close()
                self._meeting = None

    # ---- for a receiver of another node ----

    def far_asked(self, peer: FarPeer, tie: FarTie, listens: object) -> Body:
        """Decides for it; what it is to be told. listens: where it would. Raises NoTransport, Busy."""
        decided = partial(self._decision, peer.placement, str(peer))
        decision, body, link = made_far(self._named, decided, self._redis, listens)
        try:
            with self._changed:
                if self._meeting is not None or self._confirmed:
                    raise errors.Busy(f"channel {self._named.name!r} has a receiver already")
                self._meeting = Meeting(tie, decision, peer.placement, link)
        except BaseException:
            link.close()
            raise
        return body

    def far_met(self) -> None:
        """It has its end."""
        with self._changed:
            self._confirmed = True

    def far_lost(self) -> None:
        """It has not taken its end; another one may."""
        self._withdraw()


class _FarOffer:
    """What a sender does for receivers of other nodes, on the thread that waits."""

    def __init__(self, offer: Offer, cluster: ClusterName) -> None:
        self._offer = offer
        self._cluster = cluster
        self._peer: FarPeer | None = None
        self._until = 0.0

    def look(self) -> None:
        """Whether one asks, or has its end. Raises RegistryUnavailable, RedisUnavailable, BadSpec."""
        self._cluster.check()
        if self._peer is None:
            if (asking := self._cluster.asked()) is not None:
                self._answer(*asking)
        elif self._cluster.confirmed(self._peer):
            self._offer.far_met()
        elif time.monotonic() > self._until:
            self._peer = None
            self._offer.far_lost()

    def _answer(self, peer: FarPeer, listens: object) -> None:
        try:
            body = self._offer.far_asked(peer, FarTie(self._cluster, peer), listens)
        except errors.Error as error:
            self._cluster.reply(peer, {"error": type(error).__name__, "message": str(error)})
            if isinstance(error, errors.BadSpec):
                raise   # what we were given is wrong, whoever asks
            return
        self._peer, self._until = peer, time.monotonic() + SECONDS
        self._cluster.reply(peer, body)
