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
or offers something else for the same epoch. What the receiver does is in switch_followed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from . import errors, reach
from . import transport as transports
from .cluster import FarTie
from .connection import Connection
from .endpoint import RECEIVER, SENDER
from .meeting import Meeting, NamedEnd, Tie
from .modes import Transport, mode_of
from .placement import edge_facts
from .policy import Decision, Request, ruled_out
from .request import Answer, Body, InTurn, duplicates
from .request import Request as Asked
from .sender import Sender
from .switch import left, open_in_time, until_of, wish
from .transport import Link, call_off
from .transport.target import host_and_port, link_to, transport_of

_AGAIN = (0.001, 0.05)
"""Seconds after which a busy receiver is asked again, at first and at last."""


class NamedSwitch:
    """What a sender that met its receiver by name needs to go on elsewhere."""

    def __init__(self, named: NamedEnd, redis: str | None = None, pinned: str = "") -> None:
        """redis: the server that is meant by its name alone. pinned: why only the user changes it, if so."""
        self._named = named
        self._redis = redis
        self.pinned = pinned
        self._process = os.getpid()
        named.listen("switch-to", InTurn().handler(self._asked))

    def switch(self, target: str, timeout: float | None) -> None:
        """As Sender.switch. From then on it is pinned to that."""
        with self._in_turn(timeout) as until:
            while not self._switched(target, until, "a switch was asked for"):
                pass
            self.pinned = "a switch was asked for"

    def change(self, decision: Decision, timeout: float) -> None:
        """The same, because a policy decided so. Raises BadSpec also where the user has chosen meanwhile."""
        with self._in_turn(timeout) as until:
            if self.pinned:
                raise errors.BadSpec(f"channel {self._named.name!r}: {self.pinned}")
            while not self._switched(decision.transport, until, decision.reason):
                pass
            meeting = self._named.meeting
            if meeting is not None and meeting.decision.transport is decision.transport:   # decided in full
                self._named.meeting = replace(meeting, decision=replace(decision, mode=meeting.decision.mode))

    @contextmanager
    def _in_turn(self, timeout: float | None) -> Iterator[float | None]:
        """When the time will be over. Raises BadSpec, Timeout."""
        until = until_of(timeout)
        if os.getpid() != self._process:
            raise errors.BadSpec(
                f"channel {self._named.name!r}: this is a forked copy; the process that opened the sender can switch it"
            )
        if not self._named.turn.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"channel {self._named.name!r}: another switch is under way")
        try:
            yield until
        finally:
            self._named.turn.release()

    def _switched(self, target: str, until: float | None, reason: str) -> bool:
        """False where the receiver has gone on in another process meanwhile."""
        meeting, sender = self._named.meeting, self._named.end
        if meeting is None or not isinstance(sender, Sender):
            raise errors.ChannelClosed(f"channel {self._named.name!r}: its sender is closed")
        if target == Transport.REDIS and self._redis is not None:
            target = self._redis
        decision = self._decided(target, meeting, reason)
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

    def _decided(self, target: str, meeting: Meeting, reason: str) -> Decision:
        """Raises NoTransport for what the facts forbid."""
        transport = transport_of(target)
        facts = edge_facts(self._named.here, meeting.peer)
        obstacle = ruled_out(Request(facts, available=frozenset(Transport)), transport)
        if obstacle is not None:
            raise errors.NoTransport(f"channel {self._named.name!r}: {transport}: {obstacle}")
        return Decision(mode_of(transport, facts.locality), transport, reason, ())

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
