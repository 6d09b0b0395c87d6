"""What drives one end: sends or receives at full speed until it is told to close, or the channel ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from .. import errors
from ..endpoint import Endpoint
from ..receiver import Receiver, wait
from ..sender import Sender
from . import message
from .tally import Ending, Tally

_PATIENCE = 0.2
"""Seconds of one wait: then it looks whether it was told to close."""


_Result = TypeVar("_Result")


class _Told(Exception):
    """To close."""


def work(end: Endpoint, stream: int, tally: Tally, largest: int) -> None:
    """Drives `end` to its end, and closes it.

    stream: which sender it is, and largest: the bytes that it sends at most; of no meaning for a receiver.
    """
    ending = Ending.UNEXPECTED
    dice = random.Random(stream)
    try:
        if isinstance(end, Sender):
            _send(end, stream, tally, dice, largest)
        elif isinstance(end, Receiver):
            _receive(end, tally, dice)
    except _Told:
        ending = Ending.TOLD
    except errors.ChannelClosed:
        ending = Ending.CLOSED
    except errors.PeerDied:
        ending = Ending.DIED
    except errors.Cancelled:
        ending = Ending.CANCELLED
    finally:
        unread = end.unread if isinstance(end, Sender) else 0
        end.finish(failed=ending not in (Ending.TOLD, Ending.CLOSED, Ending.DIED))
        end.close()
        tally.end(ending, unread)


def _patiently(tally: Tally, call: Callable[[float], _Result]) -> _Result:
    while True:
        if tally.told:
            raise _Told
        try:
            return call(_PATIENCE)
        except errors.Timeout:
            continue


def _send(end: Sender, stream: int, tally: Tally, dice: random.Random, largest: int) -> None:
    while True:
        number = tally.done(stream)
        data = message.make(stream, number, message.size_of(number, dice, largest))
        tally.begun = number + 1
        _patiently(tally, partial(end.send, data))
        tally.count(stream, number, len(data))


def _receive(end: Receiver, tally: Tally, dice: random.Random) -> None:
    while True:
        data = _patiently(tally, lambda seconds: _receive_somehow(end, seconds, dice))
        found = message.parse(data)
        if found is None:
            tally.count_corrupt()
        else:
            tally.count(*found, len(data))


def _receive_somehow(end: Receiver, seconds: float, dice: random.Random) -> bytes:
    """By one of the ways that there are."""
    way = dice.randrange(8)
    if way == 0:
        wait([end], seconds)
    elif way == 1:
        buffer = bytearray(end.peek(seconds)[0])
        # Of several senders one may die inside its message: the next one comes in its place.
        try:
            return bytes(buffer[: end.recv_into(buffer, seconds)])
        except errors.MessageTooLong:
            pass
    return end.recv(seconds)
