"""What the system tells of a process, for people: psutil knows how to read it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .placement import started

_LONGEST = 200
"""Characters of a command that are shown."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A process of this node that can be seen from here."""

    pid: int
    command: str
    since: float
    """When it was started, in seconds of the epoch."""
    cpu: int
    """On which it ran last."""


def facts_of(pid: int, start: int) -> ProcessFacts | None:
    """start: as in its placement; None where another process has that number by now, or none."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            command = shlex.join(process.cmdline()) or process.name()
            found = ProcessFacts(pid, _printable(command), process.create_time(), process.cpu_num())
    except (psutil.Error, OSError):
        return None
    return found if started(str(pid)) == start else None


def _printable(text: str) -> str:
    return "".join(char for char in text[:_LONGEST] if char.isprintable())
