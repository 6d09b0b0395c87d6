"""What changes in a live run, phase by phase: a script, as a file has it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..bench.units import size_text
from ..errors import BadName, BadSpec
from ..names import checked

SMALLEST, LARGEST = 8, 64 << 20
MOST_NEIGHBOURS = 64
_LONGEST_SECONDS = 3600.0
_FASTEST = 1e6
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run, in which nothing changes."""

    name: str
    seconds: float = 1.0
    size: int = 64
    """Of a message, bytes."""
    rate: float | None = None
    """Messages a second; None: each is sent when the one before it has come back."""
    busy: int = 0
    """Processes that want a core each."""
    receiver: str = "here"
    """Where that runs: here, in the sender's process, or in another process of the node."""

    def __str__(self) -> str:
        pace = "as fast as they come back" if self.rate is None else f"{self.rate:,.0f} times a second"
        busy = f", {self.busy} busy neighbour{'s' if self.busy > 1 else ''}" if self.busy else ""
        where = "" if self.receiver == "here" else ", the receiver in another process"
        return f"{size_text(self.size)} {pace}{busy}{where}"


PLACES = ("here", "process")

DEFAULT = """\
# name     what is so in this phase
quiet      seconds=3 size=64
busy       seconds=4 size=64 busy=2
large      seconds=3 size=1MiB
apart      seconds=3 size=1MiB receiver=process
home       seconds=3 size=64
"""
"""The script that is run where none is given."""

DEMO = """\
stream    seconds=1.5 size=64
requests  seconds=2.5 size=4KiB rate=4000
busy      seconds=1.5 size=4KiB rate=4000 busy=1
"""
"""A short one, in which it matters where guests run."""


def scaled(script: tuple[Phase, ...], seconds: float) -> tuple[Phase, ...]:
    """The same, so long in all."""
    share = seconds / sum(phase.seconds for phase in script)
    return tuple(replace(phase, seconds=phase.seconds * share) for phase in script)


def parse(text: str, source: str) -> tuple[Phase, ...]:
    """A line for each phase: its name, then what is so in it. Raises BadSpec with the line and the remedy."""
    phases: list[Phase] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            try:
                phase = _phase(words)
            except (BadName, BadSpec) as error:
                raise BadSpec(f"{source}:{number}: {error}") from error
            if any(phase.name == other.name for other in phases):
                raise BadSpec(f"{source}:{number}: there is a phase {phase.name!r} already; give this one another name")
            phases.append(phase)
    if not phases:
        raise BadSpec(f"{source}: it has no phase; write a line for each, as: quiet seconds=2 size=64")
    return tuple(phases)


def _phase(words: list[str]) -> Phase:
    name, *settings = words
    if "=" in name:
        raise BadSpec(f"{name!r} is no name; begin the line with one, as: quiet seconds=2 size=64")
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in _SETTINGS or not equals:
            raise BadSpec(f"{setting!r}: use {', '.join(f'{known}=' for known in _SETTINGS)}")
        if key in found:
            raise BadSpec(f"{key}= is there twice; leave one out")
        found[key] = _SETTINGS[key](value)
    return Phase(checked(name, "phase"), **found)


def _seconds(text: str) -> float:
    return _number("seconds", text, 0.05, _LONGEST_SECONDS)


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})(B|KiB|MiB|)", text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not SMALLEST <= size <= LARGEST:
        raise BadSpec(f"size={text}: give {SMALLEST} bytes to {LARGEST >> 20} MiB, as 64, 4KiB or 1MiB")
    return size


def _rate(text: str) -> float:
    return _number("rate", text, 1.0, _FASTEST)


def _busy(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > MOST_NEIGHBOURS:
        raise BadSpec(f"busy={text}: give the number of busy neighbours, 0 to {MOST_NEIGHBOURS}")
    return int(text)


def _receiver(text: str) -> str:
    if text not in PLACES:
        raise BadSpec(f"receiver={text}: use {' or '.join(PLACES)}")
    return text


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise BadSpec(f"{name}={text}: give a number from {least:g} to {most:g}")
    return value


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "seconds": _seconds, "size": _size, "rate": _rate, "busy": _busy, "receiver": _receiver
}  # fmt: skip
