"""The successor's side of a move: takes an end over from the process that hands it over; see handover."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from . import control, errors, reach, registry
from .cluster import FarPeer, FarTie, awaits_heir, holder_of
from .connection import Connection
from .door import Door
from .endpoint import RECEIVER, SENDER, Endpoint, begun
from .lease import Server
from .meeting import Meeting, NamedEnd, Tie, placed
from .offer import Decided, made, made_far
from .placement import Placement
from .policy import Decision
from .receiver import Receiver
from .registry import ROLES
from .request import Answer, Body, close_all
from .sender import Sender
from .switch import left
from .transport import Link, call_off

_GREETING = 2.0
"""Seconds for a process that has the name to say whether it hands it over."""
_AGAIN = 0.02
"""Seconds after which it is tried again."""

_GREETING_AFAR = 10.0
"""The same for one of another node that has said so, and announces us to the peer before."""

_log = logging.getLogger(__name__)

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
        self._predecessor: Connection | FarTie | None = None
        self._taken = False
        """Nobody can go back any more."""

    def claimed(self, server: Server | None, take_over: Callable[[Successor], End]) -> End | None:
        """Takes the name: from a process that hands it over, with the end that goes on; or a free one, and None.

        Raises Busy where another process has it and keeps it, Timeout, and as NamedEnd.claim.
        """
        self._server = server
        try:
            return self._claimed(server, take_over)
        finally:
            if server is not None and self._named.cluster is None:
                server.close()   # we have looked there, in vain

    def _claimed(self, server: Server | None, take_over: Callable[[Successor], End]) -> End | None:
        busy: errors.Error | None = None
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
        try:
            self._predecessor = self._found()
            return take_over(self)
        except errors.NoSuchChannel:
            if busy is not None:
                raise busy from None
        except (errors.PeerDied, errors.Busy, errors.ChannelClosed, errors.Timeout):
            if self._taken:
                raise
        finally:
            if not self._taken:
                if self._predecessor is not None:
                    self._predecessor.hang_up()
                self._named.step_back()
        return None

    def _found(self) -> Connection | FarTie:
        """A process that hands it over, and that we can ask. Raises NoSuchChannel."""
        holder = registry.holder(self._named.name, self._named.role)
        if holder is not None and holder.address != self._named.address and registry.alive(holder.address) is not None:
            return self._found_here(holder.address)
        if self._server is None:
            raise errors.NoSuchChannel
        afar = holder_of(self._server, self._named.name, self._named.role)
        if afar is None or not awaits_heir(self._server, afar):
            raise errors.NoSuchChannel
        cluster = self._named.stand_beside(self._server)
        if not cluster.knock(afar):
            raise errors.Busy   # another one has
        tie = FarTie(cluster, afar)
        tie.when_gone(lambda died: None)   # it notices
        tie.serve({})
        return tie

    def _found_here(self, address: str) -> Connection:
        connection = control.connect(address)
        connection.stranger = False
        try:
            rest, kind = left(self._until), f"awaits-{self._role}"
            seconds = _GREETING if rest is None else min(_GREETING, rest)
            connection.request(kind, channel=self._named.name, timeout=seconds)
        except errors.Timeout:
            connection.hang_up()
            raise errors.NoSuchChannel from None   # it is stopped, or so
        except BaseException:
            connection.hang_up()
            raise
        if self._server is not None:
            try:
                self._named.stand_beside(self._server)
            except errors.RedisUnavailable as error:   # its peer may be here all the same
                _log.warning("channel %s: other nodes cannot find it: %s", self._named.name, error)
        return connection

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
        cluster = self._named.cluster
        lease = cluster.lease.token if cluster is not None else None
        body = {"placement": self._named.here.as_plain(), "lease": lease}
        afar = isinstance(self._predecessor, FarTie)   # then it may have given up while we knocked
        return _plain(self._ask("succeed", body, seconds=_GREETING_AFAR if afar else math.inf))

    def _peer(self, role: int) -> Tie:
        """Raises PeerDied, RedisUnavailable."""
        cluster, holder = self._named.cluster, registry.holder(self._named.name, role)
        afar = cluster.peer() if cluster is not None else None
        if cluster is not None and afar is not None and registry.alive(afar.address) is None:
            tie = FarTie(cluster, afar)
            self._named.serve(tie)
            return tie
        address = afar.address if afar is not None else holder.address if holder is not None else None
        if address is None:
            raise errors.PeerDied(f"channel {self._named.name!r}: the other side has closed")
        return control.connect(address)

    def _asked_peer(self, tie: Tie, kind: str, token: object, told: Body | None, fds: Sequence[int] = ()) -> Answer:
        """Raises ChannelClosed where that is over."""
        body = {"token": token, "placement": self._named.here.as_plain(), **(told or {})}
        try:
            return tie.request(kind, body, fds, channel=self._named.name, timeout=left(self._until))
        except errors.NoSuchChannel as error:
            raise errors.ChannelClosed(str(error)) from None

    def _take_name(self) -> None:
        """From here on only we can go on. However long the predecessor needs for its last word."""
        predecessor, named = self._predecessor, self._named
        assert predecessor is not None
        afar = isinstance(predecessor, FarTie)
        if afar:
            named.claim_here()
        self._taken = True
        try:
            answer = predecessor.request(f"succeeded-{self._role}", channel=named.name, timeout=None)
        except (errors.PeerDied, errors.RedisUnavailable) as error:
            if isinstance(predecessor, FarTie) and self._has_name(predecessor.peer):
                named.inherited()   # it had done so
                return
            raise errors.PeerDied(
                f"channel {named.name!r}: who handed its {self._role} over died over it, or cannot be reached; the "
                f"channel has ended: {error}"
            ) from error
        if afar:
            named.inherited()
            return
        try:
            if len(answer.fds) != 1:
                raise errors.Corrupted(f"channel {named.name!r}: its predecessor did not hand its name over")
            named.inherit(answer.fds.pop(), self._server)
        finally:
            close_all(answer.fds)

    def _has_name(self, predecessor: FarPeer) -> bool:
        """Whether it was passed on to us, if that can be told; else never will be."""
        cluster = self._named.cluster
        assert cluster is not None   # or it had not been found
        try:
            if cluster.passed_on(predecessor):
                return True
            cluster.lease.release()   # without it, it is not
            return cluster.passed_on()
        except errors.RedisUnavailable:
            return False

    # ---- of a sender ----

    def sender(self, decided: Decided, redis: str | None) -> Sender:
        """Takes it over. Raises NoTransport, and what has it tried again."""
        token = self._greeted().get("token")
        tie = self._peer(RECEIVER)
        try:
            said = _plain(self._asked_peer(tie, "introduce", token, None))
            peer = placed(tie, said.get("placement"))
            decision, link = self._provided(tie, token, peer, said.get("listens"), decided, redis)
            try:
                return self._sender_on(tie, decision, peer, link)
            except BaseException:
                call_off(link)
                raise
        except BaseException:
            tie.hang_up()
            raise

    def _provided(
        self, tie: Tie, token: object, peer: Placement, listens: object, decided: Decided, redis: str | None
    ) -> tuple[Decision, Link]:
        """A link of which the receiver has its end."""
        named, fds = self._named, list[int]()
        if isinstance(tie, FarTie):
            decision, body, link = made_far(named, lambda missing: decided(peer, named.here, missing), redis, listens)
        else:
            decision = decided(peer, named.here, {})
            body, fds, link = made(named, decision, redis)
        try:
            close_all(self._asked_peer(tie, "provide", token, body, fds).fds)
        except BaseException:
            call_off(link)
            raise
        finally:
            close_all(fds)   # or its death would be hidden
        return decision, link

    def _sender_on(self, tie: Tie, decision: Decision, peer: Placement, link: Link) -> Sender:
        epoch = _epoch(_plain(self._ask("inherit")))
        pointer = reach.opened(link, left(self._until)) if isinstance(tie, FarTie) else link.open(SENDER)
        sender = Sender(begun(pointer, epoch), self._named.name, decision.mode)
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
                later.tie.hang_up()
                later.door.close()
            raise

    def _prepared(self, token: object) -> _Way | None:
        """From the sender, which goes by it when we tell it; None where that has sent all that it will."""
        tie = self._peer(SENDER)
        try:
            door = Door(tie)
            try:
                answer = self._asked_peer(tie, "prepare", token, {"listens": door.told})
                return self._way(tie, door, answer, _epoch)
            except BaseException:
                door.close()
                raise
        except errors.ChannelClosed:
            tie.hang_up()
            return None
        except BaseException:
            tie.hang_up()
            raise

    def _receiver_on(self, later: _Way | None) -> Receiver:
        """One that receives first what the predecessor passes on, then what the sender sends."""
        assert self._predecessor is not None
        with Door(self._predecessor) as door:
            epoch = later.epoch - 1 if later is not None else 0
            answer = self._ask("inherit", {"listens": door.told})
            first = self._way(self._predecessor, door, answer, lambda body: epoch)
            receiver = Receiver(begun(door.take_end(), epoch), self._named.name, first.decision.mode)
            try:
                if later is not None:
                    receiver.attach(later.door.take_end(), later.epoch, later.decision.mode)
                self._take_name()
            except BaseException:
                receiver.finish(failed=True, linger=0.0)
                receiver.close()
                raise
            self._named.opened(receiver, first.meeting())
        if later is not None:
            self._named.went_on(later.meeting())
            self._tell_to_go(later.tie)
        return receiver

    def _tell_to_go(self, tie: Tie) -> None:
        if isinstance(tie, Connection):
            tie.tell("go", channel=self._named.name)
        else:
            threading.Thread(target=self._go_afar, args=(tie,), daemon=True).start()

    def _go_afar(self, tie: Tie) -> None:
        """Until it has: else the predecessor would pass on for ever."""
        while True:
            try:
                tie.request("go", channel=self._named.name, timeout=None)
                return
            except errors.RedisUnavailable:
                time.sleep(_AGAIN)
            except errors.Error as error:
                what = "what its sender sends goes by who received it before"
                _log.warning("channel %s: %s: %s", self._named.name, what, error)
                return

    def _way(self, tie: Tie, door: Door, answer: Answer, epoch: Callable[[Body], int]) -> _Way:
        """Raises Corrupted, NoTransport."""
        try:
            peer = placed(tie, answer.body.get("placement"))
            number = epoch(answer.body)
            return _Way(tie, peer, door, door.comes(self._named, peer, answer.body, answer.fds), number)
        finally:
            close_all(answer.fds)


@dataclass(frozen=True, slots=True)
class _Way:
    """What is passed on to a receiver that goes on here, and by whom."""

    tie: Tie
    peer: Placement
    door: Door
    decision: Decision
    epoch: int

    def meeting(self) -> Meeting:
        """By it, whose link is taken."""
        return Meeting(self.tie, self.decision, self.peer, self.door.taken(), self.epoch)


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
