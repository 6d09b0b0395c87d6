"""The transports, and the contract that each keeps.

A *link* is what two ends of a channel share: it is made once, by whoever decides the transport, and is joined by one
sender and one receiver, here or in another process.

- `open(role)` joins and gives a C channel end; each role is given out once. An end outlives its link.
- `export()` describes the link to another process: a dict of plain values, and the file descriptors that go with it
  over a unix socket; `join(description, fds)` there gives a link to the same thing.
- Messages arrive whole, once, in the order sent, or the receiver gets an error: no silent loss.
- `send` returns when the transport has taken the message, and waits while the transport is full (back-pressure).
  A time-out holds until the first byte has gone.
- A sender that finishes: the receiver gets the rest, then ChannelClosed. A sender that fails, or dies: the rest, then
  PeerDied. A receiver that is gone: the sender gets ChannelClosed or PeerDied with its next message.
- Who made a link closes it; closing twice is safe; closing leaves joined ends alone.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import uuid4

from ..endpoint import Endpoint
from ..errors import BadSpec
from ..modes import Transport


class Link(Protocol):
    """What every transport implements; see the contract above."""

    transport: Transport

    def open(self, role: int, function: str | None = None) -> Any:
        """Joins as sender or receiver; the C pointer of a channel end. Raises OSError, RedisUnavailable.

        function: for whom a transport with threads of its own does its work, for attribution.
        """


    def export(self, role: int) -> tuple[dict[str, Any], list[int]]:
        """What another process needs to join as `role`."""


    def peer_died(self, end: Endpoint) -> None:
        """Tells our end that the process of the other one is gone."""

    def close(self) -> None:
        """Gives up what was not handed out."""


def create(transport: Transport, *, redis: str | None = None, key: str = "") -> Link:
    """Makes a new link.

    redis: the server's URL, and key: how the stream's name there begins; both only for the redis transport.
    Raises OSError when the kernel refuses, RedisUnavailable.
    """
    if transport is Transport.RING:
        from .ring import RingLink

        return RingLink.create()
    if transport is Transport.PIPE:
        from .pipe import PipeLink

        return PipeLink.create()
    if redis is None:
        raise BadSpec("the redis transport needs the URL of a server, for example unix:///run/redis/redis.sock")
    from .redis import RedisLink

    return RedisLink(redis, f"{key}:{uuid4().hex}")   # others use the server too


def join(description: dict[str, Any], fds: list[int]) -> Link:
    """The link that another process exported. Owns the descriptors from now on."""
    transport = Transport(description["transport"])
    if transport is Transport.RING:
        from .ring import RingLink

        return RingLink(fds[0])
    if transport is Transport.PIPE:
        from .pipe import PipeLink

        return PipeLink.joined(fds[0], description["role"])
    from .redis import RedisLink

    return RedisLink(description["url"], description["key"])
