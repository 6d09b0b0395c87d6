"""What the suite runs over. A transport that is added needs a line here, and keeps every promise of the contract."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import redis

from cwasi_fastpath.endpoint import SENDER
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.transport import Link
from cwasi_fastpath.transport.redis_send import BACKLOG
from cwasi_fastpath.transport.ring import CAPACITY, READERS_MAX
from cwasi_fastpath.transport.tcp import WINDOW, TcpLink


@dataclass(frozen=True, slots=True)
class Case:
    """A transport, and what it offers."""

    transport: Transport
    bound: int
    """Bytes of payload that a sender gets rid of at most while nobody receives."""
    readers: int = 1
    """How many receivers a link may have."""
    notices: bool = True
    """Whether an end learns of a death by itself, and need not be told."""
    cut: Callable[[Link], None] | None = None
    """Breaks the connection of a link, where the transport promises to make it again."""


def _cut_tcp(link: Link) -> None:
    """What is under way in one direction is lost."""
    assert isinstance(link, TcpLink)
    for keeper in link._keepers:
        if keeper._connection is not None:
            keeper._connection.shutdown(socket.SHUT_RDWR)
            return


def _cut_redis(link: Link) -> None:
    """From the server's side, which ends every connection but the one that asks for it."""
    with redis.Redis.from_url(link.export(SENDER)[0]["url"]) as client:
        client.client_kill_filter(_type="normal", skipme=True)


CASES = (
    Case(Transport.RING, CAPACITY, readers=READERS_MAX),
    Case(Transport.PIPE, 1 << 20, readers=READERS_MAX),
    Case(Transport.TCP, WINDOW, readers=READERS_MAX, cut=_cut_tcp),
    Case(Transport.REDIS, BACKLOG + 3 * CAPACITY, readers=READERS_MAX, notices=False, cut=_cut_redis),
)
