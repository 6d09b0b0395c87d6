"""A live switch of channels between host processes, by the process that connects them; see switch for the order.

It makes the new link, has each receiver's process attach its end of it, and then the sender's go there. What it does
not know it does not guess: a sender that was told to go is waited for as long as its process lives, and only when it
says that it has not gone are the receivers told to detach theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from . import control, errors
from . import transport as transports
from .channel import Edge, crossed_limit
from .endpoint import RECEIVER, SENDER
from .placement import Placement, edge_facts
from .policy import Decision
from .process import HostProcess, NotRunning
from .request import InTurn, Request
from .spanned import SpannedChannel
from .switch import left, only_one, until_of, wish
from .switch_channel import check, decided
from .transport import Link
from .transport.target import link_to, transport_of

if TYPE_CHECKING:
    from .transport.tls import TlsFiles

_AGAIN = (0.001, 0.05)
"""Seconds after which a busy receiver is asked again, at first and at last."""
_PATIENCE = 2.0
"""Seconds for a switch to end whose processes have ended."""


class SpannedSwitch:
    """Switches the channels of host processes. Use it in a `with` block around their lives."""

    def __init__(self, tls: TlsFiles | None = None) -> None:
        """tls: for links over tcp."""
        self._tls = tls
        self._channels: dict[str, SpannedChannel] = {}
        self._processes: Mapping[str, HostProcess] = {}
        self._placements: Mapping[str, Placement] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        """By channel and sender."""
        self._one = threading.Lock()
        """One switch at a time."""
        self._turn = InTurn()
        self._handlers: list[tuple[control.Handler, str]] = []
        self._presence: control.Presence | None = None

    def __enter__(self) -> Self:
        """Without a runtime directory nobody can ask for a switch."""
        try:
            self._presence = control.Presence()
        except errors.RegistryUnavailable:
            self._presence = None   # the host processes say so
        return self

    def __exit__(self, *unused: object) -> None:
        while self._handlers:
            control.off("switch-to", *self._handlers.pop())
        if self._one.acquire(timeout=_PATIENCE):   # what is under way ends soon: its processes have
            self._one.release()
        if self._presence is not None:
            self._presence.leave()

    @property
    def address(self) -> str:
        """Where others ask for a switch; nothing where they cannot."""
        return self._presence.address if self._presence is not None else ""

    def serve(
        self,
        channels: Sequence[SpannedChannel],
        processes: Mapping[str, HostProcess],
        placements: Mapping[str, Placement],
    ) -> None:
        """From now on these channels can be switched. processes, placements: by function."""
        self._channels = {channel.name: channel for channel in channels}
        self._processes, self._placements = processes, placements
        for name in self._channels:
            handler = self._turn.handler(partial(self._asked, name))
            control.on("switch-to", handler, name)
            self._handlers.append((handler, name))

    def _asked(self, name: str, request: Request, fds: list[int]) -> None:
        only_one(request)
        self.switch(name, *wish(request))
        edges = self._channels[name].decisions.values()
        request.answer({"transport": next(iter(edges)).transport, "mode": str(max(one.mode for one in edges))})

    def switch(self, name: str, target: str, timeout: float | None) -> None:
        """Takes a channel to another transport, each sender in turn with all its receivers.

        Raises BadSpec, NoTransport, Timeout, and what send raises; senders that have gone there stay there.
        """
        until = until_of(timeout)
        if not self._one.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"channel {name!r}: another switch is under way")
        try:
            channel = self._channels[name]
            facts = {edge: edge_facts(*(self._placements[end] for end in edge)) for edge in channel.decisions}
            for edge in channel.decisions:
                check(name, edge, facts[edge], transport_of(target), len(channel.receivers))
            for number, (sender, _) in enumerate(channel.senders):
                key = transports.key_of(name, sender, len(channel.senders))
                link = link_to(target, key=key, readers=len(channel.receivers), tls=self._tls)
                try:
                    edges = {
                        edge: decided(link.transport, facts[edge]) for edge in channel.decisions if edge[0] == sender
                    }
                    self._move(channel, number, edges, link, until)
                except NotRunning as error:
                    raise errors.ChannelClosed(f"channel {name!r}: {error}") from error
                finally:
                    link.close()
                channel.decisions.update(edges)
        finally:
            self._one.release()

    def _move(
        self, channel: SpannedChannel, number: int, edges: Mapping[Edge, Decision], link: Link, until: float | None
    ) -> None:
        """One sender."""
        sender = channel.senders[number][0]
        epoch = self._epochs.get((channel.name, sender), 0) + 1
        offered: list[Edge] = []
        told = False
        try:
            for reader, edge in enumerate(edges):
                offered.append(edge)
                description, fds = link.export(RECEIVER, reader)
                body = {"attach": channel.name, "edge": edge, "source": number, "reader": reader, "epoch": epoch}
                body |= {"link": description, "decision": asdict(edges[edge])}
                self._attach(self._processes[edge[1]], body, fds, until)
            told = True
            self._leave(channel, sender, edges, link, until)
        except BaseException as error:
            # A sender that has ended may have gone there before; its receivers follow, or come to its end.
            for edge in offered if not (told and isinstance(error, NotRunning)) else ():
                self._processes[edge[1]].tell({"detach": channel.name, "edge": edge, "source": number, "epoch": epoch})
            raise
        self._epochs[channel.name, sender] = epoch

    def _attach(self, process: HostProcess, body: dict[str, Any], fds: list[int], until: float | None) -> None:
        pause, last = _AGAIN
        while True:
            try:
                process.request(body, fds, timeout=left(until))
                return
            except errors.Busy as busy:
                if left(until) == 0:
                    raise errors.Timeout(str(busy)) from busy
            time.sleep(pause)
            pause = min(2 * pause, last)

    def _leave(
        self, channel: SpannedChannel, sender: str, edges: Mapping[Edge, Decision], link: Link, until: float | None
    ) -> None:
        description, fds = link.export(SENDER)
        body = {
            "leave": channel.name,
            "function": sender,
            "link": description,
            "decisions": [[*edge, asdict(decision)] for edge, decision in edges.items()],
            "limit": crossed_limit(link, len(channel.senders), len(channel.receivers)),
            "until": until,
        }
        self._processes[sender].request(body, fds, timeout=None)
