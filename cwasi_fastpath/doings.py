"""What the functions of a host process did, as the process that has started it learns it: how long their threads ran
and waited for a core, and what a tracer tells of them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from typing import NamedTuple

from . import attribution
from .attribution import Told
from .figures import Figures
from .placing import Thread
from .thread_watch import Ran, Watch

_PACE = 0.25
"""Seconds between two questions to the tracer."""
_THREADS = 64
"""Whose time is looked at; with more functions than that it is not, as one look would take too long."""
_UNKNOWN = 2**64 - 1
_COUNT = len(Figures().plain())
_ROW = struct.Struct(f"={4 + _COUNT}Q")
ROW_BYTES = _ROW.size


class Did(NamedTuple):
    """One function, since its thread began. What another process says of one may be a lie."""

    thread: Ran | None
    """None where it does not run, or the kernel does not count this."""
    tracer: int
    """Which one it has, of those that it has had; 0 for none."""
    told: Told | None
    """What that has told; it has not been checked."""


class Doings:
    """Of the functions of this process. Used by one thread."""

    def __init__(self, threads: Mapping[str, Thread]) -> None:
        """threads: by function."""
        self._threads = threads
        self._watches: dict[str, Watch] = {}
        self._tracer: object = None
        self._number = self._tracers = 0
        """Of that tracer, and how many there have been."""
        self._told: Mapping[str, Told] = {}
        self._asked: float | None = None

    def rows(self) -> bytes:
        """Of all of them now, in their order, for another process."""
        self._ask(time.monotonic())
        return b"".join(self._row(name, thread.number) for name, thread in self._threads.items())

    def _ask(self, now: float) -> None:
        """The tracer, now and then."""
        if self._asked is not None and now - self._asked < _PACE:
            return
        found = attribution.figures(self._threads)
        if found is None:
            return
        self._asked = now
        tracer, self._told = found
        if tracer is not self._tracer:
            self._tracer, self._number = tracer, 0
            if tracer is not None:
                self._tracers = self._number = self._tracers + 1

    def _row(self, name: str, number: int | None) -> bytes:
        watch = self._watch(name, number)
        ran = None if watch is None else watch.ran()
        thread = (_UNKNOWN, _UNKNOWN) if ran is None else (ran.ran, ran.waited)
        try:
            at, plain = self._told[name]
            figures = Figures.parsed(plain).plain()
            return _ROW.pack(*thread, self._number, at, *(_UNKNOWN if one is None else one for one in figures))
        except (KeyError, ValueError, struct.error):   # it tells nothing, or what cannot be
            return _ROW.pack(*thread, self._number, *(_UNKNOWN,) * (1 + _COUNT))

    def _watch(self, name: str, number: int | None) -> Watch | None:
        """Of that thread. What is open of the one before is closed: there may be hundreds, and functions need files."""
        watch = self._watches.get(name)
        if watch is not None and watch.thread != number:
            self._watches.pop(name).close()
            watch = None
        if watch is None and number is not None and len(self._threads) <= _THREADS:
            watch = self._watches[name] = Watch(number)
        return watch


def of_rows(rows: bytes) -> list[Did]:
    """What another process says by Doings.rows() of so many functions."""
    return [_of_row(*row) for row in _ROW.iter_unpack(rows)]


def _of_row(ran: int, waited: int, tracer: int, at: int, *figures: int) -> Did:
    thread = None if _UNKNOWN in (ran, waited) else Ran(ran, waited)
    told = None if at == _UNKNOWN else (at, [None if one == _UNKNOWN else one for one in figures])
    return Did(thread, tracer, told)
