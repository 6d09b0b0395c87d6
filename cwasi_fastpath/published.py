"""What a host lets other processes know of its channels. Nothing of it is on the path of a message."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from . import control
from .channel import Channel, Edge
from .description import EndDescription, counted, explained, publish, withdraw
from .endpoint import SENDER, Endpoint
from .errors import NoSuchChannel, RegistryUnavailable
from .explanation import EXPLAIN, Explanation, WhatIf, answered
from .placement import here
from .policy import Decision
from .registry import ROLES
from .request import InTurn, Request
from .switch import only_one, wish

_log = logging.getLogger(__name__)


class Publisher(Protocol):
    """A host."""

    switcher: str
    """The address of the process that switches its channels; nothing where it does so itself."""

    @property
    def channels(self) -> Sequence[Channel]:
        """All that were opened there."""

    def switch(self, channel: str, target: str, timeout: float | None) -> None:
        """Takes one of them to another transport."""

    def explain(self, channel: str) -> Explanation | None:
        """Why one of them goes as it goes; None where not all of its ends are there."""

    def trust_of(self, function: str) -> str:
        """The label of a function's trust domain."""


class Published:
    """The channels of a host, as `cwasi ps` finds them."""

    def __init__(self, host: Publisher) -> None:
        self._host = host
        self._presence: control.Presence | None = None
        self._tried = False
        self._handlers: list[tuple[str, control.Handler, str]] = []
        self._switches, self._explanations = InTurn(), InTurn()
        """Apart: to explain, a policy of the user's is asked, which may hang."""

    def start(self) -> None:
        """From now on they are found, if there is a runtime directory; they work without, too."""
        if self._tried:
            return
        self._tried = True
        try:
            self._presence = control.Presence()
        except RegistryUnavailable as error:
            _log.warning("cwasi ps will not show the channels of process %d: %s", os.getpid(), error)
            return
        publish(self.describe)

    def listen(self, channel: str) -> None:
        """Requests to switch or explain that channel are answered until the end, unless another process does."""
        if self._host.switcher:
            return
        for turn, kind, work in (
            (self._switches, "switch-to", self._switch),
            (self._explanations, EXPLAIN, self._explain),
        ):
            handler = turn.handler(partial(work, channel))
            control.on(kind, handler, channel)
            self._handlers.append((kind, handler, channel))

    def _switch(self, channel: str, request: Request, fds: list[int]) -> None:
        only_one(request)
        self._host.switch(channel, *wish(request))
        found = self._of(channel)
        request.answer({"transport": str(found.transport), "mode": str(found.mode)})

    def _explain(self, channel: str, request: Request, fds: list[int]) -> None:
        found = self._of(channel)
        explanation = self._host.explain(channel)
        if explanation is None:
            raise NoSuchChannel(f"not all ends of channel {channel!r} are in process {os.getpid()}")
        wish = WhatIf.of_plain(request.body.get("if"))
        answer = found.what_if(size=wish.size, rate=wish.rate, locality=wish.locality) if wish else {}
        request.answer(answered(explanation, wish, answer))

    def _of(self, channel: str) -> Channel:
        return next(item for item in self._host.channels if item.name == channel)

    def end(self) -> None:
        """They are not found any more. Twice is safe."""
        if self._presence is not None:
            withdraw(self.describe)
            self._presence.leave()
            self._presence = None
        while self._handlers:
            control.off(*self._handlers.pop())

    def describe(self) -> list[EndDescription]:
        """Every end that is here."""
        return [
            self._described(channel, function, end)
            for channel in list(self._host.channels)
            for ends in (channel.senders, channel.receivers)
            for function, end in list(ends.items())
        ]

    def _described(self, channel: Channel, function: str, end: Endpoint) -> EndDescription:
        edges = _edges_of(channel.decisions.items(), function)
        found = end.seen()
        trust = self._host.trust_of(function)
        peers = sorted({name for edge in edges for name in edge} - {function})
        ours = {**channel.senders, **channel.receivers}
        return EndDescription(
            channel=channel.name,
            role=ROLES[end.role],
            function=function,
            pid=os.getpid(),
            state="closed" if end.closed else "open",
            trust=trust,
            transport=str(next(iter(edges.values())).transport),
            mode=str(end.mode),
            epoch=end.epoch if not end.closed else 0,
            age_seconds=time.monotonic() - end.since,
            peers=peers,
            peer_pids=[os.getpid()] if ours.keys() >= set(peers) else [],
            placement=here(trust).as_plain(),
            explanations=explained(edges),
            metrics=counted(found[0]) if found is not None else {},
            unread=found[1] if found is not None and end.role == SENDER else None,
            switcher=self._host.switcher,
        )


def _edges_of(decisions: Iterable[tuple[Edge, Decision]], function: str) -> dict[Edge, Decision]:
    return {edge: decision for edge, decision in decisions if function in edge}
