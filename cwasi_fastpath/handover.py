"""The predecessor's side of a move: an end that was opened by name goes on in another process, under the same name.

    successor -> predecessor   succeed-ROLE (placement) -> token
                               inherit-ROLE, of a sender: (epoch, link, decision), with descriptors -> nothing
                                             of a receiver: (nothing) -> link, decision, placement, with descriptors
                               succeeded-ROLE -> the lock of the name, as a descriptor

The token makes the successor known to the peer. A sender's successor makes the link by which the channel goes on, and
its predecessor offers the peer that link, as for a switch; at `succeeded` it sends the last word, between two messages.
A receiver's successor is given such a link by the peer. What the peer has sent on the old one until it goes there, the
predecessor passes on, by a link of the two receivers that the new one reads first, with the last word behind it.

Up to `succeeded` a death, an error or the end of the time changes nothing; the end goes on as before.
"""

from __future__ import annotations

import os
import queue
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from . import control, errors
from .connection import Connection
from .endpoint import RECEIVER, SENDER, Endpoint
from .meeting import MOVING, OPEN, PEER_GONE, Meeting, NamedEnd
from .modes import Transport, mode_of
from .offer import made
from .placement import Placement, edge_facts, of_peer
from .policy import Decision
from .receiver import Receiver
from .registry import ROLES
from .request import Request, close_all
from .sender import Sender
from .switch import left, until_of
from .switch_named import offered

_LOOK = 0.5
"""Seconds after which who waits looks whether its end was closed."""

_WORDS = ("succeed", "inherit", "succeeded")


class HandOver:
    """Hands an end over, as often as it is tried; in the thread of who wants that."""

    def __init__(self, named: NamedEnd) -> None:
        self._named = named
        self._process = os.getpid()
        self._role = ROLES[named.role]

    def __str__(self) -> str:
        return f"the {self._role} of channel {self._named.name!r}"

    def hand_over(self, timeout: float | None) -> None:
        """As Endpoint.hand_over."""
        named, until = self._named, until_of(timeout)
        if os.getpid() != self._process:
            raise errors.BadSpec(f"{self}: this is a forked copy; the process that opened it can hand it over")
        if named.state == MOVING:
            raise errors.Busy(f"{self}: another thread is just handing it over")
        asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()

        def heard(request: Request) -> None:
            asked.put(_Asked(request, request.take_fds() if request.kind.startswith("inherit-") else []))

        kinds = [f"{word}-{self._role}" for word in _WORDS]
        if named.state == PEER_GONE and named.role == RECEIVER:
            named.claim_again()   # what was left for it is there all the same
            named.state = MOVING
        if named.state == OPEN:
            named.state = MOVING
        for kind in kinds:
            control.on(kind, heard, named.name)
        try:
            while not self._succeeded(_Questions(named, str(self), asked, until)):
                pass
        finally:
            for kind in kinds:
                control.off(kind, heard, named.name)
            if named.state == MOVING:
                named.state = OPEN
                named.look()
            while not asked.empty():
                if (late := asked.get()) is not None:
                    late.refuse(errors.Busy(f"{self} is not handed over any more"))

    def _succeeded(self, questions: _Questions) -> bool:
        """Waits for a successor, and serves it; false where it has not taken over."""
        named, first = self._named, questions.first()
        rest = left(questions.until)
        if not named.turn.acquire(timeout=-1 if rest is None else min(rest, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"{self}: a switch is under way")
        try:
            end, meeting = named.end, named.meeting
            if meeting is None or end is None:
                raise errors.ChannelClosed(f"{self} is closed")
            heir = self._heir(first.request)
            if isinstance(end, Sender):
                return _SenderMove(named, meeting, end, questions).done(first)
            assert isinstance(end, Receiver)
            return _ReceiverMove(named, meeting, end, questions, heir).done(first)
        except (errors.BadSpec, errors.BadName) as error:   # of what it asks
            first.refuse(error)
            return False
        except BaseException as error:
            first.refuse(error)   # unless it was answered
            raise
        finally:
            named.turn.release()

    def _heir(self, request: Request) -> Placement:
        """Where the successor is. Raises BadSpec where it may not be one."""
        heir, trust = of_peer(_near(request).peer, request.body.get("placement")), self._named.here.trust
        if heir.trust != trust:
            raise errors.BadSpec(f"{self} is of trust domain {trust!r}; so must be its successor, not {heir.trust!r}")
        return heir


def _near(request: Request) -> Connection:
    """Only processes of this node are asked in."""
    assert isinstance(request.connection, Connection)
    return request.connection


@dataclass(slots=True)
class _Asked:
    """What a successor asks."""

    request: Request
    fds: list[int]

    def refuse(self, error: BaseException) -> None:
        close_all(self.fds)
        self.request.refuse(error)


class _Questions:
    """Those of one successor, one after another."""

    def __init__(
        self, named: NamedEnd, what: str, asked: queue.SimpleQueue[_Asked | None], until: float | None
    ) -> None:
        """asked: from all processes; None where one has hung up. what: for messages."""
        self._named = named
        self._what = what
        self._asked = asked
        self._connection: Connection | None = None
        self.until = until

    def first(self) -> _Asked:
        """That of who comes first. Raises Timeout, and what says that this end is over."""
        while True:
            asked = self._get()
            if asked is None:
                continue   # one that was here before
            if asked.request.kind.startswith("succeed-"):
                self._connection = _near(asked.request)
                self._connection.when_gone(lambda died: self._asked.put(None))
                return asked
            asked.refuse(errors.Busy(f"{self._what}: that comes too late"))

    def next(self, word: str) -> _Asked:
        """The next one, which has to be of that kind. Raises also PeerDied where the successor is gone."""
        assert self._connection is not None   # there was a first one
        while True:
            asked = self._get()
            if self._connection.fileno() < 0:
                if asked is not None:
                    asked.refuse(errors.Busy(f"{self._what}: another process was just going on with it"))
                raise errors.PeerDied(f"{self._what}: its successor is gone")
            if asked is None:
                continue
            if asked.request.connection is self._connection and asked.request.kind.startswith(f"{word}-"):
                return asked
            asked.refuse(errors.Busy(f"{self._what}: another process is just going on with it"))

    def _get(self) -> _Asked | None:
        while True:
            end = self._named.end
            if end is None or end.closed:
                raise errors.ChannelClosed(f"{self._what} is closed")
            if self._named.state != MOVING:
                raise errors.PeerDied(f"{self._what}: the other side is gone; nobody could go on with it")
            rest = left(self.until)
            try:
                return self._asked.get(timeout=_LOOK if rest is None else min(_LOOK, rest))
            except queue.Empty:
                if rest is not None and rest <= _LOOK:
                    raise errors.Timeout(f"{self._what}: no other process has gone on with it in time") from None


class _Move:
    """What the moves of both ends have in common."""

    def __init__(self, named: NamedEnd, meeting: Meeting, questions: _Questions) -> None:
        self._named = named
        self._meeting = meeting
        self._questions = questions
        self._token = secrets.token_hex(16)
        if not isinstance(meeting.connection, Connection):
            raise errors.BadSpec(f"channel {named.name!r}: its other end is on another node; it cannot move yet")
        self._peer = meeting.connection

    def _give_name(self, asked: _Asked) -> None:
        """The last step: it is the successor's from now on."""
        self._named.leave_cluster()
        asked.request.answer({}, self._named.lent())
        self._named.forget()


class _SenderMove(_Move):
    def __init__(self, named: NamedEnd, meeting: Meeting, sender: Sender, questions: _Questions) -> None:
        super().__init__(named, meeting, questions)
        self._sender = sender

    def done(self, asked: _Asked) -> bool:
        """Whether the successor has taken over."""
        epoch = self._sender.epoch + 1
        left_off = False
        try:
            asked.request.answer({"token": self._token})
            asked = self._questions.next("inherit")
            self._offer(asked, epoch)
            asked.request.answer({"epoch": epoch})
            asked = self._questions.next("succeeded")
            left_off = True   # or soon: there may be a signal just after it
            self._sender.depart(left(self._questions.until))
        except BaseException as error:
            if not left_off or self._sender.closed or self._sender.epoch != epoch:
                self._peer.mention("withdraw", {"epoch": epoch}, channel=self._named.name)
                asked.refuse(error)
                if isinstance(error, errors.Error):
                    return False
                raise
        self._give_name(asked)
        _near(asked.request).close()   # with a bye, which the last end here would take along
        self._sender.close()   # and waits until what was sent is out
        return True

    def _offer(self, asked: _Asked, epoch: int) -> None:
        told = asked.request.body
        body = {"epoch": epoch, "link": told.get("link"), "decision": told.get("decision"), "token": self._token}
        try:
            if offered(self._named, self._meeting, body, asked.fds, self._questions.until) is None:
                raise errors.Busy(f"channel {self._named.name!r}: its receiver has just gone on in another process")
        finally:
            close_all(asked.fds)


class _ReceiverMove(_Move):
    def __init__(
        self, named: NamedEnd, meeting: Meeting, receiver: Receiver, questions: _Questions, heir: Placement
    ) -> None:
        super().__init__(named, meeting, questions)
        self._receiver = receiver
        self._heir = heir

    def done(self, asked: _Asked) -> bool:
        """Whether the successor has taken over, and has got all that was left for it. Raises PeerDied."""
        mode = mode_of(Transport.RING, edge_facts(self._named.here, self._heir).locality)
        body, fds, link = made(self._named, Decision(mode, Transport.RING, "what the predecessor passes on", ()), None)
        try:
            with Sender(link.open(SENDER), self._named.name, mode) as passed:
                try:
                    self._announce()
                    asked.request.answer({"token": self._token, "alone": self._named.alone})
                    asked = self._questions.next("inherit")
                    asked.request.answer(body, fds)
                    close_all(fds)   # or its death would be hidden
                    asked = self._questions.next("succeeded")
                except BaseException as error:
                    passed.finish(failed=True, linger=0.0)
                    asked.refuse(error)
                    if isinstance(error, errors.Error):
                        return False
                    raise
                self._give_name(asked)
                self._pass_on(passed, _near(asked.request))
        finally:
            close_all(fds)
            link.close()
        return True

    def _announce(self) -> None:
        """To the sender, if that is not done."""
        if not self._named.alone:
            rest = left(self._questions.until)
            with suppress(errors.NoSuchChannel, errors.PeerDied):
                self._peer.request("successor", {"token": self._token}, channel=self._named.name, timeout=rest)

    def _pass_on(self, passed: Sender, successor: Connection) -> None:
        """All that comes here, until the peer has gone on."""
        gone: list[bool] = []

        def leave(died: bool) -> None:
            gone.append(died)
            passed.peer_died()
            self._receiver.stop()

        with self._receiver:
            successor.when_gone(leave)
            try:
                pass_on(self._receiver, passed)
                passed.close()
                successor.close()   # with a bye, which the last end here would take along
            except (errors.ChannelClosed, errors.PeerDied, errors.Cancelled) as error:
                died = any(gone) or isinstance(error, errors.PeerDied)
                self._receiver.finish(failed=died, linger=0.0)
                if died:
                    what = "its successor has died before it had all that was left for it"
                    raise errors.PeerDied(f"{self._receiver!r}: {what}") from error


def hand_over_all(ends: Sequence[Endpoint], until: float | None) -> None:
    """All that are open, in whatever order their successors come. Raises what the first that fails raises."""
    still = [end for end in ends if not end.closed]
    with ThreadPoolExecutor(max_workers=max(1, len(still))) as threads:
        moves = [threads.submit(end.hand_over, left(until)) for end in still]
        try:
            for move in moves:
                move.result()
        except BaseException as error:
            if not isinstance(error, Exception):   # Ctrl-C: none of the others is to be waited for
                for end in still:
                    end.close()
            raise


def pass_on(source: Receiver, target: Sender) -> None:
    """Messages, up to the end or the switch of who sends them. Raises what the target's send raises, Cancelled."""
    while True:
        try:
            _, stamp = source.peek()
            data = source.recv()
        except errors.Moved as moved:
            target.pass_switch(moved.epoch)
            return
        except errors.ChannelClosed:
            return
        except errors.PeerDied:
            target.finish(failed=True)
            return
        target.forward(data, stamp)
