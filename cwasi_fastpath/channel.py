"""Channels: named one-way messages, whatever transport carries them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from weakref import ref

from . import transport as transports
from .endpoint import RECEIVER, SENDER, Endpoint
from .errors import BadSpec, ChannelClosed, Timeout
from .explanation import WhatIf
from .metrics import ChannelMetrics, EndReport, channel_metrics
from .modes import Locality, Mode, Transport, mode_of
from .names import checked
from .policy import Decision
from .receiver import Receiver, gathered
from .sender import Sender
from .switch import Target, left, switch_here, until_of
from .tidy import tidy
from .transport import Link
from .transport.target import link_to
from .transport.tcp_info import Network

Edge = tuple[str, str]
"""The names of its sender and its receiver."""

_NOTHING: Mapping[Transport, str] = {}


@dataclass(slots=True)
class _Carried:
    """What carries an edge, as one of its ends sees it."""

    link: Link
    peer: int
    """The number of the other end there."""
    decision: Decision
    before: list[tuple[Link, Decision]] = field(default_factory=list)
    """The same before the last switch: by it something may still come."""


class Adviser(Protocol):
    """Knows what a channel costs, and what it would cost on other ways."""

    def explain(self, channel: Channel) -> object | None:
        """str() of it is for people; None where it does not know the channel."""

    def what_if(self, channel: Channel, wish: WhatIf) -> dict[str, Any]:
        """The costs and the choice as it is ("now") and as it would be ("then"). Raises BadSpec."""


class Channel:
    """A channel as its host sees it: the decision for each edge, and the ends that are in this process."""

    def __init__(self, name: str, decisions: Mapping[Edge, Decision]) -> None:
        self.name = checked(name, "channel")
        self.decisions = dict(decisions)
        self.senders: dict[str, Sender] = {}
        """Those that are here, by function."""
        self.receivers: dict[str, Receiver] = {}
        self.pinned = ""
        """Why nobody but the user changes what carries it, if so."""
        self.changes = 0
        """That the policy made."""
        self.adviser: Adviser | None = None
        """Who knows more of what it costs."""
        self._carried: dict[tuple[int, Edge], _Carried] = {}
        """By role and edge, for each end that is here."""

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}: {self.mode}, {self.transport}>"

    def join(self, role: int, function: str, links: list[Link], reader: int = 0) -> Endpoint:
        """Opens the end of `function`; it sends into one link, or receives from all of them."""
        pointers = [link.open(role, function, reader) for link in links]
        mode = max(decision.mode for edge, decision in self.decisions.items() if function in edge)
        end: Endpoint
        if role == SENDER:
            senders, receivers = (len(set(names)) for names in zip(*self.decisions, strict=True))
            limit = crossed_limit(links[0], senders, receivers)
            end = self.senders[function] = _sender(pointers[0], self.name, mode, limit)
        else:
            end = self.receivers[function] = Receiver(gathered(pointers), self.name, mode)
        mine = [edge for edge in self.decisions if edge[0 if role == SENDER else 1] == function]
        for number, edge in enumerate(mine):
            link = links[0] if role == SENDER else links[number]
            self._carried[role, edge] = _Carried(link, number, self.decisions[edge])
        self._explain(role, function)
        return end

    def end_of(self, role: int, edge: Edge) -> Endpoint:
        """One that is here."""
        return self.senders[edge[0]] if role == SENDER else self.receivers[edge[1]]

    def went_on(self, role: int, edge: Edge, decision: Decision, link: Link) -> None:
        """For the end of that role, which is here, the edge goes by `link` now, or will when the sender goes there; it
        has gone where it was to go the last time.
        """
        carried = self._carried[role, edge]
        done, carried.before = carried.before, [(carried.link, carried.decision)]
        if role == SENDER:
            self.senders[edge[0]].why_before = partial(transports.why, [carried.link])
        self._carry(role, edge, link, decision)
        for old, _ in done:
            old.close()

    def went_back(self, role: int, edge: Edge, link: Link) -> None:
        """It will not, after all."""
        carried = self._carried[role, edge]
        if carried.before and carried.link is link:
            self._carry(role, edge, *carried.before.pop())

    def _carry(self, role: int, edge: Edge, link: Link, decision: Decision) -> None:
        carried = self._carried[role, edge]
        carried.link, carried.decision = link, decision
        self.decisions[edge] = decision
        self._explain(role, edge[0 if role == SENDER else 1])

    def _explain(self, role: int, function: str) -> None:
        edges = [key for key in self._carried if key[0] == role and key[1][0 if role == SENDER else 1] == function]
        end, links = self.end_of(role, edges[0][1]), [self._carried[key].link for key in edges]
        end.why = partial(transports.why, links)
        end.describe(peers=[edge[1 if role == SENDER else 0] for _, edge in edges], transport=links[0].transport)

    def redecided(self, decision: Decision) -> None:
        """Of all edges, after a change that was made for it."""
        self.changes += 1
        for edge in self.decisions:
            self.decisions[edge] = decision
        for carried in self._carried.values():
            carried.decision = decision

    @property
    def missing(self) -> Mapping[Transport, str]:
        """What cannot carry it from now on, and why. Who decides is not whoever chose how long its messages are."""
        senders, receivers = (set(names) for names in zip(*self.decisions, strict=True))
        if len(senders) == 1 or len(receivers) == 1:
            return _NOTHING
        return too_long_for(max(carried.link.longest_whole for carried in self._carried.values()))

    def network(self) -> Network | None:
        """What is known of the network between its ends, where the first edge goes by one and its sender is here."""
        carried = self._carried.get((SENDER, next(iter(self.decisions))))
        return None if carried is None else transports.network(carried.link)

    def link_of(self, role: int, edge: Edge) -> Link:
        """What carries the edge for that end."""
        return self._carried[role, edge].link

    def left(self, role: int, edge: Edge) -> list[Link]:
        """What carried the edge for that end before the last switch."""
        return [link for link, _ in self._carried[role, edge].before]

    @property
    def decision(self) -> Decision:
        """That of the only edge, or of the first."""
        return next(iter(self.decisions.values()))

    @property
    def mode(self) -> Mode:
        """The path class in use; the farthest, where edges differ."""
        return max(decision.mode for decision in self.decisions.values())

    @property
    def transport(self) -> Transport:
        """How bytes move on the only edge, or on the first."""
        return self.decision.transport

    @property
    def mixed(self) -> bool:
        """Whether its senders go by different transports: a change has failed in the middle."""
        return len({decision.transport for decision in self.decisions.values()}) > 1

    @property
    def sender(self) -> Sender | None:
        """The first sender that is here."""
        return next(iter(self.senders.values()), None)

    @property
    def receiver(self) -> Receiver | None:
        """The first receiver that is here."""
        return next(iter(self.receivers.values()), None)

    def metrics(self) -> ChannelMetrics:
        """What the ends in this process have counted; also after they are closed."""
        return channel_metrics(
            [end.metrics() for end in self.senders.values()], [end.metrics() for end in self.receivers.values()]
        )

    def explain(self) -> str:
        """Why this transport, and why not the others; for each edge where there are several. Once guests use it, also
        what was seen of it, and how long ago.
        """
        known = self.adviser.explain(self) if self.adviser is not None and len(self.decisions) == 1 else None
        if known is not None:
            return str(known)
        if len(self.decisions) == 1:
            return self.decision.explain()
        return "\n".join(
            f"{sender} -> {receiver}: {decision.explain()}" for (sender, receiver), decision in self.decisions.items()
        )

    def what_if(
        self, *, size: str | float | None = None, rate: str | float | None = None, locality: str | None = None
    ) -> dict[str, Any]:
        """What a message costs on each way, "now" and "then": if messages had this size or came at this rate (numbers,
        or multiples like "10x"), or the peer were in this "process", on this "node" or "elsewhere".

        Raises BadSpec, also where not all ends are in this process.
        """
        if self.adviser is None:
            raise BadSpec(f"channel {self.name!r}: no host here has all of its ends")
        return self.adviser.what_if(self, WhatIf.of(size, rate, locality))

    def peer_died(self, edge: Edge) -> None:
        """Tells our ends of an edge that the process of the other one is gone."""
        for role in (SENDER, RECEIVER):
            if (role, edge) in self._carried:
                carried = self._carried[role, edge]
                links = [*self.left(role, edge), carried.link]
                pumped = [link for link in links if link.transport is Transport.REDIS]
                # Its end is a ring whose other side lives in this process, and may have more to say. The others notice
                # the death by themselves.
                only_pumped = pumped and (role == RECEIVER or links[-1] in pumped)
                for link in pumped if only_pumped else links:
                    link.peer_died(self.end_of(role, edge), carried.peer)

    def reports(self) -> list[EndReport]:
        """What each end that is here counted."""
        return [
            *(EndReport(self.name, function, True, end.metrics()) for function, end in self.senders.items()),
            *(
                EndReport(self.name, function, False, end.metrics(), end.sources())
                for function, end in self.receivers.items()
            ),
        ]

    def close(self) -> None:
        """Closes the ends that are here, waits until what was sent is out, and gives up the links."""
        for end in (*self.senders.values(), *self.receivers.values()):
            end.close()
        for carried in self._carried.values():
            for link in (*(old for old, _ in carried.before), carried.link):
                link.close()


def crossed_limit(link: Link, senders: int, receivers: int) -> int | None:
    """The longest message, in bytes, where a channel has several senders and several receivers. These must not wait
    inside a message: one would for the first sender, another for the second, and neither of the two could go on.
    """
    return link.longest_whole if senders > 1 and receivers > 1 else None


def too_long_for(longest: int) -> dict[Transport, str]:
    """What does not take such messages of several senders to several receivers, and why."""
    return {
        transport: f"messages of several senders to several receivers may be of {longest} bytes now, which it "
        "does not take as a whole"
        for transport in Transport if transports.longest_whole(transport) < longest
    }  # fmt: skip


def _sender(pointer: Any, name: str, mode: Mode, limit: int | None) -> Sender:
    sender = Sender(pointer, name, mode)
    if limit is not None:
        sender.limit(limit)
    tidy(sender)
    return sender


def open_channel(name: str, transport: str = "ring") -> tuple[Sender, Receiver]:
    """Both ends of a new channel in this process, for threads, forks and tests.

    transport: ring, pipe, tcp, or a URL: of a Redis server, or tcp://HOST:PORT, where the receiver listens.
    Raises BadName, BadSpec, OSError, RedisUnavailable, TcpUnavailable.
    """
    senders, receivers = open_ends(name, transport=transport)
    return senders[0], receivers[0]


def open_ends(
    name: str, senders: int = 1, receivers: int = 1, transport: str = "ring"
) -> tuple[tuple[Sender, ...], tuple[Receiver, ...]]:
    """All ends of a new channel in this process. Each receiver gets every message of each sender, in its order.

    A ring has each message once for all receivers. The slowest of them holds up the sender.
    Raises BadName, BadSpec, OSError, RedisUnavailable.
    """
    checked(name, "channel")
    if senders < 1 or receivers < 1:
        raise BadSpec(f"channel {name!r} with {senders} senders and {receivers} receivers: it needs at least one each")
    keys = [transports.key_of(name, f"{number}", senders) for number in range(senders)]
    links = [link_to(transport, key=key, readers=receivers) for key in keys]
    mode = mode_of(links[0].transport, Locality.PROCESS)
    try:
        limit = crossed_limit(links[0], senders, receivers)
        txs = tuple(_sender(link.open(SENDER), name, mode, limit) for link in links)
        rxs = tuple(
            Receiver(gathered([link.open(RECEIVER, reader=reader) for link in links]), name, mode)
            for reader in range(receivers)
        )
    except BaseException:
        for link in links:
            link.close()
        raise
    for end in (*txs, *rxs):
        end.why = partial(transports.why, links)
    _close_after_the_last(links, (*txs, *rxs))
    for number, tx in enumerate(txs):
        tx.why_before = partial(transports.why, links)
        tx.switcher = _switcher(tx, number, senders, rxs, links)
    return txs, rxs


def _switcher(
    tx: Sender, number: int, senders: int, rxs: tuple[Receiver, ...], links: list[Link]
) -> Callable[[str, float | None], None]:
    """For one of so many senders, whose receivers are here. links: those of the channel, kept up to date."""
    sender, receivers = ref(tx), [ref(rx) for rx in rxs]   # none of the ends is to keep others alive
    process, turn = os.getpid(), threading.Lock()
    used = [links[number]]
    """The link in use, behind the one before it."""

    def go(found: Sender, target: str, timeout: float | None) -> None:
        targets = [Target(rx, number) for receiver in receivers if (rx := receiver()) is not None]
        if len(targets) < len(receivers):
            raise ChannelClosed(f"{found!r}: a receiver is gone")
        link = link_to(target, key=found.name, readers=len(targets))
        limit = crossed_limit(link, senders, len(targets))
        links.append(link)
        try:
            switch_here(found, targets, link, mode_of(link.transport, Locality.PROCESS), timeout, limit, used[:-1])
        except BaseException:
            links.remove(link)
            raise
        used.append(link)
        for old in used[:-2]:   # the receivers had left it before they were given this one
            old.close()
            links.remove(old)
        del used[:-2]

    def switch(target: str, timeout: float | None) -> None:
        found, until = sender(), until_of(timeout)
        assert found is not None   # who calls has it
        if os.getpid() != process:
            raise BadSpec(f"{found!r} is a forked copy; the process that opened the channel can switch it")
        if not turn.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise Timeout(f"{found!r}: another thread is just switching it")
        try:
            go(found, target, left(until))
        finally:
            turn.release()

    return switch


def _close_after_the_last(links: list[Link], ends: tuple[Endpoint, ...]) -> None:
    """The links' own threads end after the last of their ends."""
    left = {id(end) for end in ends}   # not the ends themselves: one that nobody holds any more shall go

    def closed(end: Endpoint) -> None:
        left.discard(id(end))
        if not left:
            for link in links:
                link.close()

    for end in ends:
        end.on_close = closed
