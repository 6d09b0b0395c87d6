"""A live switch of a channel whose two ends met by name, each in a process of its own.

    sender -> receiver   switch (epoch, link, decision), with descriptors -> nothing; withdraw (epoch) -> nothing
    across nodes, to tcp: switch (epoch, where to listen, decision) -> link
    anybody -> sender    switch-to (target, timeout) -> epoch, transport, mode
    heir -> receiver     introduce (token, placement) -> placement, where it would listen
                         provide (token, link, decision), with descriptors -> nothing

With a token the sender's end of the new link is in another process (see handover), which has introduced itself and
provided the link.

The receiver is given its end of the new link over the connection of the two, and its control thread hands that to the
end, whatever the thread that receives is doing. Then the sender goes, and the receiver follows by itself. A receiver
that has not followed the last time yet is busy, and is asked again. What a sender offers counts until it withdraws it,
or offers something else for the same epoch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial

from . import errors, reach
from . import transport as transports
from .announced import Announced
from .cluster import FarTie
from .connection import Connection
from .door import Door
from .endpoint import RECEIVER, SENDER
from .meeting import CLOSED, Meeting, NamedEnd, Tie, placed
from .modes import Transport, mode_of
from .placement import Placement, edge_facts
from .policy import Decision, Request, ruled_out
from .receiver import Receiver
from .request import Answer, Body, InTurn, duplicates
from .request import Request as Asked
from .search import checked_decision, joined, opened
from .sender import Sender
from .switch import left, open_in_time, until_of, wish
from .transport import Link, call_off
from .transport.target import host_and_port, link_to, transport_of

_AGAIN = (0.001, 0.05)
"""Seconds after which a busy receiver is asked again, at first and at last."""


# ---- the sender's side ----


class NamedSwitch:
    """What a sender that met its receiver by name needs to go on elsewhere."""

    def __init__(self, named: NamedEnd, redis: str | None = None) -> None:
        """redis: the server that is meant by its name alone."""
        self._named = named
        self._redis = redis
        self._process = os.getpid()
        named.listen("switch-to", InTurn().handler(self._asked))

    def switch(self, target: str, timeout: float | None) -> None:
        """As Sender.switch."""
        until = until_of(timeout)
        if os.getpid() != self._process:
            raise errors.BadSpec(
                f"channel {self._named.name!r}: this is a forked copy; the process that opened the sender can switch it"
            )
        if not self._named.turn.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"channel {self._named.name!r}: another switch is under way")
        try:
            while not self._switched(target, until):
                pass
        finally:
            self._named.turn.release()

    def _switched(self, target: str, until: float | None) -> bool:
        """False where the receiver has gone on in another process meanwhile."""
        meeting, sender = self._named.meeting, self._named.end
        if meeting is None or not isinstance(sender, Sender):
            raise errors.ChannelClosed(f"channel {self._named.name!r}: its sender is closed")
        if target == Transport.REDIS and self._redis is not None:
            target = self._redis
        decision = self._decided(target, meeting)
        epoch = sender.epoch + 1
        body: Body = {"epoch": epoch, "decision": asdict(decision)}
        mine: Link | None = None
        try:
            mine = self._agreed(target, meeting, body, until)
            if mine is None:
                return False
            # Before anything can go that way: whoever closes the sender then waits until it is out.
            self._named.went_on(replace(meeting, decision=decision, link=mine, epoch=epoch))
            far = isinstance(meeting.connection, FarTie) and mine.transport is Transport.TCP
            pointer = reach.opened(mine, left(until)) if far else open_in_time(mine, SENDER, until)
            sender.leave_for(pointer, decision.mode, left(until))
            self._named.look()   # it may have died meanwhile
            return True
        except BaseException as error:
            self._give_up(sender, meeting.connection, epoch, mine)
            if isinstance(error, errors.TcpUnavailable) and isinstance(meeting.connection, Connection):
                # It had agreed, and nobody but it listens there.
                raise errors.PeerDied(f"channel {self._named.name!r}: its receiver is gone in the switch") from error
            if isinstance(error, errors.Error) and isinstance(meeting.connection, FarTie):
                raise type(error)(f"{error}; the channel stays on {meeting.decision.transport}") from error
            raise

    def _agreed(self, target: str, meeting: Meeting, body: Body, until: float | None) -> Link | None:
        """Our side of a link of which the receiver has its own; None where it has gone on in another process."""
        if isinstance(meeting.connection, FarTie) and transport_of(target) is Transport.TCP:
            at = host_and_port(target) if target != Transport.TCP else None
            answer = offered(self._named, meeting, {**body, "listen": at}, [], until)
            return reach.reached(answer.body.get("link"), left(until)) if answer is not None else None
        link = link_to(target, key=self._named.name)
        try:
            description, fds = link.export(SENDER)
            mine = transports.join(description, duplicates(fds))
            description, fds = link.export(RECEIVER)
            if isinstance(meeting.connection, FarTie) and link.transport is Transport.REDIS:
                description = reach.marked(description)
            try:
                if offered(self._named, meeting, {**body, "link": description}, fds, until) is not None:
                    return mine
            except BaseException:
                call_off(mine)
                raise
            call_off(mine)
            return None
        finally:
            link.close()

    def _give_up(self, sender: Sender, connection: Tie, epoch: int, mine: Link | None) -> None:
        """Takes the offer back; also after a time-out, as the receiver may have agreed all the same."""
        with suppress(errors.ChannelClosed):   # then it reads on to the end, and no further
            if sender.epoch == epoch and self._named.link is mine:
                return   # there was a signal, just after it has gone there
            connection.mention("withdraw", {"epoch": epoch}, channel=self._named.name)
        if mine is not None:
            self._named.went_back(mine)

    def _decided(self, target: str, meeting: Meeting) -> Decision:
        """Raises NoTransport for what the facts forbid."""
        transport = transport_of(target)
        facts = edge_facts(self._named.here, meeting.peer)
        obstacle = ruled_out(Request(facts, available=frozenset(Transport)), transport)
        if obstacle is not None:
            raise errors.NoTransport(f"channel {self._named.name!r}: {transport}: {obstacle}")
        return Decision(mode_of(transport, facts.locality), transport, "a switch was asked for", ())

    def _asked(self, request: Asked, fds: list[int]) -> None:
        """Somebody wants us to switch."""
        self.switch(*wish(request))
        meeting = self._named.meeting
        assert meeting is not None   # or the switch had failed
        request.answer({"transport": str(meeting.decision.transport), "mode": str(meeting.decision.mode)})


def offered(named: NamedEnd, meeting: Meeting, body: Body, fds: list[int], until: float | None) -> Answer | None:
    """Offers the receiver its end of a link; in named.turn, which others may have while the receiver is busy: it may
    just go on in another process. None where it has. Raises Timeout, and what it refuses it with.
    """
    why: errors.Busy | None = None
    pause, last = _AGAIN
    while named.meeting is meeting:
        try:
            return meeting.connection.request("switch", body, fds, channel=named.name, timeout=left(until))
        except errors.Busy as busy:
            why = busy
        except errors.Timeout:
            if why is not None:
                raise errors.Timeout(str(why)) from why
            raise
        named.turn.release()
        try:
            time.sleep(pause)
        finally:
            named.turn.acquire()
        pause = min(2 * pause, last)
    return None


# ---- the receiver's side ----


class NamedFollower:
    """What a receiver that met its sender by name needs to follow it, also to another process."""

    def __init__(self, named: NamedEnd) -> None:
        self._named = named
        self._announced = Announced(named)
        self._heir: _Heir | None = None
        """Who came last and said that it will go on in the sender's place."""
        self._lock = threading.Lock()   # for that
        turn = InTurn()   # or an offer might be withdrawn before it is there
        for kind, work in (("switch", self._asked), ("withdraw", self._withdrawn)):
            named.listen(kind, partial(self._heard, turn.handler(work)), far=True)
        for kind, work in (("introduce", self._introduced), ("provide", self._provided)):
            named.listen(kind, turn.handler(work), far=True)
        named.at_end(self._forget_heir)

    def _heard(self, handler: Callable[[Asked], None], request: Asked) -> None:
        """On the control thread: others than our sender do not get to wait before it."""
        self._of_our_sender(request)
        handler(request)

    def _of_our_sender(self, request: Asked) -> tuple[Meeting, Receiver, int]:
        """Raises Busy for others, ChannelClosed, Corrupted."""
        receiver, epoch = self._named.end, request.body.get("epoch")
        if self._named.meeting is None:
            raise errors.Busy(f"channel {self._named.name!r}: its receiver is not there yet")
        if not isinstance(receiver, Receiver):
            raise errors.ChannelClosed(f"channel {self._named.name!r}: its receiver is closed")
        meeting = self._named.meeting_of(receiver.epoch)
        if meeting is None or request.connection is not meeting.connection:
            if request.connection is self._named.meeting.connection:
                raise self._behind()
            raise errors.Busy(f"channel {self._named.name!r} has another sender")
        if not isinstance(epoch, int) or not 0 < epoch < 1 << 32:
            raise errors.Corrupted(f"channel {self._named.name!r}: a switch to epoch {str(epoch)[:20]}")
        return meeting, receiver, epoch

    def _behind(self) -> errors.Busy:
        return errors.Busy(f"channel {self._named.name!r}: its receiver has not read to the last switch yet")

    def _introduced(self, request: Asked, fds: list[int]) -> None:
        tie = request.connection
        assert isinstance(tie, Connection | FarTie)   # it has come to us by one
        peer, token = placed(tie, request.body.get("placement")), request.body.get("token")
        self._announced.check(token)
        self._forget_heir()
        heir = _Heir(tie, peer, token, Door(tie))
        told = heir.door.told
        tie.when_gone(partial(self._heir_gone, heir))
        self._keep(heir)
        request.answer({"placement": self._named.here.as_plain(), "listens": told})

    def _provided(self, request: Asked, fds: list[int]) -> None:
        heir = self._taken_heir(request.body.get("token"), request.connection)
        try:
            heir.decision = heir.door.comes(self._named, heir.peer, request.body, fds)
        except BaseException:
            heir.door.close()
            raise
        self._keep(heir)
        request.answer()

    def _keep(self, heir: _Heir) -> None:
        """Unless it is gone, or we are: nobody else would close its door."""
        with self._lock:
            if not heir.gone and self._named.state != CLOSED:
                self._heir = heir
                return
        heir.door.close()

    def _taken_heir(self, token: object, tie: object = None) -> _Heir:
        """The caller's now. tie: by which it asks. Raises PeerDied, not Busy: there is nothing to wait for."""
        with self._lock:
            heir = self._heir
            if heir is not None and heir.token == token and (tie is None or heir.tie is tie):
                self._heir = None
                return heir
        raise errors.PeerDied(f"channel {self._named.name!r}: who goes on in its sender's place is not there")

    def _heir_gone(self, heir: _Heir, died: bool) -> None:
        with self._lock:
            heir.gone = True
            if self._heir is not heir:
                return
            self._heir = None
        heir.door.close()

    def _forget_heir(self) -> None:
        with self._lock:
            heir, self._heir = self._heir, None
        if heir is not None:
            heir.door.close()

    def _from_heir(self, receiver: Receiver, meeting: Meeting, epoch: int, token: object) -> None:
        """Attaches what it has provided: with it we have to do after the switch. Raises PeerDied, Corrupted."""
        heir = self._taken_heir(token)
        try:
            if heir.decision is None:
                raise errors.Corrupted(f"channel {self._named.name!r}: who goes on in its sender's place has no link")
            if heir.peer.trust != meeting.peer.trust:
                raise errors.Corrupted(f"channel {self._named.name!r}: its sender would go to another trust domain")
            if isinstance(heir.tie, Connection):
                heir.tie.stranger = False
            receiver.attach(heir.door.take_end(), epoch, heir.decision.mode)
            link = heir.door.taken()
        finally:
            heir.door.close()
        self._named.went_on(Meeting(heir.tie, heir.decision, heir.peer, link, epoch))

    def _asked(self, request: Asked, fds: list[int]) -> None:
        meeting, receiver, epoch = self._of_our_sender(request)
        if receiver.epoch != epoch - 1:
            raise self._behind()
        token = request.body.get("token")
        if token is None:
            decision = checked_decision(self._named.name, request.body, meeting.peer, self._named.here)
        self._detached(receiver, epoch)   # what was offered before
        self._named.settled()
        if token is not None:
            self._from_heir(receiver, meeting, epoch, token)
            request.answer()
            return
        link, told = self._link(request, decision.transport, fds)
        try:
            receiver.attach(opened(link), epoch, decision.mode)
        except BaseException:
            transports.call_off(link)
            raise
        self._named.went_on(replace(meeting, decision=decision, link=link, epoch=epoch))
        request.answer(told)

    def _link(self, request: Asked, transport: Transport, fds: list[int]) -> tuple[Link, Body]:
        """And what the sender is to be told of it."""
        if not isinstance(request.connection, FarTie) or transport is not Transport.TCP:
            return joined(request.body.get("link"), transport, fds), {}
        match request.body.get("listen"):
            case [str(host), int(port)]:
                link = reach.listening(request.connection.url, host, port)
            case None:
                link = reach.listening(request.connection.url)
            case _:
                raise errors.Corrupted(f"channel {self._named.name!r}: a switch to tcp, and nowhere")
        return link, {"link": reach.described(link)}

    def _withdrawn(self, request: Asked, fds: list[int]) -> None:
        _, receiver, epoch = self._of_our_sender(request)
        self._detached(receiver, epoch)
        request.answer()

    def _detached(self, receiver: Receiver, epoch: int) -> None:
        """Nothing of that epoch is attached, unless the sender has gone there."""
        with suppress(OSError):   # it has, or there is nothing
            receiver.detach(epoch)
            if (meeting := self._named.meeting) is not None:
                self._named.went_back(meeting.link)


@dataclass(slots=True)
class _Heir:
    """A process that will go on in the place of our sender."""

    tie: Tie
    peer: Placement
    token: object
    """By which our sender means it."""
    door: Door
    decision: Decision | None = None
    """About the link that has come."""
    gone: bool = False
