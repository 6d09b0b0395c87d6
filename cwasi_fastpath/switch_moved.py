"""What a sender does whose receiver goes on in another process: it switches to a link whose other end is there.

    receiver -> sender   successor (token) -> nothing
    heir -> sender       prepare (token, placement) -> epoch, link, decision, placement, with descriptors; go -> nothing

Between `prepare` and `go` the two receivers agree (see handover); the sender goes on as before, but does not switch. A
heir that hangs up before `go` has never been.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from . import errors
from .connection import Connection
from .endpoint import SENDER
from .meeting import Meeting, NamedEnd
from .offer import Decided, made
from .placement import of_peer
from .request import InTurn, Request, close_all
from .sender import Sender

_TURN_SECONDS = 5.0
"""For which a heir waits for a switch that is under way."""


@dataclass(slots=True)
class _Heir:
    connection: Connection
    told: threading.Event = field(default_factory=threading.Event)
    """It goes on, or is gone."""
    go: Request | None = None


class NamedMove:
    """What a sender that met its receiver by name needs to follow it to another process."""

    def __init__(self, named: NamedEnd, decided: Decided, redis: str | None) -> None:
        self._named = named
        self._decided = decided
        self._redis = redis
        self._token: str | None = None
        """Of the one whom our receiver has announced."""
        self._heir: _Heir | None = None
        named.listen("successor", self._announced)
        named.listen("prepare", InTurn().handler(self._prepare))
        named.listen("go", self._go)

    def _announced(self, request: Request) -> None:
        meeting, token = self._named.meeting, request.body.get("token")
        if meeting is None or request.connection is not meeting.connection or not isinstance(token, str):
            raise errors.Busy(f"channel {self._named.name!r} has another receiver")
        self._token = token
        request.answer()

    def _go(self, request: Request) -> None:
        heir = self._heir
        if heir is None or heir.connection is not request.connection:
            raise errors.Busy(f"channel {self._named.name!r}: nothing was prepared for this receiver")
        heir.go = request
        heir.told.set()

    def _prepare(self, request: Request, fds: list[int]) -> None:
        if self._token is None or request.body.get("token") != self._token:
            raise errors.Busy(f"channel {self._named.name!r} has another receiver")
        self._token = None
        if not self._named.turn.acquire(timeout=_TURN_SECONDS):
            raise errors.Busy(f"channel {self._named.name!r}: a switch is under way")
        try:
            self._serve(request)
        finally:
            self._named.turn.release()

    def _serve(self, request: Request) -> None:
        named = self._named
        meeting, sender = named.meeting, named.end
        if meeting is None or not isinstance(sender, Sender):
            raise errors.ChannelClosed(f"channel {named.name!r}: its sender is closed")
        connection = request.connection
        assert isinstance(connection, Connection)   # only those of this node may ask it
        peer = of_peer(connection.peer, request.body.get("placement"))
        decision = self._decided(peer, named.here, {})
        epoch = sender.epoch + 1
        body, passed, link = made(named, decision, self._redis)
        heir = self._heir = _Heir(connection)
        there = False
        try:
            request.answer({**body, "epoch": epoch}, passed)
            connection.stranger = False
            connection.when_gone(lambda died: heir.told.set())
            heir.told.wait()
            if heir.go is not None:
                self._switch(sender, Meeting(heir.connection, decision, peer, link, epoch))
                there = True
                heir.go.answer()
        except errors.Error as error:
            if heir.go is not None:
                heir.go.refuse(error)
        finally:
            self._heir = None
            close_all(passed)
            if not there:
                named.went_back(link)

    def _switch(self, sender: Sender, meeting: Meeting) -> None:
        """However long it takes until the old receiver has made room: it reads on for the new one."""
        pointer = meeting.link.open(SENDER)
        # Before anything can go that way: whoever closes the sender then waits until it is out.
        self._named.went_on(meeting)
        sender.leave_for(pointer, meeting.decision.mode, None)
        self._named.look()   # it may have died meanwhile
