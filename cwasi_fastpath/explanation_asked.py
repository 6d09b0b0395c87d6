"""Asks the processes that hold the ends of a channel why it goes as it goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from . import registry
from .census import census
from .description import EndDescription, printable
from .errors import BadSpec, NoSuchChannel, PeerDied
from .explanation import EXPLAIN, WhatIf
from .names import checked

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a process said."""

    pid: int
    text: str
    """For people."""
    explanation: dict[str, Any] = field(default_factory=dict)
    """See explanation.Explanation; empty for a channel whose ends have not met yet."""
    what_if: dict[str, Any] = field(default_factory=dict)
    """See explanation.what_if, where that was asked."""


def ask(channel: str, wish: WhatIf) -> list[Told]:
    """Of each channel of that name. Raises NoSuchChannel, BadSpec, and what the processes refuse it with."""
    checked(channel, "channel")
    wish.check()
    ends = [end for end in census()[0] if end.channel == channel and end.state != "closed"]
    if not ends:
        raise NoSuchChannel(f"no process that can be found holds an end of channel {channel!r} (cwasi ps)")
    holders: dict[str, list[EndDescription]] = {}
    for end in ends:
        holders.setdefault(end.switcher or end.address, []).append(end)
    # One end of a pair knows as much as the other: who sends decides, or who has started the processes of both.
    first = {end.switcher or end.address for end in ends if end.role == "sender"} or holders.keys()
    return [_of_process(channel, address, holders[address], wish) for address in sorted(first)]


def _of_process(channel: str, address: str, ends: list[EndDescription], wish: WhatIf) -> Told:
    pid = ends[0].pid
    if ends[0].switcher and (who := registry.alive(address)) is not None:
        pid = who.pid or pid
    try:
        body = registry.ask(address, EXPLAIN, {"if": asdict(wish)}, channel=channel, timeout=_SECONDS)
    except NoSuchChannel:
        if wish:
            raise BadSpec(
                f"channel {channel!r}: what would be is not known before its ends have met, and once they part"
            ) from None
        words = [f"{edge}: {text}" for end in ends for edge, text in end.explanations.items()]
        return Told(pid, "\n".join(dict.fromkeys(words)) or "not decided yet")
    match printable(body):
        case {"text": str(text), "explanation": dict(explanation), "what_if": dict(answer)}:
            return Told(pid, text, explanation, answer)
    raise PeerDied(f"the process that holds the sender of channel {channel!r} answered nonsense")
