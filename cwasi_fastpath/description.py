"""What a process says about the ends that it holds: asked for by `cwasi ps`, answered by the control thread."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from . import control
from .errors import Corrupted
from .metrics import EndMetrics, quantile
from .names import checked
from .policy import Decision
from .request import Request

DESCRIBE = "describe"
"""The kind of request."""

_PAGE_BYTES = 30000
"""Of one answer, before JSON escapes anything."""
_TEXT = 4000


@dataclass(frozen=True, slots=True)
class EndDescription:
    """One end of a channel, now."""

    channel: str
    role: str
    """sender or receiver."""
    function: str | None
    pid: int
    """As who asked sees it; as the process knows itself, where that one cannot see it."""
    state: str
    """waiting (for its peer), open, moving (to another process), peer gone, closed."""
    trust: str
    transport: str | None
    """None before it has met its peer."""
    mode: str | None
    epoch: int
    """The number of the transport generation."""
    age_seconds: float
    peers: list[str] = field(default_factory=list)
    """The functions at the other side, or the process there."""
    peer_pids: list[int] = field(default_factory=list)
    """Of the peers in other processes; 0 for one of a pid namespace that is not seen from here."""
    placement: dict[str, Any] = field(default_factory=dict)
    peer_placement: dict[str, Any] = field(default_factory=dict)
    explanations: dict[str, str] = field(default_factory=dict)
    """By edge, why this transport, and why not the others."""
    metrics: dict[str, Any] = field(default_factory=dict)
    unread: int | None = None
    """Messages that were sent and not received, where it is a sender."""
    foreign: bool = False
    """The process is in a pid namespace that is not seen from here."""
    address: str = ""
    """Of its process, for whoever has more to ask of it; who asked fills it in."""
    switcher: str = ""
    """The address of the process that can switch the channel, where that is another one."""


Source = Callable[[], Sequence[EndDescription]]
"""Describes ends; called on the control thread."""

_sources: list[Source] = []


def publish(source: Source) -> None:
    """From now on the process tells of these ends to who asks."""
    _sources.append(source)


def withdraw(source: Source) -> None:
    """No more of them. Twice is safe."""
    if source in _sources:
        _sources.remove(source)


def counted(metrics: EndMetrics) -> dict[str, Any]:
    """Metrics with quantiles instead of the histogram."""
    plain = asdict(metrics)
    latency = plain.pop("latency")
    return {**plain, "p50_ns": quantile(latency, 0.5), "p99_ns": quantile(latency, 0.99)}


def explained(decisions: dict[tuple[str, str], Decision]) -> dict[str, str]:
    """By edge, in words."""
    return {f"{sender} -> {receiver}": decision.explain() for (sender, receiver), decision in decisions.items()}


def parsed(plain: object) -> EndDescription:
    """What another process sent, which may be anything. Raises Corrupted, BadName."""
    if not isinstance(plain, dict) or plain.keys() != _KINDS.keys():
        raise Corrupted("a process describes its ends in a way that we do not know")
    for name, value in plain.items():
        if not _KINDS[name](value):
            raise Corrupted(f"a process describes an end with {name} {str(value)[:40]!r}")
    checked(plain["channel"], "channel")
    return EndDescription(**printable(plain))


def _text(value: object) -> bool:
    return isinstance(value, str)


def _text_or_none(value: object) -> bool:
    return isinstance(value, str | None)


def _figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _figure_or_none(value: object) -> bool:
    return value is None or _figure(value)


def _figures(value: object) -> bool:
    return isinstance(value, list) and all(map(_figure, value))


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _texts_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _figures_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(map(_figure_or_none, value.values()))


def _facts(value: object) -> bool:
    """A placement, as far as it is told."""
    return isinstance(value, dict) and all(_FACTS.get(name, _figure)(fact) for name, fact in value.items())


_FACTS = {"node": _text, "trust": _text, "cgroup": _text, "cpus": _figures, "numa": _figures}

# What the fields of a description have to be.
_KINDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("channel", "role", "state", "trust", "address", "switcher"), _text),
    **dict.fromkeys(("function", "transport", "mode"), _text_or_none),
    **dict.fromkeys(("pid", "epoch", "age_seconds", "foreign"), _figure),
    **dict.fromkeys(("placement", "peer_placement"), _facts),
    "unread": _figure_or_none,
    "peers": _texts,
    "peer_pids": _figures,
    "explanations": _texts_by_name,
    "metrics": _figures_by_name,
}


def printable(value: Any) -> Any:
    """The same, with nothing in its texts that a terminal would act on."""
    if isinstance(value, str):
        return "".join(char for char in value[:_TEXT] if char.isprintable() or char == "\n")
    if isinstance(value, dict):
        return {printable(str(key)): printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [printable(inner) for inner in value]
    return value


def _describe(request: Request) -> None:
    """As many as one answer holds, from the one with the number `from` on; `next` where there are more."""
    first = request.body.get("from", 0)
    ends = [end for source in list(_sources) for end in source()]
    page: list[dict[str, Any]] = []
    size = 0
    for end in ends[first:] if isinstance(first, int) and first >= 0 else []:
        plain = asdict(end)
        size += len(json.dumps(plain))
        if page and size > _PAGE_BYTES:
            break
        page.append(plain)
    following = first + len(page) if page else len(ends)
    request.answer({"ends": page, "next": following if following < len(ends) else None})


control.on(DESCRIBE, _describe)
os.register_at_fork(after_in_child=_sources.clear)   # they are the parent's
