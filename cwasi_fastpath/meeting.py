"""What is known of an end that met its peer through the registry: the peer, the connection to it, the decision."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self
from weakref import ReferenceType, finalize, ref

from . import control, registry
from .claim import Claim
from .cluster import ClusterName, FarTie
from .connection import Connection
from .description import EndDescription, counted, publish, withdraw
from .endpoint import RECEIVER, Endpoint
from .errors import Busy, ChannelClosed, RedisUnavailable
from .lease import Server
from .modes import Transport
from .names import checked
from .placement import Placement, of_peer
from .policy import Decision
from .registry import ROLES
from .request import Answer, Body, Way
from .transport import Link, call_off, notices_itself, settle, why

_log = logging.getLogger(__name__)

COUNTED = "counted"
"""The kind of request by which a sender learns what its receiver has counted."""

ECHO = "echo"
"""That by which it learns where the receiver's node echoes, to sound the network."""

WAITING, OPEN, MOVING, PEER_GONE, CLOSED = "waiting", "open", "moving", "peer gone", "closed"


class Tie(Way, Protocol):
    """What holds two processes together: a connection on this node, leases across nodes."""

    def when_gone(self, callback: Callable[[bool], None]) -> None:
        """Calls callback(whether it died) when the peer is gone."""

    def close(self) -> None:
        """Leaves, with a bye."""

    def hang_up(self) -> None:
        """Leaves without one; does not wait."""

    def request(
        self, kind: str, body: Body | None = None, fds: Sequence[int] = (), *, channel: str, timeout: float | None
    ) -> Answer:
        """Asks the peer, whose handler for `kind` answers. Raises Timeout, PeerDied, what the peer refused it with;
        across nodes RedisUnavailable, and BadSpec where there are descriptors.
        """

    def mention(self, kind: str, body: Body | None = None, *, channel: str) -> None:
        """Says something that the peer may miss."""


@dataclass(frozen=True)
class Meeting:
    """That two processes met for a channel; each has its own side of it."""

    connection: Tie
    """To the process that holds the other end; it hangs up when that one dies."""
    decision: Decision
    peer: Placement
    link: Link
    """Our side's."""
    epoch: int = 0
    """In which the channel goes by it."""


class NamedEnd:
    """An end of a channel in this process that others find by name, from the claim of its name on."""

    def __init__(self, name: str, role: int, here: Placement) -> None:
        """Raises BadName, RegistryUnavailable."""
        self.name = checked(name, "channel")
        self.role = role
        self.here = here
        self.state = WAITING
        self.meeting: Meeting | None = None
        self._presence = control.Presence()
        self._claim: Claim | None = None
        self.cluster: ClusterName | None = None
        """The same name across nodes."""
        self._since = time.monotonic()
        self._end: ReferenceType[Endpoint] | None = None
        self._undo: list[Callable[[], None]] = []
        self._far: dict[str, control.Handler] = {}
        """Those that a peer of another node may ask."""
        self._before: list[Meeting] = []
        """With the link from before the last switch, by which something may still come."""
        self._left = False
        """Its links are closed, or will be by whoever adds one."""
        self._gone: dict[Tie, bool] = {}
        """The processes at the other side that are gone, and whether they died."""
        self.turn = threading.Lock()
        """One switch, or move, at a time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, tb: object) -> None:
        if self.state == WAITING:
            if self.cluster is not None:
                self.cluster.lease.release()
            self._leave()

    def claim(self, server: Server | None = None) -> None:
        """Takes the name, here and in the cluster's registry if there is one.

        Raises Busy, RegistryUnavailable, RedisUnavailable.
        """
        self.claim_here()
        try:
            if server is not None:
                self.cluster = ClusterName(server, self.name, self.role, self.here, self.address)
        except BaseException:
            self.leave_here()
            raise
        publish(self.describe)

    def claim_here(self) -> None:
        """Takes the name on this node. Raises Busy, RegistryUnavailable."""
        self._claim = registry.claim(self.name, self.role, self.address)

    def leave_here(self) -> None:
        """Gives it free again. Twice is safe."""
        if self._claim is not None:
            self._claim.release()

    def stand_beside(self, server: Server) -> ClusterName:
        """In the cluster's registry, as who may go on in the place of the holder. Raises RedisUnavailable."""
        self.step_back()
        self.cluster = ClusterName(server, self.name, self.role, self.here, self.address, beside=True)
        return self.cluster

    def step_back(self) -> None:
        """It was in vain."""
        if self.cluster is not None:
            self.cluster.lease.release()
            self.cluster = None

    def inherit(self, descriptor: int, server: Server | None) -> None:
        """Takes the name over from the process that has passed its lock on, and in the cluster's registry the name, or
        has set it free there.

        Raises Corrupted, RegistryUnavailable.
        """
        self._claim = registry.inherit(self.name, self.role, self.address, descriptor)
        try:
            if server is not None and (self.cluster is None or not self.cluster.passed_on()):
                self.step_back()
                self.cluster = ClusterName(server, self.name, self.role, self.here, self.address)
        except (Busy, RedisUnavailable) as error:   # its peer is here all the same
            _log.warning("channel %s: other nodes cannot find it: %s", self.name, error)
        publish(self.describe)

    def inherited(self) -> None:
        """The same, where the predecessor is on another node, and has passed on the name in the cluster's registry."""
        if self.cluster is not None:
            self.cluster.step_up()
        publish(self.describe)

    def claim_again(self) -> None:
        """Where its peer is gone, which has set it free. Raises Busy, RegistryUnavailable."""
        self.claim_here()
        if self.cluster is not None:
            self.cluster.lease.release()
            try:
                server = self.cluster.server
                self.cluster = ClusterName(server, self.name, self.role, self.here, self.address)
            except (Busy, RedisUnavailable) as error:
                _log.warning("channel %s: other nodes cannot find it: %s", self.name, error)

    def lent(self) -> list[int]:
        """The descriptor of the name's lock, to be passed on."""
        return [self._claim.descriptor] if self._claim is not None else []

    def forget(self) -> None:
        """The name is another process's from now on."""
        if self._claim is not None:
            self._claim.forget()

    @property
    def address(self) -> str:
        """Of this process, in the runtime directory."""
        return self._presence.address

    def listen(self, kind: str, handler: control.Handler, *, far: bool = False) -> None:
        """Requests of that kind for this channel are the handler's, until this end is closed.

        far: also those of a peer on another node, which come on a thread of their own; else only those of this node.
        """
        control.on(kind, handler, self.name)
        if far:
            self._far[kind] = handler
        self.at_end(lambda: control.off(kind, handler, self.name))

    def at_end(self, call: Callable[[], None]) -> None:
        """Called when this end is closed."""
        self._undo.append(call)

    def serve(self, tie: FarTie) -> None:
        """A process of another node may ask what such a peer may."""
        tie.when_gone(lambda died: None)   # it notices
        tie.serve(self._far)
        self.at_end(tie.hang_up)

    def opened(self, end: Endpoint, meeting: Meeting) -> None:
        """From now on the end learns of its peer's death, and leaves when it is closed."""
        self.meeting = meeting
        self.state = OPEN
        self._end = ref(end)
        self._explain()
        _named[self.name, self.role] = self
        # Who forgets to close it has not finished it: then there is no bye.
        forgotten = finalize(end, control.later, self._leave)
        forgotten.atexit = False

        def closed(end: Endpoint) -> None:
            forgotten.detach()
            self.leave()

        end.on_close = closed
        self._tie(meeting)

    def _tie(self, meeting: Meeting) -> None:
        meeting.connection.when_gone(partial(self._peer_gone, meeting.connection))
        if isinstance(meeting.connection, FarTie):
            meeting.connection.serve(self._far)

    def went_on(self, meeting: Meeting) -> None:
        """The channel has another link now, or will have when it goes there; which it has done the last time."""
        assert self.meeting is not None   # or there was nothing to go on from
        done, self._before = self._before, [self.meeting]
        if meeting.connection is not self.meeting.connection:
            self._tie(meeting)
        self.meeting = meeting
        self._explain()
        if self._left:   # meanwhile, perhaps before it could be seen
            meeting.link.close()
        self.look()
        for old in done:
            old.link.close()
            if old.connection not in (one.connection for one in self.meetings):
                old.connection.close()

    def settled(self) -> None:
        """Raises Busy where the link before, which was read to its end, is not over yet."""
        for meeting in self._before:
            settle(meeting.link, 0.0)

    def went_back(self, link: Link) -> None:
        """It will not, after all."""
        if self._before and self.meeting is not None and self.meeting.link is link:
            self.meeting = self._before.pop()
            self._explain()
        call_off(link)

    @property
    def meetings(self) -> list[Meeting]:
        """Those by whose links something may still come, the current one last."""
        return [meeting for meeting in (*self._before, self.meeting) if meeting is not None]

    def meeting_of(self, epoch: int) -> Meeting | None:
        """That in whose link the channel is, or was, in that epoch."""
        return next((meeting for meeting in self.meetings if meeting.epoch == epoch), None)

    def _explain(self) -> None:
        """The end can say why its peer is gone."""
        if (end := self.end) is not None:
            end.why = partial(why, [meeting.link for meeting in self.meetings])

    @property
    def end(self) -> Endpoint | None:
        """None before it is open, and when nobody holds it any more."""
        return self._end() if self._end is not None else None

    def _peer_gone(self, tie: Tie, died: bool) -> None:
        self._gone[tie] = died
        self.look()

    def look(self) -> None:
        """Whether peers are gone, which the end must know; again where it has gone on elsewhere since."""
        meetings = self.meetings
        if self.alone and self.state != CLOSED and not (self.state == MOVING and self.role == RECEIVER):
            self.state = PEER_GONE
            self._release()   # its peer will come no more, another one may
        for meeting in meetings:
            if self._gone.get(meeting.connection):
                self._tell_of_death(meeting)

    @property
    def link(self) -> Link | None:
        """By which the channel goes, or will when it goes there."""
        return self.meeting.link if self.meeting is not None else None

    @property
    def alone(self) -> bool:
        """Nobody is at the other side any more."""
        return self.meeting is not None and all(meeting.connection in self._gone for meeting in self.meetings)

    def _tell_of_death(self, meeting: Meeting) -> None:
        """That what comes by its link is over; other links may have another peer."""
        end = self.end
        if end is None:
            return
        if isinstance(meeting.connection, FarTie) and notices_itself(meeting.link):
            return   # only its lease is gone for sure: it may have lost the registry's server, and not us
        if self.role == RECEIVER and meeting.link.transport is not Transport.REDIS:
            end.peer_died_in(meeting.epoch)
            return
        with suppress(ChannelClosed):
            if self.role == RECEIVER or meeting.epoch == end.epoch:
                meeting.link.peer_died(end)

    def leave(self) -> None:
        """Gives up the name, says bye to the peer, and waits until what was sent is out. Twice is safe."""
        if self.meeting is not None and self.state != CLOSED:
            self._left = True
            for meeting in self.meetings:
                meeting.link.close()
                meeting.connection.close()
            if self.cluster is not None:
                self.cluster.bye()
        self._leave()

    def _leave(self) -> None:
        self.state = CLOSED
        self._release()
        withdraw(self.describe)
        if _named.get((self.name, self.role)) is self:
            del _named[self.name, self.role]
        while self._undo:
            self._undo.pop()()
        for meeting in self.meetings:
            meeting.connection.hang_up()
        self._presence.leave()

    def _release(self) -> None:
        self.leave_here()
        if self.cluster is not None:
            self.cluster.lease.give_up()

    def describe(self) -> list[EndDescription]:
        """For who asks this process."""
        meeting, end = self.meeting, self.end
        found = end.seen() if end is not None else None
        mine = EndDescription(
            channel=self.name,
            role=ROLES[self.role],
            function=None,
            pid=os.getpid(),
            state=self.state,
            trust=self.here.trust,
            transport=None,
            mode=None,
            epoch=end.epoch if end is not None and not end.closed else 0,
            age_seconds=time.monotonic() - self._since,
            placement=self.here.as_plain(),
            metrics=counted(found[0]) if found is not None else {},
            unread=found[1] if found is not None else None,
        )
        return [mine if meeting is None else _with_peer(mine, meeting)]


def _with_peer(mine: EndDescription, meeting: Meeting) -> EndDescription:
    return replace(
        mine,
        transport=str(meeting.decision.transport),
        mode=str(meeting.decision.mode),
        peers=[str(meeting.connection.peer)],
        peer_pids=[meeting.peer.process] if meeting.peer.node == mine.placement["node"] else [],
        peer_placement=meeting.peer.as_plain(),
        explanations={"sender -> receiver": meeting.decision.explain()},
    )


def placed(tie: Tie, said: object) -> Placement:
    """Where the process at its other side is. said: what it says, which counts where we cannot see that.

    Raises BadName.
    """
    if isinstance(tie, FarTie):
        return tie.peer.placement
    assert isinstance(tie, Connection)   # there are no others
    return of_peer(tie.peer, said)


_named: dict[tuple[str, int], NamedEnd] = {}
"""Those that are open, by channel and role."""


os.register_at_fork(after_in_child=_named.clear)


def named_end(name: str, role: int) -> NamedEnd | None:
    """The end of that channel that is open in this process under its name."""
    return _named.get((name, role))
