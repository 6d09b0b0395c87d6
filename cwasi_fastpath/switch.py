"""A live switch of one edge: its messages go on by another transport, while both sides work. Nothing is lost, doubled
or out of order.

The receivers are given their ends of the new link first. Then the sender puts a last frame into the old one, between
two messages, and goes on on the new one; each receiver follows when it has read so far. Where that does not succeed in
time, all stays as it was.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import control, errors
from ._native import lib, timeout_ns
from .endpoint import RECEIVER, SENDER
from .modes import Mode, Transport
from .receiver import Receiver
from .request import Request
from .sender import Sender
from .transport import Link, call_off, settle

LONGEST = 60.0
"""Seconds that others may have a switch take."""
_LOOK_SECONDS = 0.0002


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver of a sender's messages in this process."""

    receiver: Receiver
    source: int = 0
    """Which of the senders that it receives from."""


def wish(request: Request) -> tuple[str, float]:
    """The target and what is left of the time of who asks this process for a switch. Raises BadSpec."""
    match request.body.get("target"), request.body.get("timeout"):
        case str(target), int() | float() as seconds if 0 <= seconds <= LONGEST:
            return target, max(0.0, request.since + seconds - time.monotonic())
    raise errors.BadSpec(f"a switch needs a target, and a time-out of 0 to {LONGEST:g} s")


def only_one(request: Request) -> None:
    """Raises BadSpec where several channels of this process have the name: which of them is meant?"""
    if request.channel is not None and (count := control.rivals(request.kind, request.channel)) > 1:
        raise errors.BadSpec(
            f"process {os.getpid()} has {count} channels {request.channel!r}: switch the one you mean by its program"
        )


def open_in_time(
    link: Link, role: int, until: float | None, *, function: str | None = None, reader: int = 0
) -> Any:
    """Opens an end of a link. A server may keep us longer than that: then who opens it calls it off. Raises Timeout,
    and what open raises.
    """
    if link.transport is not Transport.REDIS:
        return link.open(role, function, reader)
    opening: Future[Any] = Future()

    def work() -> None:
        try:
            opening.set_result(link.open(role, function, reader))
        except BaseException as error:
            opening.set_exception(error)

    threading.Thread(target=work, name="cwasi switch", daemon=True).start()
    try:
        wait([opening], left(until))
        if opening.done():
            return opening.result()
        raise errors.Timeout("the server by which it is to go on does not answer in time")
    except BaseException:
        opening.add_done_callback(partial(_drop, link))
        raise


def _drop(link: Link, opening: Future[Any]) -> None:
    if opening.exception() is None:
        lib.cwasi_channel_free(opening.result())
        call_off(link)


def until_of(timeout: float | None) -> float | None:
    """When so many seconds will be over; None for never. Raises ValueError."""
    timeout_ns(timeout)   # refuses what is no number of seconds
    return None if timeout is None else time.monotonic() + timeout


def left(until: float | None) -> float | None:
    """Seconds until then; None for ever."""
    return None if until is None else max(0.0, until - time.monotonic())


def switch_here(
    sender: Sender,
    targets: Sequence[Target],
    link: Link,
    mode: Mode,
    timeout: float | None,
    limit: int | None = None,
    before: Sequence[Link] = (),
) -> None:
    """Takes a sender and all its receivers, which are in this process, over to `link`.

    limit: the longest message in bytes, from then on. before: the links that the sender has left.
    Raises Timeout, and what send raises; then all stays as it was, and the link is closed.
    """
    until = until_of(timeout)
    attached: list[Target] = []
    try:
        epoch = sender.epoch + 1
        for target in targets:
            _await_follower(target, epoch - 1, until)
        for old in before:
            settle(old, left(until))
        for number, target in enumerate(targets):
            end = open_in_time(link, RECEIVER, until, reader=number)
            target.receiver.attach(end, epoch, mode, source=target.source)
            attached.append(target)
        sender.leave_for(open_in_time(link, SENDER, until), mode, left(until))
        if limit is not None:
            with suppress(errors.ChannelClosed):   # it has gone there all the same
                sender.limit(limit)
    except BaseException:
        if not sender.closed and attached and sender.epoch == epoch:
            raise   # Ctrl-C, just after it has gone there
        for target in attached:
            with suppress(errors.Error, OSError):   # who has closed has no use for it
                target.receiver.detach(epoch, source=target.source)
        call_off(link)
        raise


def _await_follower(target: Target, epoch: int, until: float | None) -> None:
    """Waits until the receiver has come to the last switch."""
    while target.receiver.epoch_of(target.source) != epoch:
        if left(until) == 0:
            raise errors.Timeout(f"{target.receiver!r}: it has not read to the last switch yet")
        time.sleep(_LOOK_SECONDS)
