"""The receiver's side of a live switch of a channel whose two ends met by name; see switch_named."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from . import errors, reach
from . import transport as transports
from .announced import Announced
from .cluster import FarTie
from .connection import Connection
from .door import Door
from .meeting import CLOSED, COUNTED, ECHO, Meeting, NamedEnd, Tie, placed
from .modes import Transport
from .observing import counts
from .placement import Placement
from .policy import Decision
from .receiver import Receiver
from .request import Body, InTurn
from .request import Request as Asked
from .search import checked_decision, joined, opened
from .transport import Link


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
        named.listen(COUNTED, self._counted)
        named.listen(ECHO, InTurn().handler(self._echoes), far=True)
        named.at_end(self._forget_heir)

    def _counted(self, request: Asked) -> None:
        """On the control thread: what our end has counted, for who decides what carries its messages."""
        end = self._named.end
        found = None if end is None else counts(end)
        request.answer({} if found is None else {"counts": list(found)})

    def _echoes(self, request: Asked, fds: list[int]) -> None:
        if not isinstance(request.connection, FarTie):
            raise errors.BadSpec(f"channel {self._named.name!r}: there is no network to who asks")
        request.answer(reach.echo(request.connection.url))

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
