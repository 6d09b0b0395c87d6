"""The receiver's side of a meeting: looks for a sender, asks it, and takes what it passes on, if that is in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from . import control, errors, reach, registry
from . import transport as transports
from .cluster import ClusterName, FarPeer, FarTie
from .connection import Connection
from .endpoint import RECEIVER, SENDER
from .meeting import Meeting, NamedEnd, Tie
from .modes import Transport, mode_of
from .placement import Placement, edge_facts, of_peer
from .policy import Decision, Request, ruled_out
from .receiver import Receiver
from .request import Answer, Body, close_all, refusal
from .transport import Link

_LOOK = 0.25
"""Seconds after which a receiver looks again without a knock."""
_AGAIN = 0.02
"""The same when a sender was there, but not for us (yet)."""


class Search:
    """A receiver's search for its sender."""

    def __init__(self, named: NamedEnd) -> None:
        self._named = named
        self._knocked = threading.Event()
        self._pause = _LOOK
        named.listen("knock", lambda request: self._knocked.set())

    def found(self, timeout: float | None) -> tuple[Receiver, Meeting]:
        """Waits for a sender, and meets it. Raises Timeout, NoTransport."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self._knocked.clear()
            met = self._tried(until) or self._tried_afar(until)
            if met is not None:
                return met
            left = self._pause if until is None else min(self._pause, until - time.monotonic())
            if left <= 0:
                raise errors.Timeout(f"channel {self._named.name!r}: no sender has come within {timeout:g} s")
            self._knocked.wait(left)

    def _tried(self, until: float | None) -> tuple[Receiver, Meeting] | None:
        """None where nobody is there for us, or has died while we met."""
        self._pause = _LOOK
        sender = registry.holder(self._named.name, SENDER)
        if sender is None:
            return None
        try:
            connection = control.connect(sender.address)
        except (errors.PeerDied, OSError):
            return None
        self._pause = _AGAIN
        try:
            return self._meet(connection, until)
        except (errors.PeerDied, errors.Busy, errors.NoSuchChannel, errors.Timeout):
            connection.hang_up()
            return None
        except BaseException:
            connection.hang_up()
            raise

    def _meet(self, connection: Connection, until: float | None) -> tuple[Receiver, Meeting]:
        """Raises what the sender refuses it with, Corrupted for one that is not honest, and as Connection.request."""

        def asked(kind: str, body: Body) -> Answer:
            left = None if until is None else max(0.0, until - time.monotonic())
            return connection.request(kind, body, channel=self._named.name, timeout=left)

        answer = asked("meet", {"placement": self._named.here.as_plain()})
        receiver, meeting = self._taken(connection, answer, partial(of_peer, connection.peer))
        try:
            asked("met", {})
        except BaseException:
            receiver.close()
            meeting.link.close()
            raise
        return receiver, meeting

    def _tried_afar(self, until: float | None) -> tuple[Receiver, Meeting] | None:
        """The same for a sender of another node. Raises what it refuses it with, RegistryUnavailable."""
        cluster = self._named.cluster
        if cluster is None:
            return None
        cluster.check()
        sender = cluster.peer()
        if sender is None or registry.alive(sender.address) is not None:
            return None   # one that is on this node meets us here
        own, met = reach.listening_if_possible(cluster.server.url), None
        try:
            met = self._met_afar(cluster, sender, own, until)
            return met
        finally:
            if own is not None and (met is None or met[1].link is not own):
                own.close()

    def _met_afar(
        self, cluster: ClusterName, sender: FarPeer, own: Link | None, until: float | None
    ) -> tuple[Receiver, Meeting] | None:
        """own: the link that it has if it goes by TCP."""
        if not cluster.ask(sender, None if own is None else reach.described(own)):
            return None
        body = cluster.answer(sender, until)
        if body is None:
            return None
        if "error" in body:
            if (error := refusal(body)).__class__ is errors.Busy:
                return None
            raise error
        receiver, meeting = self._taken(FarTie(cluster, sender), Answer(body), lambda said: sender.placement, own)
        try:
            cluster.confirm(sender)
        except BaseException:
            receiver.close()
            meeting.link.close()
            raise
        return receiver, meeting

    def _taken(
        self, tie: Tie, answer: Answer, placed: Callable[[object], Placement], own: Link | None = None
    ) -> tuple[Receiver, Meeting]:
        """Our end, as the sender passed it on, if that is in order. placed: where it is, given what it says. own: where
        we listen for a sender of another node.
        """
        with _Owned(answer.fds) as fds:
            peer = placed(answer.body.get("placement"))
            decision = checked_decision(self._named.name, answer.body, peer, self._named.here)
            if own is not None and decision.transport is Transport.TCP:
                link = own
            else:
                link = joined(answer.body.get("link"), decision.transport, fds)
        try:
            return Receiver(opened(link), self._named.name, decision.mode), Meeting(tie, decision, peer, link)
        except BaseException:
            link.close()
            raise


def checked_decision(name: str, body: dict[str, Any], peer: Placement, here: Placement) -> Decision:
    """The sender's decision, unless our own facts forbid it. Raises Corrupted, NoTransport."""
    facts = edge_facts(peer, here)
    match body.get("decision"):
        case {"transport": kind, "reason": str(reason), "alternatives": list(others)} if kind in list(Transport):
            transport = Transport(kind)
            decision = Decision(mode_of(transport, facts.locality), transport, reason, tuple(map(str, others)))
        case _:
            raise _dishonest("a decision")
    obstacle = ruled_out(Request(facts, available=frozenset(Transport)), transport)
    if obstacle is not None:
        raise errors.NoTransport(f"channel {name!r}: the sender offers {transport}: {obstacle}")
    return decision


def joined(description: object, transport: Transport, fds: list[int]) -> Link:
    """The link that a sender passed on, which owns the descriptors. Raises Corrupted, NoTransport, RedisUnavailable."""
    if not isinstance(description, dict) or description.get("transport") != transport:
        raise _dishonest("a link")
    if "mark" in description:
        reach.check_mark(description)
    try:
        link = transports.join(description, fds[:])
    except (LookupError, TypeError, ValueError) as error:
        raise _dishonest("a link") from error
    fds.clear()
    return link


def opened(link: Link) -> Any:
    """The receiver's end of it. Raises Corrupted, and what open raises."""
    try:
        return link.open(RECEIVER)
    except (LookupError, TypeError) as error:
        raise _dishonest("an end to receive from") from error


def _dishonest(what: str) -> errors.Corrupted:
    return errors.Corrupted(f"the process that holds the sender did not give us {what}, as an honest one does")


class _Owned:
    """Descriptors that are closed unless somebody takes them."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def __enter__(self) -> list[int]:
        return self._fds

    def __exit__(self, *unused: object) -> None:
        close_all(self._fds)
