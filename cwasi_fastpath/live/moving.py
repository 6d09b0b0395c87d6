"""Two guests of a live run that find each other by name: the one that answers goes to another process, and comes back,
while messages come.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from .. import errors
from ..endpoint import RECEIVER, SENDER
from ..guest import Guest
from ..host import Host
from ..meeting import named_end
from ..policy import Policy
from ..rendezvous import open_receiver, open_sender
from .elsewhere import SECONDS, Elsewhere
from .pair import CHANNELS, MODULE, Pair


class MovingPair(Pair):
    """The guest that asks stays here."""

    def __init__(self, host: Host, policy: Policy, name: str) -> None:
        """policy: the host's. name: its name, for the other process."""
        self._policy, self._policy_name = policy, name
        self._names = {channel: f"live-{os.getpid()}-{channel}" for channel in CHANNELS}
        self._reply: Guest | None = None
        self._elsewhere: Elsewhere | None = None
        self._stays = 0
        super().__init__(host)

    def _open(self, ask: Guest, reply: Guest) -> None:
        there, back = CHANNELS
        ends = [self._threads.submit(open_receiver, self._names[channel], timeout=SECONDS) for channel in CHANNELS]
        self._there = open_sender(self._names[there], timeout=SECONDS, policy=self._policy)
        self._answers = open_sender(self._names[back], timeout=SECONDS, policy=self._policy)
        asked, self._back = (end.result() for end in ends)
        self.host.attach(ask, self._there, port=there)
        self.host.attach(ask, self._back, port=back)
        self.host.attach(reply, asked, port=there)
        self.host.attach(reply, self._answers, port=back)
        self._reply = reply
        self._run(ask)
        self._run(reply)

    def ways(self) -> dict[str, tuple[str, str]]:
        """As the end of the guest that asks has it."""
        found = {}
        for channel, role in zip(CHANNELS, (SENDER, RECEIVER), strict=True):
            named = named_end(self._names[channel], role)
            if named is not None and named.meeting is not None:   # not while it is in between
                decision = named.meeting.decision
                found[channel] = (str(decision.way), str(decision.mode))
        return found

    def explained(self) -> tuple[dict[str, Any], str]:
        return self._explained(self._names[CHANNELS[0]])

    def prepare(self, receiver: str) -> None:
        if receiver == "process" and self._elsewhere is None:
            self._elsewhere = Elsewhere([self._names[channel] for channel in CHANNELS], self._policy_name)
            self._elsewhere.hear("ready")

    def place(self, receiver: str) -> None:
        elsewhere = self._elsewhere
        if elsewhere is None:
            return
        try:
            if receiver == "process" and self._reply is not None:
                self._away(elsewhere, self._reply)
            elif receiver == "here":
                self._home(elsewhere)
        except errors.Error:
            elsewhere.check()   # that may be why
            raise

    def _away(self, elsewhere: Elsewhere, reply: Guest) -> None:
        self.host.move_out(reply, SECONDS)
        self._result(self._running.pop())
        self._reply = None
        elsewhere.hear("here")

    def _home(self, elsewhere: Elsewhere) -> None:
        self._stays += 1
        reply = self.host.load(MODULE, f"reply-{self._stays}", arguments=("reply",))
        elsewhere.send_home()
        there, back = CHANNELS
        asked = open_receiver(self._names[there], timeout=SECONDS, successor=True)
        self.host.attach(reply, asked, port=there)
        answers = open_sender(self._names[back], timeout=SECONDS, policy=self._policy, successor=True)
        self.host.attach(reply, answers, port=back)
        self._reply = reply
        self._run(reply)
        elsewhere.end()
        self._elsewhere = None

    def _result(self, running: Future[None]) -> None:
        try:
            super()._result(running)
        except errors.GuestError:
            if self._elsewhere is not None:
                self._elsewhere.check()   # that may be why
            raise

    def end(self, trips: int) -> None:
        super().end(trips)
        if self._elsewhere is not None:
            self._elsewhere.end()
            self._elsewhere = None

    def _counted(self) -> dict[str, tuple[int, int]]:
        """By the guest that asks, who has one end of each all the time."""
        ends = zip(CHANNELS, (self._there, self._back), strict=True)
        return {name: 2 * (end.metrics().messages,) for name, end in ends}

    def close(self) -> None:
        super().close()
        if self._elsewhere is not None:
            self._elsewhere.kill()
