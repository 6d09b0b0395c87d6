"""A live switch of a host's channel whose ends are all in this process: each sender in turn, with all its receivers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import errors
from . import transport as transports
from .channel import Channel, Edge, crossed_limit
from .endpoint import RECEIVER, SENDER
from .modes import EdgeFacts, Transport, mode_of
from .policy import Decision, Request, ruled_out
from .switch import Target, left, switch_here
from .transport.target import link_to, transport_of

if TYPE_CHECKING:
    from .transport.tls import TlsFiles


def switch_channel(
    channel: Channel, facts: Mapping[Edge, EdgeFacts], target: str, timeout: float | None, tls: TlsFiles | None = None
) -> None:
    """Takes the channel to another transport. facts: of every edge. tls: for tcp.

    Raises BadSpec, NoTransport, Timeout and what send raises; those senders that
    have gone there before stay there.
    """
    until = None if timeout is None else time.monotonic() + timeout
    senders, receivers = (list(dict.fromkeys(names)) for names in zip(*channel.decisions, strict=True))
    for edge in channel.decisions:
        check(channel.name, edge, facts[edge], transport_of(target), len(receivers))
    for number, sender in enumerate(senders):
        key = transports.key_of(channel.name, sender, len(senders))
        link = link_to(target, key=key, readers=len(receivers), tls=tls)
        edges = [(sender, receiver) for receiver in receivers]
        mode = max(mode_of(link.transport, facts[edge].locality) for edge in edges)
        targets = [Target(channel.receivers[receiver], number) for receiver in receivers]
        limit = crossed_limit(link, len(senders), len(receivers))
        before = channel.left(SENDER, edges[0])
        switch_here(channel.senders[sender], targets, link, mode, left(until), limit, before)
        for edge in edges:
            for role in (SENDER, RECEIVER):
                channel.went_on(role, edge, decided(link.transport, facts[edge]), link)


def check(channel: str, edge: Edge, facts: EdgeFacts, transport: Transport, receivers: int) -> None:
    """Raises NoTransport where the facts forbid it."""
    request = Request(facts, available=frozenset(Transport), receivers=receivers)
    if (obstacle := ruled_out(request, transport)) is not None:
        raise errors.NoTransport(f"channel {channel!r} from {edge[0]} to {edge[1]}: {transport}: {obstacle}")


def decided(transport: Transport, facts: EdgeFacts) -> Decision:
    """What is known of an edge after a switch."""
    return Decision(mode_of(transport, facts.locality), transport, "a switch was asked for", ())
