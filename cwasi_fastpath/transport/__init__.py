"""The transports, and the contract that each keeps.

A *link* is what the ends of a channel share: it is made once, by whoever decides the transport, and is joined by one
sender and one receiver, here or in another process. A ring may have several receivers, each of which gets every
message; a receiver of several senders has a link to each.

- `open(role)` joins and gives a C channel end; each end is given out once. An end outlives its link.
- `export()` describes the link to another process: a dict of plain values, and the file descriptors that go with it
  over a unix socket; `join(description, fds)` there gives a link to the same thing.
- Messages arrive whole, once, in the order sent, or the receiver gets an error: no silent loss.
- `send` returns when the transport has taken the message, and waits while the transport is full (back-pressure).
  A time-out holds until the first byte has gone.
- A sender that finishes: the receiver gets the rest, then ChannelClosed. A sender that fails, or dies: the rest, then
  PeerDied. A receiver that is gone: the sender gets ChannelClosed or PeerDied with its next message, unless it has
  others.
- A transport that goes on when what carries it was gone for a while says so; a message is doubled or lost by none.
- `peer_died(end)` is for who learns of a death otherwise. A ring and a pipe notice it by themselves.
- Who made a link closes it; closing twice is safe; closing leaves joined ends alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import uuid4

from ..endpoint import Endpoint
from ..errors import BadSpec
from ..modes import Transport


class Link(Protocol):
    """What every transport implements; see the contract above."""

    transport: Transport

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        """Joins as sender or receiver; the C pointer of a channel end. Raises OSError, RedisUnavailable.

        function: for whom a transport with threads of its own does its work, for attribution. reader: which of the
        receivers, counted from 0.
        """

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        """What another process needs to join as `role`. The descriptors stay the link's."""

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        """Tells our end that the process of the other one, its peer with that number, is gone."""

    def close(self) -> None:
        """Gives up what was not handed out."""


def create(transport: Transport, *, readers: int = 1, redis: str | None = None, key: str = "") -> Link:
    """Makes a new link.

    readers: how many receivers it has; more than one only on a ring.
    redis: the server's URL, and key: how the stream's name there begins, or all of it where the URL says `durable=1`;
    both only for the redis transport.
    Raises OSError when the kernel refuses, RedisUnavailable.
    """
    if transport is Transport.RING:
        from .ring import RingLink

        return RingLink.create(readers=readers)
    if readers != 1:
        raise BadSpec(f"{transport} has one receiver, not {readers}: only a ring has several")
    if transport is Transport.PIPE:
        from .pipe import PipeLink

        return PipeLink.create()
    if redis is None:
        raise BadSpec("the redis transport needs the URL of a server, for example unix:///run/redis/redis.sock")
    from .redis import RedisLink
    from .redis_client import Address

    # Others use the server too. The key of a durable channel is what its ends find each other by.
    return RedisLink(redis, key if Address.parse(redis).durable else f"{key}:{uuid4().hex}")


def join(description: dict[str, Any], fds: list[int]) -> Link:
    """The link that another process exported. Owns the descriptors from now on."""
    transport = Transport(description["transport"])
    if transport is Transport.RING:
        from .ring import RingLink

        return RingLink.joined(fds, description["role"], description["reader"])
    if transport is Transport.PIPE:
        from .pipe import PipeLink

        return PipeLink.joined(fds[0], description["role"])
    from .redis import RedisLink

    return RedisLink(description["url"], description["key"], description["readers"])


def why(links: Sequence[Link]) -> str | None:
    """Why the other side of one of them is gone, where its transport knows more than that it is."""
    return next((text for text in (getattr(link, "why", None) for link in links) if text), None)
