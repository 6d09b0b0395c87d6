"""Durable channels: each end in a program of its own, found by the channel's name in a Redis server."""

from __future__ import annotations

from functools import partial

from . import transport as transports
from .endpoint import RECEIVER, SENDER, Endpoint
from .modes import Mode, Transport
from .names import checked
from .receiver import Receiver
from .sender import Sender
from .tidy import tidy
from .transport import Link


def durable_sender(name: str, url: str) -> Sender:
    """The sending end of the durable channel `name` in the Redis server at `url`; who sent there before is replaced.

    close() waits until all is stored, and tells the receiver that this is the end. After a failure, or a death, the
    next sender goes on.
    Raises BadName, BadSpec, RedisUnavailable.
    """
    link = _link(name, url)
    sender = Sender(link.open(SENDER), name, Mode.REMOTE)
    tidy(sender)
    _own(link, sender)
    return sender


def durable_receiver(name: str, url: str) -> Receiver:
    """The receiving end; it goes on behind the last message that was acknowledged, which is one that recv has returned.

    Who received there before is replaced. Raises BadName, BadSpec, RedisUnavailable.
    """
    link = _link(name, url)
    receiver = Receiver(link.open(RECEIVER), name, Mode.REMOTE)
    _own(link, receiver)
    return receiver


def _link(name: str, url: str) -> Link:
    option = "&durable=1" if "?" in url else "?durable=1"
    return transports.create(Transport.REDIS, redis=url + option, key=checked(name, "channel"))


def _own(link: Link, end: Endpoint) -> None:
    """The link lives as long as its only end here."""
    end.why = partial(transports.why, [link])
    end.on_close = lambda unused: link.close()
