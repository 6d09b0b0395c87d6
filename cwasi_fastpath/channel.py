"""Channels: named one-way messages, whatever transport carries them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import ref

from . import transport as transports
from .endpoint import RECEIVER, SENDER, Endpoint
from .errors import BadSpec, ChannelClosed, Timeout
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

Edge = tuple[str, str]
"""The names of its sender and its receiver."""


class Channel:
    """A channel as its host sees it: the decision for each edge, and the ends that are in this process."""

    def __init__(self, name: str, decisions: Mapping[Edge, Decision]) -> None:
        self.name = checked(name, "channel")
        self.decisions = dict(decisions)
        self.senders: dict[str, Sender] = {}
        """Those that are here, by function."""
        self.receivers: dict[str, Receiver] = {}
        self._links: dict[Edge, tuple[Link, Endpoint, int]] = {}
        """What carries each edge of which an end is here, with our end and the number of the peer there."""
        self._before: dict[Edge, Link] = {}
        """What carried them before the last switch."""

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
        end.why = partial(transports.why, links)
        mine = [edge for edge in self.decisions if edge[0 if role == SENDER else 1] == function]
        for number, edge in enumerate(mine):
            self._links[edge] = (links[0] if role == SENDER else links[number], end, number)
        return end

    def went_on(self, edge: Edge, decision: Decision, link: Link) -> None:
        """That edge goes by `link` now. Both its ends are here."""
        before, end, peer = self._links[edge]
        done = self._before.get(edge)   # the receivers had left it before they were given this one
        self._before[edge] = before
        self._links[edge] = (link, end, peer)
        self.decisions[edge] = decision
        for ours in (self.senders[edge[0]], self.receivers[edge[1]]):
            ours.why = partial(transports.why, [link])
        self.senders[edge[0]].why_before = partial(transports.why, [before])
        if done is not None:
            done.close()

    def left(self, sender: str) -> list[Link]:
        """What carried the messages of that one before the last switch."""
        return [link for edge, link in self._before.items() if edge[0] == sender]

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
        """Why this transport, and why not the others; for each edge where there are several."""
        if len(self.decisions) == 1:
            return self.decision.explain()
        return "\n".join(
            f"{sender} -> {receiver}: {decision.explain()}" for (sender, receiver), decision in self.decisions.items()
        )

    def peer_died(self, edge: Edge) -> None:
        """Tells our end of an edge that the process of the other one is gone."""
        if edge in self._links:
            link, end, peer = self._links[edge]
            link.peer_died(end, peer)

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
        for link in (*self._before.values(), *(link for link, _, _ in self._links.values())):
            link.close()


def crossed_limit(link: Link, senders: int, receivers: int) -> int | None:
    """The longest message, in bytes, where a channel has several senders and several receivers. These must not wait
    inside a message: one would for the first sender, another for the second, and neither of the two could go on.
    """
    return link.longest_whole if senders > 1 and receivers > 1 else None


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
