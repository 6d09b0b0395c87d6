"""A live switch of a host's channel whose ends are all in this process: each sender in turn, with all its receivers.
That all of them go, or none, is seen to for other channels, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from . import errors
from . import transport as transports
from .channel import Channel, Edge, crossed_limit
from .endpoint import RECEIVER, SENDER
from .modes import EdgeFacts, Transport, mode_of
from .policy import Decision, Request, ruled_out
from .switch import Target, left, switch_here
from .transport import Link
from .transport.target import link_to, transport_of

if TYPE_CHECKING:
    from .transport.tls import TlsFiles

_BACK_SECONDS = 0.5
"""For a sender to come back, where another one could not go."""


def switch_channel(
    channel: Channel,
    facts: Mapping[Edge, EdgeFacts],
    target: str,
    timeout: float | None,
    tls: TlsFiles | None = None,
    there: Collection[str] = (),
) -> None:
    """Takes the channel to another transport. facts: of every edge. tls: for tcp. there: senders that stay where they
    are.

    Raises BadSpec, NoTransport, Timeout and what send raises. Senders that have gone there before come back; one that
    cannot, the error names.
    """
    until = None if timeout is None else time.monotonic() + timeout
    senders, receivers = (list(dict.fromkeys(names)) for names in zip(*channel.decisions, strict=True))
    for edge in channel.decisions:
        check(channel.name, edge, facts[edge], transport_of(target), len(receivers))
    all_or_none(
        [sender for sender in senders if sender not in there],
        target,
        until,
        lambda sender: _target_of(channel.link_of(SENDER, (sender, receivers[0]))),
        lambda sender, target, until: _move(channel, facts, senders.index(sender), target, until, tls),
    )


def all_or_none(
    senders: Sequence[str],
    target: str,
    until: float | None,
    before: Callable[[str], str],
    move: Callable[[str, str, float | None], None],
) -> None:
    """Takes each sender of a channel to another transport by move(sender, target, until). Where one cannot go, those
    that have gone come back to what they had: before(sender). Raises what `move` raises; one that cannot come back, the
    error names.
    """
    gone: list[tuple[str, str]] = []
    try:
        for sender in senders:
            old = before(sender)
            move(sender, target, until)
            gone.append((sender, old))
    except (errors.Error, OSError) as error:
        stay = [sender for sender, old in gone if not _back(sender, old, move)]
        if stay and isinstance(error, errors.Error):
            words = f"{', '.join(stay)} had gone to {transport_of(target)} and cannot come back yet"
            raise type(error)(f"{error}; {words}") from error
        raise


def _back(sender: str, old: str, move: Callable[[str, str, float | None], None]) -> bool:
    """Takes one sender back to the transport that it had before; whether it could."""
    try:
        move(sender, old, time.monotonic() + _BACK_SECONDS)
    except (errors.Error, OSError):
        return False
    return True


def _target_of(link: Link) -> str:
    """By what it was made."""
    return str(link.export(SENDER)[0]["url"] if link.transport is Transport.REDIS else link.transport)


def _move(
    channel: Channel,
    facts: Mapping[Edge, EdgeFacts],
    number: int,
    target: str,
    until: float | None,
    tls: TlsFiles | None,
) -> None:
    """One of its senders, with all its receivers."""
    senders, receivers = (list(dict.fromkeys(names)) for names in zip(*channel.decisions, strict=True))
    sender = senders[number]
    link = link_to(target, key=transports.key_of(channel.name, sender, len(senders)), readers=len(receivers), tls=tls)
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
