"""The predecessor's side of a move: an end that was opened by name goes on in another process, under the same name.

    successor -> predecessor   awaits-ROLE -> nothing, where it hands over
                               succeed-ROLE (placement, lease) -> token
                               inherit-ROLE, of a sender: (nothing) -> epoch
                                             of a receiver: (where it would listen) -> link, decision, placement, with
                                             descriptors
                               succeeded-ROLE -> the lock of the name, as a descriptor

The token makes the successor known to the peer. A sender's successor makes the link by which the channel goes on, and
provides the peer with its end; its predecessor tells the peer to go there, as for a switch, and at `succeeded` sends
the last word, between two messages. A receiver's successor is given such a link by the peer. What the peer has sent on
the old one until it goes there, the predecessor passes on, by a link of the two receivers that the new one reads first,
with the last word behind it.

Each of the three may be on another node than the others: then two of them have mail (see there), and tcp or redis. In
the cluster's registry successor and predecessor change places, when all else is done.

Up to `succeeded` a death, an error or the end of the time changes nothing; the end goes on as before.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from . import control, errors, reach
from .cluster import FarTie
from .connection import Connection
from .endpoint import RECEIVER, SENDER, Endpoint
from .heir import LOOK_AFAR, Asked, Heir, Questions
from .meeting import MOVING, OPEN, PEER_GONE, Meeting, NamedEnd
from .modes import Mode, Transport, mode_of
from .offer import made, made_far
from .placement import edge_facts
from .policy import Decision
from .receiver import Receiver
from .registry import ROLES
from .request import Request, close_all
from .sender import Sender
from .switch import left, until_of
from .switch_named import offered
from .transport import Link, call_off, notices_itself

_PATIENCE = 10.0
"""Seconds for the registry's server to come back when the name is being passed on."""

_WORDS = ("awaits", "succeed", "inherit", "succeeded")

_log = logging.getLogger(__name__)


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
        asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()

        over = threading.Event()

        def heard(request: Request) -> None:
            if over.is_set():   # those of this node do not get so far
                raise errors.Busy(f"{self} is not handed over any more")
            if request.kind.startswith("awaits-"):
                request.answer()
            else:
                asked.put(Asked(request))

        kinds = [f"{word}-{self._role}" for word in _WORDS]
        if named.state == PEER_GONE and named.role == RECEIVER:
            named.claim_again()   # what was left for it is there all the same
            named.state = MOVING
        if named.state == OPEN:
            named.state = MOVING
        for kind in kinds:
            control.on(kind, heard, named.name)
        try:
            while not self._succeeded(Questions(named, str(self), asked, dict.fromkeys(kinds, heard), until)):
                pass
        finally:
            over.set()
            for kind in kinds:
                control.off(kind, heard, named.name)
            if named.state == MOVING:
                if named.cluster is not None:
                    named.cluster.await_no_more()
                named.state = OPEN
                named.look()
            while not asked.empty():
                if (late := asked.get()) is not None:
                    late.refuse(errors.Busy(f"{self} is not handed over any more"))

    def _succeeded(self, questions: Questions) -> bool:
        """Waits for a successor, and serves it; false where it has not taken over."""
        named, first = self._named, questions.first()
        rest = left(questions.until)
        if not named.turn.acquire(timeout=-1 if rest is None else min(rest, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"{self}: a switch is under way")
        try:
            end, meeting = named.end, named.meeting
            if meeting is None or end is None:
                raise errors.ChannelClosed(f"{self} is closed")
            heir = Heir.of(named, str(self), first.request)
            if isinstance(end, Sender):
                return _SenderMove(named, meeting, end, questions, heir).done(first)
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


class _Move:
    """What the moves of both ends have in common."""

    def __init__(self, named: NamedEnd, meeting: Meeting, end: Endpoint, questions: Questions, heir: Heir) -> None:
        self._named = named
        self._meeting = meeting
        self._end = end
        self._questions = questions
        self._heir = heir
        self._token = secrets.token_hex(16)
        self._peer = meeting.connection

    def _announce(self) -> None:
        """Raises BadSpec where the peer cannot hear of the successor."""
        lease = self._heir.peer.token if self._heir.peer is not None else None
        rest, body = left(self._questions.until), {"token": self._token, "lease": lease}
        kind = f"successor-{ROLES[self._named.role]}"
        answer = self._peer.request(kind, body, channel=self._named.name, timeout=rest)
        close_all(answer.fds)
        if isinstance(self._heir.tie, FarTie) and answer.body.get("reached") is not True:
            raise errors.BadSpec(
                f"channel {self._named.name!r}: its other end does not reach the successor, which is on another node: "
                "open that end, too, with the registry where the two find each other"
            )

    def _give_name(self, asked: Asked) -> None:
        """The last step: it is the successor's from now on. Raises PeerDied where that has gone away."""
        named = self._named
        if isinstance(self._heir.tie, Connection):
            self._give_lease()
            asked.request.answer({}, named.lent())
            named.forget()
            return
        self._give_lease_afar()
        asked.request.answer()
        named.leave_here()

    def _give_lease(self) -> None:
        """As far as that is possible: those of this node find it all the same."""
        cluster = self._named.cluster
        if cluster is None:
            return
        try:
            if self._heir.peer is None or not cluster.pass_on(self._heir.peer):
                cluster.lease.release()
        except errors.RedisUnavailable as error:
            _log.warning("channel %s: other nodes cannot find it: %s", self._named.name, error)

    def _give_lease_afar(self) -> None:
        cluster, heir, until = self._named.cluster, self._heir.peer, time.monotonic() + _PATIENCE
        assert cluster is not None and heir is not None   # or it had not found us
        while True:
            try:
                if cluster.pass_on(heir):
                    return
            except errors.RedisUnavailable as error:
                if time.monotonic() < until:
                    time.sleep(LOOK_AFAR)
                    continue
                # It may have been done: then there is a successor. There are never two.
                self._end.finish(failed=True, linger=0.0)
                self._end.close()
                what = "whether its successor goes on cannot be told; here it has ended"
                raise errors.RedisUnavailable(f"channel {self._named.name!r}: {what}: {error}") from error
            raise errors.PeerDied(f"channel {self._named.name!r}: its successor is gone")


class _SenderMove(_Move):
    def __init__(self, named: NamedEnd, meeting: Meeting, sender: Sender, questions: Questions, heir: Heir) -> None:
        super().__init__(named, meeting, sender, questions, heir)
        self._sender = sender

    def done(self, asked: Asked) -> bool:
        """Whether the successor has taken over."""
        epoch = self._sender.epoch + 1
        left_off = False
        try:
            self._announce()
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
        try:
            self._give_name(asked)
        except errors.Error as error:
            asked.refuse(error)
            self._sender.close()   # the last word is said
            raise
        self._heir.tie.close()   # with a bye, which the last end here would take along
        self._sender.close()   # and waits until what was sent is out
        return True

    def _offer(self, asked: Asked, epoch: int) -> None:
        """What the successor has provided."""
        body = {"epoch": epoch, "token": self._token}
        if offered(self._named, self._meeting, body, [], self._questions.until) is None:
            raise errors.Busy(f"channel {self._named.name!r}: its receiver has just gone on in another process")


class _ReceiverMove(_Move):
    def __init__(
        self, named: NamedEnd, meeting: Meeting, receiver: Receiver, questions: Questions, heir: Heir
    ) -> None:
        super().__init__(named, meeting, receiver, questions, heir)
        self._receiver = receiver
        self._link: Link | None = None
        """By which we pass on what is left."""

    def done(self, asked: Asked) -> bool:
        """Whether the successor has taken over, and has got all that was left for it. Raises PeerDied."""
        passed: Sender | None = None
        try:
            try:
                self._announce()
                asked.request.answer({"token": self._token, "alone": self._named.alone})
                asked = self._questions.next("inherit")
                passed = self._way(asked)
                asked = self._questions.next("succeeded")
                self._give_name(asked)
            except BaseException as error:
                if passed is not None:
                    passed.finish(failed=True, linger=0.0)
                    passed.close()
                if self._link is not None:
                    call_off(self._link)
                asked.refuse(error)
                if isinstance(error, errors.Error) and not self._receiver.closed:
                    return False
                raise
            with passed:
                self._pass_on(passed)
        finally:
            if self._link is not None:
                self._link.close()
        return True

    def _announce(self) -> None:
        """To the sender, if that is not done."""
        if not self._named.alone:
            with suppress(errors.NoSuchChannel, errors.PeerDied):
                super()._announce()

    def _way(self, asked: Asked) -> Sender:
        """To the successor, which is given its end."""
        if isinstance(self._heir.tie, FarTie):
            decision, body, self._link = made_far(
                self._named, _passed_on_afar, self._heir.tie.url, asked.request.body.get("listens")
            )
            pointer = reach.opened(self._link, left(self._questions.until))
            passed = Sender(pointer, self._named.name, decision.mode)
            asked.request.answer(body)
            return passed
        mode = mode_of(Transport.RING, edge_facts(self._named.here, self._heir.placement).locality)
        body, fds, self._link = made(self._named, Decision(mode, Transport.RING, _PASSED_ON, ()), None)
        try:
            passed = Sender(self._link.open(SENDER), self._named.name, mode)
            asked.request.answer(body, fds)
        finally:
            close_all(fds)   # or its death would be hidden
        return passed

    def _pass_on(self, passed: Sender) -> None:
        """All that comes here, until the peer has gone on."""
        gone: list[bool] = []
        successor = self._heir.tie

        def leave(died: bool) -> None:
            if isinstance(successor, FarTie) and self._link is not None and notices_itself(self._link):
                return   # only its lease is gone for sure
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


_PASSED_ON = "what the predecessor passes on"


def _passed_on_afar(missing: Mapping[Transport, str]) -> Decision:
    transport = Transport.REDIS if Transport.TCP in missing else Transport.TCP
    return Decision(Mode.REMOTE, transport, _PASSED_ON, ())


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
