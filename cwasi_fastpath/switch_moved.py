"""What a sender does whose receiver goes on in another process: it switches to a link whose other end is there.

    heir -> sender       prepare (token, placement, where it would listen) -> epoch, link, decision, placement, with
                         descriptors; go -> nothing

The receiver has announced it (see announced). Between `prepare` and `go` the two receivers agree (see handover); the
sender goes on as before, but does not switch. A heir that hangs up before `go` has never been.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from . import errors, reach
from ._native import lib
from .announced import Announced
from .cluster import FarTie
from .connection import Connection
from .endpoint import SENDER
from .meeting import Meeting, NamedEnd, Tie, placed
from .offer import Decided, made, made_far
from .placement import Placement
from .policy import Decision
from .request import Body, InTurn, Request, close_all
from .sender import Sender
from .transport import Link

_TURN_SECONDS = 5.0
"""For which a heir waits for a switch that is under way."""


@dataclass(slots=True)
class _Heir:
    connection: Tie
    told: threading.Event = field(default_factory=threading.Event)
    """It goes on, or is gone."""
    go: Request | None = None


class NamedMove:
    """What a sender that met its receiver by name needs to follow it to another process."""

    def __init__(self, named: NamedEnd, decided: Decided, redis: str | None) -> None:
        self._named = named
        self._decided = decided
        self._redis = redis
        self._announced = Announced(named)
        self._heir: _Heir | None = None
        named.listen("prepare", InTurn().handler(self._prepare), far=True)
        named.listen("go", self._go, far=True)

    def _go(self, request: Request) -> None:
        heir = self._heir
        if heir is None or heir.connection is not request.connection:
            raise errors.Busy(f"channel {self._named.name!r}: nothing was prepared for this receiver")
        heir.go = request
        heir.told.set()

    def _prepare(self, request: Request, fds: list[int]) -> None:
        self._announced.check(request.body.get("token"), once=True)
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
        tie = request.connection
        assert isinstance(tie, Connection | FarTie)   # it has come to us by one
        peer = placed(tie, request.body.get("placement"))
        epoch = sender.epoch + 1
        decision, body, passed, link = self._made(tie, peer, request.body.get("listens"))
        heir = self._heir = _Heir(tie)
        there, pointer = False, None
        try:
            if isinstance(tie, Connection):
                tie.stranger = False
            else:
                pointer = reach.opened(link, None)   # what is in its way we know before it goes on
            tie.when_gone(lambda died: heir.told.set())
            request.answer({**body, "epoch": epoch}, passed)
            heir.told.wait()
            if heir.go is not None:
                mine, pointer = pointer, None
                self._switch(sender, Meeting(tie, decision, peer, link, epoch), mine)
                there = True
                heir.go.answer()
        except errors.Error as error:
            if heir.go is not None:
                heir.go.refuse(error)
        finally:
            self._heir = None
            close_all(passed)
            if pointer is not None:
                lib.cwasi_channel_free(pointer)
            if not there:
                named.went_back(link)

    def _made(self, tie: Tie, peer: Placement, listens: object) -> tuple[Decision, Body, list[int], Link]:
        """As made."""
        if isinstance(tie, FarTie):
            decision, body, link = made_far(
                self._named, lambda missing: self._decided(peer, self._named.here, missing), self._redis, listens
            )
            return decision, body, [], link
        decision = self._decided(peer, self._named.here, {})
        body, passed, link = made(self._named, decision, self._redis)
        return decision, body, passed, link

    def _switch(self, sender: Sender, meeting: Meeting, pointer: Any) -> None:
        """However long it takes until the old receiver has made room: it reads on for the new one."""
        if pointer is None:
            pointer = meeting.link.open(SENDER)
        # Before anything can go that way: whoever closes the sender then waits until it is out.
        self._named.went_on(meeting)
        sender.leave_for(pointer, meeting.decision.mode, None)
        self._named.look()   # it may have died meanwhile
