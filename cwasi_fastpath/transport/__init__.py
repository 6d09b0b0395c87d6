"""The transports, and the contract that each keeps.

A *link* is what the ends of a channel share: it is made once, by whoever decides the transport, and is joined by one
sender and one receiver, here or in another process. Some links may have several receivers, each of which gets every
message; a receiver of several senders has a link to each.

Each promise has a name; tests/conformance holds every transport to it, with a test that begins with that name.

Messages
- `in_order`: they arrive whole, once, in the order sent, or the receiver gets an error. No silent loss.
- `any_size`: from 0 bytes to 1 GiB, whatever the transport's own units are.
- `content_is_fixed`: once `send` has returned, nothing that the sender does changes what is received.

Waiting
- `bound`: a sender whose receiver does not read is stopped after a bounded number of bytes.
- `goes_on`: as soon as there is room, because something was received, it goes on.
- `no_wait`: with timeout 0 no call waits; where it would, it raises WouldWait, and nothing was sent or taken.
- `timeout`: a wait that ends by its timeout ends with Timeout, not before its time; nothing was sent or taken. That
  of a sender is for the start of a message: once a byte of it has gone, it is completed.
- `stop`: ends every wait, now and later, with Cancelled, also inside a message. Who is at the other side then gets an
  error, never a part of a message.

Ends
- `finish`: of a sender that finishes the receiver gets the rest, then ChannelClosed, as often as it asks.
- `failure`: of a sender that fails it gets the rest, then PeerDied.
- `sender_killed`: of a sender whose process dies it gets what had gone out, from the first message on and without a
  gap, then PeerDied.
- `receiver_left`: the sender gets ChannelClosed or PeerDied with a next message, also when it waits for room, unless
  there are other receivers.
- `receiver_killed`: the same when the receiver's process dies.
- `peer_died`: `link.peer_died(end)` tells an end of a death that its transport cannot notice: what was sent can still
  be received, then PeerDied is raised.
- `close_under_way`: an end may be closed with messages under way, in any order, and nothing hangs.
- `close_twice`: closing an end or a link again is safe. Who made a link closes it, after the ends that it gave out.

Links
- `joined_elsewhere`: `export()` describes an end to another process: a dict of plain values, and the file descriptors
  that go with it over a unix socket; `join(description, fds)` there gives a link to the same thing. Then the first link
  is closed: an end that stays open in two processes hides the death of one.
- `given_out_once`: `open(role)` gives the C channel end of a role once; a second time is refused.
- `apart`: two links never mix, also when their channels have the same name.
- `nothing_left`: when the ends and the link are closed, no descriptor, thread, memory or key of theirs is left.

Where a transport offers it
- `fan_out`: several receivers each get every message. The slowest holds up the sender; one that leaves or dies holds it
  up no longer, and those that died are counted (`lost_peers`).
- `reconnect`: a connection that breaks while both ends live is made again, and nothing is lost or doubled. Where it
  cannot be made in a bounded time, the peer counts as dead; as long as the other side answers, and proves who it is, it
  does not. Until then a sender goes on as long as there is room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from ..endpoint import Endpoint
from ..errors import BadSpec
from ..modes import Transport

if TYPE_CHECKING:
    from .tcp_info import Network
    from .tls import TlsFiles


class Link(Protocol):
    """What every transport implements; see the contract above."""

    transport: Transport
    longest_whole: int
    """Bytes in a message that is taken as a whole or not at all, so that nobody ever waits inside it."""

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        """Joins as sender or receiver; the C pointer of a channel end. Raises OSError, RedisUnavailable,
        TcpUnavailable.

        function: for whom a transport with threads of its own does its work, for attribution. reader: which of the
        receivers, counted from 0.
        """

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        """What another process needs to join as `role`. The descriptors stay the link's."""

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        """Tells our end that the process of the other one, its peer with that number, is gone."""

    def close(self) -> None:
        """Gives up what was not handed out."""


def longest_whole(transport: Transport) -> int:
    """Of its links."""
    from . import pipe, ring, tcp

    lengths = {Transport.PIPE: pipe.LONGEST_WHOLE, Transport.TCP: tcp.LONGEST_WHOLE}
    return lengths.get(transport, ring.LONGEST_WHOLE)   # a server's ends are rings


def create(
    transport: Transport,
    *,
    readers: int = 1,
    redis: str | None = None,
    key: str = "",
    listen: tuple[str, int] | None = None,
    tls: TlsFiles | None = None,
) -> Link:
    """Makes a new link.

    readers: how many receivers it has.
    redis: the server's URL, and key: how the stream's name there begins, or all of it where the URL says `durable=1`;
    both only for the redis transport.
    listen: where the receiver of a tcp link listens, host and port, others at the ports that follow; by default any
    port of 127.0.0.1. tls: for tcp links, that both ends show a certificate.
    Raises OSError when the kernel refuses, RedisUnavailable, TcpUnavailable.
    """
    if transport is Transport.RING:
        from .ring import RingLink

        return RingLink.create(readers=readers)
    if transport is Transport.PIPE:
        from .pipe import PipeLink

        return PipeLink.create(readers)
    if transport is Transport.TCP:
        from .tcp import TcpLink

        return TcpLink.create(*(listen or ()), readers=readers, tls=tls)
    if redis is None:
        raise BadSpec("the redis transport needs the URL of a server, for example unix:///run/redis/redis.sock")
    from .redis import RedisLink
    from .redis_client import Address

    # Others use the server too. The key of a durable channel is what its ends find each other by.
    return RedisLink(redis, key if Address.parse(redis).durable else f"{key}:{uuid4().hex}", readers)


def key_of(channel: str, sender: str, senders: int) -> str:
    """What the link of a sender is called where others can see it."""
    return channel if senders == 1 else f"{channel}:{sender}"


def join(description: dict[str, Any], fds: list[int]) -> Link:
    """The link that another process exported. Owns the descriptors from now on.

    Raises LookupError, TypeError, ValueError for what no link exports; then they stay the caller's.
    """
    transport = Transport(description["transport"])
    if transport is Transport.RING:
        from .ring import RingLink

        return RingLink.joined(fds, description["role"], description["reader"])
    if transport is Transport.PIPE:
        from .pipe import PipeLink

        return PipeLink.joined(fds, description["role"], description["reader"])
    if transport is Transport.TCP:
        from .tcp import TcpLink

        return TcpLink.joined(description, fds)
    from .redis import RedisLink

    if fds:
        raise ValueError("a stream has no descriptors")
    return RedisLink(description["url"], description["key"], description["readers"])


def why(links: Sequence[Link]) -> str | None:
    """Why the other side of one of them is gone, where its transport knows more than that it is."""
    return next((text for text in (getattr(link, "why", None) for link in links) if text), None)


def network(link: Link) -> Network | None:
    """What is known of the network between its ends, where it goes by one and the sender is here."""
    found: Network | None = getattr(link, "network", None)
    return found


def notices_itself(link: Link) -> bool:
    """Whether it notices a death by itself, and so knows better than others."""
    return bool(getattr(link, "connected", False))


def settle(link: Link, timeout: float | None) -> None:
    """To be called when one was left and read to its end, before the next. Raises Busy where that takes longer."""
    if (wait := getattr(link, "settle", None)) is not None:
        wait(timeout)


def call_off(link: Link) -> None:
    """Closes one by which nothing has come, and nothing will."""
    if (give_up := getattr(link, "give_up", None)) is not None:
        give_up()   # its other side would be waited for
    link.close()
