"""Channels: named one-way messages, whatever transport carries them."""

from __future__ import annotations

from . import transport as transports
from .endpoint import RECEIVER, SENDER, Endpoint, Receiver, Sender
from .errors import BadSpec
from .metrics import ChannelMetrics, channel_metrics
from .modes import Locality, Mode, Transport, mode_of
from .names import checked
from .policy import Decision
from .transport import Link

_URL_SCHEMES = ("redis://", "rediss://", "unix://")


class Channel:
    """A channel as its host sees it: the decision, and the ends that are in this process."""

    def __init__(
        self, name: str, decision: Decision, link: Link, sender: Sender | None = None, receiver: Receiver | None = None
    ) -> None:
        self.name = checked(name, "channel")
        self.decision = decision
        self.link = link
        self.sender = sender
        self.receiver = receiver

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}: {self.mode}, {self.transport}>"

    @property
    def mode(self) -> Mode:
        """The path class in use."""
        return self.decision.mode

    @property
    def transport(self) -> Transport:
        """How bytes move."""
        return self.decision.transport

    def metrics(self) -> ChannelMetrics:
        """What the ends in this process have counted; also after they are closed."""
        return channel_metrics(
            self.sender.metrics() if self.sender else None, self.receiver.metrics() if self.receiver else None
        )

    def explain(self) -> str:
        """Why this transport, and why not the others."""
        return self.decision.explain()

    def peer_died(self) -> None:
        """Tells our ends that the process of the other one is gone."""
        for end in (self.sender, self.receiver):
            if end is not None:
                self.link.peer_died(end)

    def close(self) -> None:
        """Closes the ends that are here, waits until what was sent is out, and gives up the link."""
        for end in (self.sender, self.receiver):
            if end is not None:
                end.close()
        self.link.close()


def open_channel(name: str, transport: str = "ring") -> tuple[Sender, Receiver]:
    """Both ends of a new channel in this process, for threads, forks and tests.

    transport: ring, pipe, or the URL of a Redis server.
    Raises BadName, BadSpec, OSError, RedisUnavailable.
    """
    checked(name, "channel")
    if transport.startswith(_URL_SCHEMES):
        link = transports.create(Transport.REDIS, redis=transport, key=name)
    elif transport in (Transport.RING, Transport.PIPE):
        link = transports.create(Transport(transport))
    else:
        raise BadSpec(f"transport {transport!r} is unknown: use ring, pipe or a URL like unix:///run/redis/redis.sock")
    try:
        mode = mode_of(link.transport, Locality.PROCESS)
        sender = Sender(link.open(SENDER), name, mode)
        receiver = Receiver(link.open(RECEIVER), name, mode)
    except BaseException:
        link.close()
        raise
    # The link's own threads end after the last of the two ends.
    left = {SENDER, RECEIVER}

    def closed(end: Endpoint) -> None:
        left.discard(end.role)
        if not left:
            link.close()

    sender.on_close = receiver.on_close = closed
    return sender, receiver
