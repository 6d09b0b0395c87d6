"""The successor's side of a move: takes an end over from the process that hands it over; see handover."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from . import control, errors, registry
from .connection import Connection
from .endpoint import RECEIVER, SENDER, Endpoint, begun
from .lease import Server
from .meeting import Meeting, NamedEnd
from .offer import Decided, made
from .placement import Placement, of_peer
from .policy import Decision
from .receiver import Receiver
from .registry import ROLES
from .request import Answer, Body, close_all
from .search import checked_decision, joined, opened
from .sender import Sender
from .switch import left
from .transport import Link, call_off

_GREETING = 2.0
"""Seconds for a process that has the name to say whether it hands it over."""
_AGAIN = 0.02
"""Seconds after which it is tried again."""

End = TypeVar("End", bound=Endpoint)


class Successor:
    """An end that others can find, if it goes on in the place of another one."""

    def __init__(self, named: NamedEnd, until: float | None, *, only: bool) -> None:
        """only: it does not open a new end."""
        self._named = named
        self._until = until
        self._only = only
        self._role = ROLES[named.role]
        self._server: Server | None = None
        self._predecessor: Connection | None = None
        self._taken = False
        """Nobody can go back any more."""

    def claimed(self, server: Server | None, take_over: Callable[[Successor], End]) -> End | None:
        """Takes the name: from a process that hands it over, with the end that goes on; or a free one, and None.

        Raises Busy where another process has it and keeps it, Timeout, and as NamedEnd.claim.
        """
        busy: errors.Error | None = None
        self._server = server
        while True:
            if not self._only:
                try:
                    self._named.claim(server)
                    return None
                except errors.Busy as error:
                    busy = error
            end = self._from_holder(busy, take_over)
            if end is not None:
                return end
            if left(self._until) == 0:
                if busy is not None:
                    raise busy
                raise errors.Timeout(f"channel {self._named.name!r}: nobody has handed its {self._role} over in time")
            time.sleep(_AGAIN)

    def _from_holder(self, busy: errors.Error | None, take_over: Callable[[Successor], End]) -> End | None:
        """None where it is to be tried again. busy: what to raise where it is kept."""
        holder = registry.holder(self._named.name, self._named.role)
        try:
            if holder is None or holder.address == self._named.address:
                raise errors.NoSuchChannel
            self._predecessor = control.connect(holder.address)
            self._predecessor.stranger = False
            return take_over(self)
        except errors.NoSuchChannel:
            if busy is not None:
                raise busy from None
        except (errors.PeerDied, errors.Busy, errors.ChannelClosed, errors.Timeout):
            if self._taken:
                raise
        finally:
            if self._predecessor is not None and not self._taken:
                self._predecessor.hang_up()
        return None

    def _ask(
        self, word: str, body: Body | None = None, fds: Sequence[int] = (), seconds: float = math.inf
    ) -> Answer:
        """seconds: that it may take at most."""
        assert self._predecessor is not None
        rest = left(self._until)
        timeout = None if rest is None and seconds == math.inf else min(seconds, seconds if rest is None else rest)
        return self._predecessor.request(f"{word}-{self._role}", body, fds, channel=self._named.name, timeout=timeout)

    def _greeted(self) -> Body:
        """The token by which the peer knows us, and whether it is there."""
        body = {"placement": self._named.here.as_plain()}
        if self._only:
            return _plain(self._ask("succeed", body))
        try:
            return _plain(self._ask("succeed", body, seconds=_GREETING))
        except errors.Timeout:
            raise errors.NoSuchChannel from None   # it is stopped, or so

    def _peer(self, role: int) -> Connection:
        """Raises PeerDied."""
        holder = registry.holder(self._named.name, role)
        if holder is None:
            raise errors.PeerDied(f"channel {self._named.name!r}: the other side has closed")
        return control.connect(holder.address)

    def _asked_peer(self, tie: Connection, kind: str, token: object) -> Answer:
        """Raises ChannelClosed where that is over."""
        body = {"token": token, "placement": self._named.here.as_plain()}
        try:
            return tie.request(kind, body, channel=self._named.name, timeout=left(self._until))
        except errors.NoSuchChannel as error:
            raise errors.ChannelClosed(str(error)) from None

    def _take_name(self) -> None:
        """From here on only we can go on. However long the predecessor needs for its last word."""
        assert self._predecessor is not None
        self._taken = True
        try:
            answer = self._predecessor.request(f"succeeded-{self._role}", channel=self._named.name)
        except errors.PeerDied as error:
            raise errors.PeerDied(
                f"channel {self._named.name!r}: who handed its {self._role} over died over it; the channel has ended"
            ) from error
        try:
            if len(answer.fds) != 1:
                raise errors.Corrupted(f"channel {self._named.name!r}: its predecessor did not hand its name over")
            self._named.inherit(answer.fds.pop(), self._server)
        finally:
            close_all(answer.fds)

    # ---- of a sender ----

    def sender(self, decided: Decided, redis: str | None) -> Sender:
        """Takes it over. Raises NoTransport, and what has it tried again."""
        token = self._greeted().get("token")
        tie = self._peer(RECEIVER)
        try:
            said = _plain(self._asked_peer(tie, "introduce", token)).get("placement")
            peer = of_peer(tie.peer, said)
            decision = decided(peer, self._named.here, {})
            body, fds, link = made(self._named, decision, redis)
            try:
                return self._sender_on(tie, decision, peer, link, body, fds)
            except BaseException:
                call_off(link)
                raise
            finally:
                close_all(fds)
        except BaseException:
            tie.hang_up()
            raise

    def _sender_on(
        self, tie: Connection, decision: Decision, peer: Placement, link: Link, body: Body, fds: list[int]
    ) -> Sender:
        epoch = _epoch(_plain(self._ask("inherit", body, fds)))
        close_all(fds)   # or its death would be hidden
        sender = Sender(begun(link.open(SENDER), epoch), self._named.name, decision.mode)
        try:
            self._take_name()
        except BaseException:
            sender.finish(failed=True, linger=0.0)
            sender.close()
            raise
        self._named.opened(sender, Meeting(tie, decision, peer, link, epoch))
        assert self._predecessor is not None
        self._predecessor.close()
        return sender

    # ---- of a receiver ----

    def receiver(self) -> Receiver:
        """Takes it over. Raises NoTransport, Corrupted, and what has it tried again."""
        greeted = self._greeted()
        later = None if greeted.get("alone") is True else self._prepared(greeted.get("token"))
        try:
            return self._receiver_on(later)
        except BaseException:
            if later is not None:
                later.connection.hang_up()
                call_off(later.link)
            raise

    def _prepared(self, token: object) -> Meeting | None:
        """With the sender, which goes by its link when we tell it; None where that has sent all that it will."""
        tie = self._peer(SENDER)
        try:
            answer = self._asked_peer(tie, "prepare", token)
            try:
                return self._met(tie, answer, _epoch(answer.body))
            finally:
                close_all(answer.fds)
        except errors.ChannelClosed:
            tie.hang_up()
            return None
        except BaseException:
            tie.hang_up()
            raise

    def _receiver_on(self, later: Meeting | None) -> Receiver:
        """One that receives first what the predecessor passes on, then what the sender sends."""
        assert self._predecessor is not None
        first = self._met(self._predecessor, self._ask("inherit"), later.epoch - 1 if later is not None else 0)
        try:
            receiver = Receiver(begun(opened(first.link), first.epoch), self._named.name, first.decision.mode)
            try:
                if later is not None:
                    receiver.attach(opened(later.link), later.epoch, later.decision.mode)
                self._take_name()
            except BaseException:
                receiver.finish(failed=True, linger=0.0)
                receiver.close()
                raise
        except BaseException:
            call_off(first.link)
            raise
        self._named.opened(receiver, first)
        if later is not None:
            self._named.went_on(later)
            assert isinstance(later.connection, Connection)
            later.connection.tell("go", channel=self._named.name)
        return receiver

    def _met(self, tie: Connection, answer: Answer, epoch: int) -> Meeting:
        """Raises Corrupted, NoTransport."""
        try:
            peer = of_peer(tie.peer, answer.body.get("placement"))
            decision = checked_decision(self._named.name, answer.body, peer, self._named.here)
            return Meeting(tie, decision, peer, joined(answer.body.get("link"), decision.transport, answer.fds), epoch)
        finally:
            close_all(answer.fds)


def _plain(answer: Answer) -> Body:
    """What came without descriptors; those of who is not honest are closed."""
    close_all(answer.fds)
    return answer.body


def _epoch(body: Body) -> int:
    """Raises Corrupted."""
    epoch = body.get("epoch")
    if not isinstance(epoch, int) or not 0 < epoch < 1 << 32:
        raise errors.Corrupted(f"a process hands over an end in epoch {str(epoch)[:20]}")
    return epoch
