"""Durable channels: each end in a program of its own, found by the channel's name in a Redis server."""

from __future__ import annotations

from functools import partial

from . import transport as transports
from .endpoint import RECEIVER, SENDER, Endpoint
from .errors import BadSpec
from .modes import Mode, Transport
from .names import checked
from .receiver import Receiver
from .sender import Sender
from .tidy import tidy
from .transport import Link


def durable_sender(name: str, url: str, readers: int = 1) -> Sender:
    """The sending end of the durable channel `name` in the Redis server at `url`; who sent there before is replaced.

    readers: how many receivers get every message; the slowest, also one that is not there, holds up the sender.
    close() waits until all is stored, and tells the receiver that this is the end. After a failure, or a death, the
    next sender goes on.
    Raises BadName, BadSpec, RedisUnavailable.
    """
    link = _link(name, url, readers)
    sender = Sender(link.open(SENDER), name, Mode.REMOTE)
    tidy(sender)
    _own(link, sender)
    return sender


def durable_receiver(name: str, url: str, reader: int = 0, readers: int = 1) -> Receiver:
    """The receiving end; it goes on behind the last message that was acknowledged, which is one that recv has returned.

    reader: which of so many, counted from 0; who was that one before is replaced.
    Raises BadName, BadSpec, RedisUnavailable.
    """
    if not 0 <= reader < readers:
        raise BadSpec(f"channel {name!r}: receiver {reader} of {readers}: they are counted from 0")
    link = _link(name, url, readers)
    receiver = Receiver(link.open(RECEIVER, reader=reader), name, Mode.REMOTE)
    _own(link, receiver)
    return receiver


def _link(name: str, url: str, readers: int) -> Link:
    option = "&durable=1" if "?" in url else "?durable=1"
    return transports.create(Transport.REDIS, readers=readers, redis=url + option, key=checked(name, "channel"))


def _own(link: Link, end: Endpoint) -> None:
    """The link lives as long as its only end here."""
    end.why = partial(transports.why, [link])
    end.on_close = lambda unused: link.close()
