"""A live switch of one edge: its messages go on by another transport, while both sides work. Nothing is lost, doubled
or out of order.

The receivers are given their ends of the new link first. Then the sender puts a last frame into the old one, between
two messages, and goes on on the new one; each receiver follows when it has read so far. Where that does not succeed in
time, all stays as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from . import errors
from ._native import timeout_ns
from .endpoint import RECEIVER, SENDER
from .modes import Mode
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
            target.receiver.attach(link.open(RECEIVER, reader=number), epoch, mode, source=target.source)
            attached.append(target)
        sender.leave_for(link.open(SENDER), mode, left(until))
        if limit is not None:
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
