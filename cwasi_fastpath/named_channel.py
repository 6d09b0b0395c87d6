"""A channel whose two ends met by name, as each of its two processes sees it.

    anybody -> sender, anybody -> receiver    explain (if) -> text, explanation, what_if
    receiver -> sender                        why (if) -> the same
    sender -> receiver                        counted -> counts; across nodes echo -> host, port, key

The sender's process decides what carries it, and knows why: its host's steward, where a guest has the end. That of the
receiver asks there, also across nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from . import reach
from .connection import Connection
from .description import printable
from .errors import ChannelClosed, Corrupted, NoSuchChannel, PeerDied
from .explanation import EXPLAIN, Explanation, WhatIf, answered, explained, what_if
from .meeting import CLOSED, COUNTED, ECHO, Meeting, NamedEnd, Tie
from .modes import EdgeFacts, Mode, Transport
from .observing import Counts
from .placement import edge_facts
from .policy import Decision, Policy, Request, Way
from .policy.decision import available
from .request import InTurn, Waiting, close_all
from .request import Request as Asked
from .switch_named import NamedSwitch
from .thread_watch import Ran
from .transport import network
from .transport.sounding import Place
from .transport.tcp_info import Network

_WHY = "why"
"""The kind of request by which a receiver asks its sender; both may be in one process."""
_SECONDS = 5.0
"""For the sender's process to explain."""
_OPENS_SECONDS, _AGAIN = 1.0, 0.01
"""For it to have its end open, once we have ours."""
_FAR_SECONDS = 2.0
"""For a switch to which another node has to agree, by mail."""
_UNSEEN = "no host: nobody looks at what its messages take"


class Counted(NamedTuple):
    """What both ends of a channel had counted at a moment."""

    at: float
    sent: Counts
    received: Counts
    ran: Ran | None = None
    """What the threads of its functions did, where another process tells that."""


class Adviser(Protocol):
    """A host whose guest sends on it, and which knows more of what it costs."""

    def explain(self, channel: NamedChannel) -> Explanation | None: ...

    def what_if(self, channel: NamedChannel, wish: WhatIf) -> dict[str, Any]: ...


class NamedChannel:
    """In the process that has its sender."""

    def __init__(
        self,
        named: NamedEnd,
        switch: NamedSwitch,
        policy: Policy,
        redis: str | None,
        missing: Callable[[], Mapping[Transport, str]],
    ) -> None:
        """policy: that which picked what carries it. redis: the server that it may go by. missing: as the property."""
        self._named = named
        self._switch = switch
        self._policy = policy
        self.offered = available(redis)
        self._missing = missing
        self.adviser: Adviser | None = None
        self._asked: tuple[Waiting, float, Counts] | None = None
        """What its receiver has counted: asked, perhaps not answered yet; when, and what our end had counted then."""
        handler = InTurn().handler(partial(_answer, self))
        named.listen(EXPLAIN, handler)
        named.listen(_WHY, handler, far=True)

    @property
    def name(self) -> str:
        return self._named.name

    @property
    def pinned(self) -> str:
        """Why nobody but the user changes what carries it, if so."""
        return self._switch.pinned

    @property
    def _meeting(self) -> Meeting:
        if self._named.meeting is None:
            raise ChannelClosed(f"channel {self.name!r} has no receiver yet")
        return self._named.meeting

    @property
    def decision(self) -> Decision:
        return self._meeting.decision

    @property
    def transport(self) -> Transport:
        return self.decision.transport

    @property
    def mode(self) -> Mode:
        return self.decision.mode

    @property
    def missing(self) -> Mapping[Transport, str]:
        """What of that it cannot have, and why, as was found when its ends met, or its receiver moved."""
        return self._missing()

    @property
    def facts(self) -> EdgeFacts:
        """Where its receiver is now; it may move."""
        return edge_facts(self._named.here, self._meeting.peer)

    def network(self) -> Network | None:
        """What is known of the network between its ends, where it goes by one."""
        return network(self._meeting.link)

    @property
    def tie(self) -> Tie:
        """To the process of its receiver."""
        return self._meeting.connection

    def echo(self, seconds: float) -> Place:
        """Where the receiver's node echoes. Raises PeerDied, Timeout, RedisUnavailable, Corrupted, what it refuses."""
        answer = self.tie.request(ECHO, channel=self.name, timeout=seconds)
        close_all(answer.fds)   # there should be none
        return reach.echo_of(answer.body)

    def change(self, decision: Decision, timeout: float) -> None:
        """Goes on as decided. Raises what Sender.switch raises; BadSpec also where the user has chosen meanwhile."""
        self._asked = None   # that is of the way before
        far = not isinstance(self._meeting.connection, Connection)
        self._switch.change(decision, max(timeout, _FAR_SECONDS) if far else timeout)

    def counted(self, sent: Counts, now: float) -> Counted | None:
        """What both ends had counted at the last look, of which the receiver has told meanwhile, and asks it for this
        one; None where it has not told. On another node it is not asked: it does not see how long a message took.

        sent: what our end has counted now.
        """
        tie, asked = self._meeting.connection, self._asked
        if not isinstance(tie, Connection):
            return Counted(now, sent, Counts())
        if asked is not None and not asked[0].told.is_set():
            return None
        try:
            waiting = tie.ask(COUNTED, channel=self.name)
        except PeerDied:
            waiting = None
        self._asked = None if waiting is None else (waiting, now, sent)
        if asked is None or asked[0].answer is None:
            return None
        received = Counts.of_plain(asked[0].answer.body.get("counts"))
        return None if received is None else Counted(asked[1], asked[2], received)

    # ---- explaining, from any thread ----

    def explain(self) -> Explanation:
        """Why it goes as it goes."""
        told = None if self.adviser is None else self.adviser.explain(self)
        if told is not None:
            return told
        found = Explanation(self.name, str(self.transport), str(self.mode), pinned=self.pinned, lacked=(_UNSEEN,))
        return explained(self._policy, self._request(), found, self.decision)

    def what_if(self, wish: WhatIf) -> dict[str, Any]:
        """What it costs, and what it would cost. Raises BadSpec."""
        if self.adviser is not None:
            return self.adviser.what_if(self, wish)
        return what_if(self._policy, self._request(), wish)

    def _request(self) -> Request:
        return Request(
            self.facts, available=self.offered, missing=self.missing, current=Way(self.transport),
            pinned=bool(self.pinned),
        )  # fmt: skip


class ReceivedChannel:
    """In the process that has its receiver."""

    def __init__(self, named: NamedEnd) -> None:
        self._named = named
        named.listen(EXPLAIN, InTurn().handler(partial(_answer, self)))

    def explain(self) -> Explanation:
        """As the sender's process says. Raises ChannelClosed, PeerDied, Timeout, Corrupted, RedisUnavailable."""
        return Explanation.of_plain(self._told(WhatIf()).get("explanation"))

    def what_if(self, wish: WhatIf) -> dict[str, Any]:
        """The same. Raises BadSpec, too."""
        answer = self._told(wish).get("what_if")
        if not isinstance(answer, dict):
            raise Corrupted(f"channel {self._named.name!r}: its sender answered nonsense")
        return answer

    def _told(self, wish: WhatIf) -> dict[str, Any]:
        meeting, name = self._named.meeting, self._named.name
        if meeting is None or self._named.alone or self._named.state == CLOSED:
            raise ChannelClosed(f"channel {name!r} has no sender any more, who could explain it")
        until = time.monotonic() + _OPENS_SECONDS
        while True:
            try:
                answer = meeting.connection.request(
                    _WHY, {"if": wish.as_plain()}, channel=name, timeout=_SECONDS
                )
            except NoSuchChannel:   # it is just opening its end
                if time.monotonic() > until:
                    raise
                time.sleep(_AGAIN)
                continue
            close_all(answer.fds)   # there should be none
            told: dict[str, Any] = printable(answer.body)
            return told


def _answer(channel: NamedChannel | ReceivedChannel, request: Asked, fds: list[int]) -> None:
    """To another process that wants it explained."""
    wish = WhatIf.of_plain(request.body.get("if"))
    request.answer(answered(channel.explain(), wish, channel.what_if(wish) if wish else {}))
