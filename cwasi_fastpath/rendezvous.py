"""Ends that meet by name: one in each process, whichever comes first.

Each claims its name in the runtime directory. Then the sender knocks at the process of a receiver that is there, and
the receiver asks the process of a sender that is there to meet; as each claims before it looks, one of them finds the
other. The sender's side decides the transport, makes the link, and passes the receiver's end over the connection of the
two, which then tells either side when the other one dies. A death before the receiver has confirmed leaves the other
side waiting, as if nothing had been.

    receiver -> sender   meet (placement) -> link, decision, placement, with descriptors; met -> nothing
    sender -> receiver   knock
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from . import calibration, control, errors, registry
from . import transport as transports
from .connection import Connection
from .descriptors import allow_many
from .endpoint import RECEIVER, SENDER
from .meeting import Meeting, NamedEnd
from .modes import Mode, Transport, mode_of, parse_mode, parse_transport
from .placement import Placement, edge_facts, here, of_peer
from .policy import CostPolicy, Decision, Policy, Request, decide, ruled_out
from .receiver import Receiver
from .request import Answer, Body, close_all
from .request import Request as Asked
from .sender import Sender
from .tidy import tidy
from .transport import Link

_LOOK = 0.25
"""Seconds after which a receiver looks again without a knock."""
_AGAIN = 0.02
"""The same when a sender was there, but not for us (yet)."""

_log = logging.getLogger(__name__)


def open_sender(
    name: str,
    *,
    timeout: float | None = None,
    trust: str = "default",
    mode: Mode | str | None = None,
    transport: Transport | str | None = None,
    redis: str | None = None,
    policy: Policy | None = None,
) -> Sender:
    """The sending end of a channel whose receiver another process, or thread, of this node opens by the same name.

    Waits for it (timeout: seconds; None: for ever), then decides what carries the channel. trust: the label of our
    trust domain. mode, transport: leave the policy only this choice. redis: URL of a server, which makes that transport
    possible. policy: CostPolicy by default.
    Raises Timeout, Busy for a name that has a sender, BadName, BadSpec, RegistryUnavailable, RedisUnavailable.
    """
    chosen = policy if policy is not None else CostPolicy(calibration.costs(redis))
    asked = parse_mode(mode), parse_transport(transport)

    def decided(peer: Placement, mine: Placement) -> Decision:
        facts = edge_facts(mine, peer)
        return decide(chosen, facts, f"channel {name!r}", mode=asked[0], asked=asked[1], redis=redis)

    allow_many()
    with NamedEnd(name, SENDER, here(trust)) as named:
        offer = _Offer(named, decided, redis)
        named.claim()
        if (receiver := registry.holder(name, RECEIVER)) is not None:
            registry.tell(receiver.address, "knock", name)
        meeting = offer.taken(timeout)
        try:
            sender = Sender(meeting.link.open(SENDER), name, meeting.decision.mode)
        except BaseException:
            meeting.link.close()
            meeting.connection.hang_up()
            raise
        tidy(sender)
        named.opened(sender, meeting)
        return sender


def open_receiver(name: str, *, timeout: float | None = None, trust: str = "default") -> Receiver:
    """The receiving end of a channel whose sender another process, or thread, of this node opens by the same name.

    Waits for it (timeout: seconds; None: for ever). trust: the label of our trust domain.
    Raises Timeout, Busy for a name that has a receiver, BadName, NoTransport, RegistryUnavailable, RedisUnavailable.
    """
    allow_many()
    with NamedEnd(name, RECEIVER, here(trust)) as named:
        search = _Search(named)
        named.claim()
        receiver, meeting = search.found(timeout)
        named.opened(receiver, meeting)
        return receiver


class _Offer:
    """What a sender has for the receiver that comes first; on the control thread until it is taken."""

    def __init__(self, named: NamedEnd, decided: Callable[[Placement, Placement], Decision], redis: str | None) -> None:
        self._named = named
        self._decided = decided
        self._redis = redis
        self._changed = threading.Condition()
        self._meeting: Meeting | None = None
        self._confirmed = False
        named.listen("meet", self._asked)
        named.listen("met", self._met)

    def taken(self, timeout: float | None) -> Meeting:
        """Waits for a receiver that has its end. Raises Timeout."""
        with self._changed:
            if self._changed.wait_for(lambda: self._confirmed, timeout):
                assert self._meeting is not None
                return self._meeting
            meeting, self._meeting, self._confirmed = self._meeting, None, True
        if meeting is not None:
            meeting.connection.hang_up()
            meeting.link.close()
        raise errors.Timeout(f"channel {self._named.name!r}: no receiver has come within {timeout:g} s")

    def _asked(self, request: Asked) -> None:
        """A receiver is there. Raises what rules it out."""
        peer = of_peer(request.connection.peer, request.body.get("placement"))
        with self._changed:
            if self._meeting is not None or self._confirmed:
                raise errors.Busy(f"channel {self._named.name!r} has a receiver already")
            try:
                decision = self._decided(peer, self._named.here)
            except errors.NoTransport as error:
                _log.warning("%s is refused: %s", request.connection.peer, error)
                raise
            self._meeting = Meeting(request.connection, decision, peer, self._handed_over(request, decision))
        request.connection.stranger = False
        request.connection.when_gone(self._lost)

    def _handed_over(self, request: Asked, decision: Decision) -> Link:
        """Makes the link and passes on the receiver's end; ours."""
        link = transports.create(decision.transport, redis=self._redis, key=self._named.name)
        try:
            description, fds = link.export(SENDER)
            mine = transports.join(description, [os.dup(fd) for fd in fds])
            description, fds = link.export(RECEIVER)
            request.answer(
                {"link": description, "decision": asdict(decision), "placement": self._named.here.as_plain()}, fds
            )
        finally:
            link.close()
        return mine

    def _met(self, request: Asked) -> None:
        with self._changed:
            if self._meeting is None or request.connection is not self._meeting.connection:
                raise errors.Busy(f"channel {self._named.name!r} has another receiver")
            self._confirmed = True
            self._changed.notify_all()
        request.answer()

    def _lost(self, died: bool) -> None:
        """The receiver is gone; if it had not taken its end, another one may."""
        with self._changed:
            if not self._confirmed and self._meeting is not None:
                self._meeting.link.close()
                self._meeting = None


class _Search:
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
            met = self._tried(until)
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
        with _Owned(answer.fds) as fds:
            peer = of_peer(connection.peer, answer.body.get("placement"))
            decision = self._checked(answer.body, peer)
            link = _joined(answer.body.get("link"), decision.transport, fds)
        try:
            receiver = Receiver(_opened(link), self._named.name, decision.mode)
            try:
                asked("met", {})
            except BaseException:
                receiver.close()
                raise
        except BaseException:
            link.close()
            raise
        return receiver, Meeting(connection, decision, peer, link)

    def _checked(self, body: dict[str, Any], peer: Placement) -> Decision:
        """The sender's decision, unless our own facts forbid it."""
        facts = edge_facts(peer, self._named.here)
        match body.get("decision"):
            case {"transport": kind, "reason": str(reason), "alternatives": list(others)} if kind in list(Transport):
                transport = Transport(kind)
                decision = Decision(mode_of(transport, facts.locality), transport, reason, tuple(map(str, others)))
            case _:
                raise _dishonest("a decision")
        obstacle = ruled_out(Request(facts, available=frozenset(Transport)), transport)
        if obstacle is not None:
            raise errors.NoTransport(f"channel {self._named.name!r}: the sender offers {transport}: {obstacle}")
        return decision


def _joined(description: object, transport: Transport, fds: list[int]) -> Link:
    """The link that a sender passed on, which owns the descriptors. Raises Corrupted."""
    if not isinstance(description, dict) or description.get("transport") != transport:
        raise _dishonest("a link")
    try:
        link = transports.join(description, fds[:])
    except (LookupError, TypeError, ValueError) as error:
        raise _dishonest("a link") from error
    fds.clear()
    return link


def _opened(link: Link) -> Any:
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
