"""The process that has started the host processes of a run: it decides what carries the channels between them, asks the
policy again while they run, and answers who wants one of them switched or explained.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from . import control, errors
from .channel import Channel
from .explanation import EXPLAIN, Explanation, WhatIf, answered
from .kept import Steered
from .policy import Decision, Limits, Objective, Policy
from .process import HostProcess
from .request import InTurn, Request
from .spanned import SpannedChannel
from .steward import Steward
from .switch import only_one, wish
from .switch_spanned import SpannedSwitch

if TYPE_CHECKING:
    from .guest import Guest
    from .transport.tls import TlsFiles

_PATIENCE = 2.0
"""Seconds for switches to end whose processes have ended."""


class Parent:
    """Use it in a `with` block around their lives. It has no guests of its own."""

    objective = Objective()
    limits = Limits()
    channels: Sequence[Channel] = ()

    def __init__(self, policy: Policy, redis: str | None = None, tls: TlsFiles | None = None) -> None:
        """redis: the server by which channels may go. tls: for links over tcp."""
        self.policy = policy
        self.redis = redis
        self._tls = tls
        self._switches: list[SpannedSwitch] = []
        self._handlers: list[tuple[str, control.Handler, str]] = []
        self._presence: control.Presence | None = None

    def __enter__(self) -> Self:
        """Without a runtime directory nobody can ask for anything."""
        try:
            self._presence = control.Presence()
        except errors.RegistryUnavailable:
            self._presence = None   # the host processes say so
        return self

    def __exit__(self, *unused: object) -> None:
        while self._handlers:
            control.off(*self._handlers.pop())
        until = time.monotonic() + _PATIENCE
        for switch in self._switches:
            switch.await_end(until)
        if self._presence is not None:
            self._presence.leave()

    @property
    def address(self) -> str:
        """Where others ask; nothing where they cannot."""
        return self._presence.address if self._presence is not None else ""

    @contextmanager
    def looking_after(self, channels: Sequence[SpannedChannel], processes: Mapping[str, HostProcess]) -> Iterator[None]:
        """While their functions run. processes: by function."""
        steward = Steward(self, channels)
        for channel in channels:
            channel.switch = switch = SpannedSwitch(channel, processes, self.redis, self._tls)
            self._switches.append(switch)
            self._listen("switch-to", partial(_switch, channel, switch), channel.name)
            self._listen(EXPLAIN, partial(_explain, channel, steward), channel.name)
        with steward.at_work():
            yield

    def _listen(self, kind: str, work: Any, channel: str) -> None:
        handler = InTurn().handler(work)   # of its own: whoever hangs keeps nobody else waiting
        control.on(kind, handler, channel)
        self._handlers.append((kind, handler, channel))

    # ---- for its steward ----

    def running(self) -> Mapping[str, Guest]:
        """None of them here."""
        return {}

    def facts_of(self, channel: Channel) -> None:
        """There is none."""

    def change(self, channel: Steered, decision: Decision, timeout: float) -> None:
        """Takes it to another transport."""
        assert isinstance(channel, SpannedChannel)
        channel.change(decision, timeout)


def _switch(channel: SpannedChannel, switch: SpannedSwitch, request: Request, fds: list[int]) -> None:
    only_one(request)
    switch.switch(*wish(request))
    request.answer({"transport": str(channel.transport), "mode": str(channel.mode)})


def _explain(channel: SpannedChannel, steward: Steward, request: Request, fds: list[int]) -> None:
    asked = WhatIf.of_plain(request.body.get("if"))
    explanation = steward.advice.explain(channel)
    assert isinstance(explanation, Explanation)   # of such a channel it always is
    request.answer(answered(explanation, asked, steward.advice.what_if(channel, asked) if asked else {}))
