"""A host process's part in a live switch; its parent leads, see switch_spanned."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import errors, transport
from .channel import Channel, Edge
from .endpoint import RECEIVER, SENDER
from .host import Host
from .modes import Mode, Transport
from .policy import Decision
from .request import close_all
from .switch import left, open_in_time

_PATIENCE = 1.0
"""Seconds for another switch in this process, which our parent does not know of, to end."""

Message = dict[str, Any]


class SwitchPart:
    """Does what the parent says, in its order, on a thread of its own: it may wait."""

    def __init__(self, host: Host, answer: Callable[[int, Exception | None], None]) -> None:
        self._host = host
        self._answer = answer
        self._said: queue.SimpleQueue[tuple[Message, list[int]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def heard(self, message: Message, fds: list[int]) -> None:
        """Takes what the parent says, and the descriptors."""
        self._said.put((message, fds))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cwasi switch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            message, fds = self._said.get()
            failure: Exception | None = None
            try:
                self._do(message, fds)
            except Exception as error:
                failure = error
            finally:
                close_all(fds)
            self._answer(message["number"], failure)

    def _do(self, message: Message, fds: list[int]) -> None:
        for kind, work in (("attach", self._attach), ("leave", self._leave), ("detach", self._detach)):
            if kind in message:
                with self._host.changing(message[kind], _PATIENCE) as channel:
                    work(channel, message, fds)

    def _attach(self, channel: Channel, message: Message, fds: list[int]) -> None:
        """For a receiver."""
        edge, epoch, source = _edge(message), message["epoch"], message["source"]
        receiver = channel.receivers[edge[1]]
        if receiver.epoch_of(source) != epoch - 1:
            raise errors.Busy(f"{receiver!r} of {edge[1]} has not read to the last switch yet")
        self._detach(channel, message, fds)   # what was offered before
        for old in channel.left(RECEIVER, edge):
            transport.settle(old, 0.0)
        decision = decision_of(message["decision"])
        link = _joined(message, fds)
        try:
            end = link.open(RECEIVER, edge[1], message["reader"])
            receiver.attach(end, epoch, decision.mode, source=source)
        except BaseException:
            transport.call_off(link)
            raise
        channel.went_on(RECEIVER, edge, decision, link)

    def _detach(self, channel: Channel, message: Message, fds: list[int]) -> None:
        edge = _edge(message)
        with suppress(OSError):   # the sender has gone there, or there is nothing
            channel.receivers[edge[1]].detach(message["epoch"], source=message["source"])
            link = channel.link_of(RECEIVER, edge)
            channel.went_back(RECEIVER, edge, link)
            transport.call_off(link)

    def _leave(self, channel: Channel, message: Message, fds: list[int]) -> None:
        """For a sender."""
        function = message["function"]
        sender = channel.senders[function]
        decisions = {(one, other): decision_of(plain) for one, other, plain in message["decisions"]}
        link = _joined(message, fds)
        try:
            # Before anything can go that way: whoever closes the sender then waits until it is out.
            for edge, decision in decisions.items():
                channel.went_on(SENDER, edge, decision, link)
            end = open_in_time(link, SENDER, message["until"], function=function)
            sender.leave_for(end, max(one.mode for one in decisions.values()), left(message["until"]))
        except BaseException:
            for edge in decisions:
                channel.went_back(SENDER, edge, link)
            transport.call_off(link)
            raise
        if message["limit"] is not None:
            with suppress(errors.ChannelClosed):   # it has gone there all the same
                sender.limit(message["limit"])


def decision_of(plain: Message) -> Decision:
    """A decision of the parent's."""
    return Decision(Mode(plain["mode"]), Transport(plain["transport"]), plain["reason"], ())


def _edge(message: Message) -> Edge:
    sender, receiver = message["edge"]
    return sender, receiver


def _joined(message: Message, fds: list[int]) -> transport.Link:
    link = transport.join(message["link"], fds[:])
    fds.clear()
    return link
