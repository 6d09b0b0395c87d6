"""What the ends in a host process have counted and its functions did, as the process learns it that has started it.

    parent -> child   a byte
    child -> parent   a row for each end that it has joined, then one for each of its functions, in those orders

Over a socket of its own: nobody waits for the other, and whoever hangs, or answers nonsense, keeps nothing else from
going on. Nothing of it is on the path of a message.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from . import doings
from .doings import Did, Doings
from .endpoint import Endpoint
from .observing import ROW_BYTES, Counts, Ends, of_rows

THREAD = "cwasi tally"
"""The name of the thread in the child."""

STALE_SECONDS = 5.0
"""Without an answer, until that is said."""

_log = logging.getLogger(__name__)


class Told(NamedTuple):
    """One answer."""

    at: float
    """When that was so: not before it was asked, nor before a look at which it had not been told yet."""
    counts: Sequence[Counts | None]
    """Of each end; None for one that was closed."""
    messages: Mapping[str, int]
    """By function, of those of its ends that are open."""
    did: Mapping[str, Did]
    """By function."""


class Tally:
    """In the parent."""

    def __init__(self, connection: socket.socket, whose: str, functions: Sequence[str]) -> None:
        """Owns it. whose: the child in words. functions: its own."""
        connection.setblocking(False)
        self._whose = whose
        self._functions = functions
        self._socket = connection
        self._ends: list[str] = []
        """Of each, whose it is."""
        self._looked_at: float | None = None
        self._asked: float | None = None
        """When, if it has not been answered yet;"""
        self._not_yet = 0.0
        """and the last look at which it was not."""
        self.told: Told | None = None
        """What it has told last."""
        self._nonsense = False

    def joined(self, function: str) -> int:
        """One more end of that function was; which row is its own."""
        self._ends.append(function)
        return len(self._ends) - 1

    def latest(self, now: float) -> Told | None:
        """The same; and asks again, once for each `now`. Does not wait."""
        if now != self._looked_at and not self._nonsense:
            self._looked_at = now
            with suppress(OSError):   # it has nothing to say yet, or is gone, which others tell
                if self._asked is not None:
                    self._hear()
                self._ask(now)
            self._not_yet = now
        return self.told

    def lack(self, now: float) -> str:
        """What is wrong with it, in words, if anything is."""
        if self._nonsense:
            return f"{self._whose} has told what cannot be of its ends, and is not asked any more"
        asked = self._asked   # another thread looks
        if asked is not None and now - asked > STALE_SECONDS:
            return f"{self._whose} has not told for {now - asked:.0f} s what its ends have counted"
        return ""

    def _hear(self) -> None:
        """Raises BlockingIOError where there is no answer yet."""
        of_ends = len(self._ends) * ROW_BYTES
        expected = of_ends + len(self._functions) * doings.ROW_BYTES
        rows = self._socket.recv(expected + 1)
        if len(rows) == expected:
            counts, messages = of_rows(rows[:of_ends]), dict.fromkeys(self._functions, 0)
            for function, one in zip(self._ends, counts, strict=True):
                messages[function] += 0 if one is None else one.messages
            did = dict(zip(self._functions, doings.of_rows(rows[of_ends:]), strict=True))
            self.told, self._asked = Told(self._not_yet, counts, messages, did), None
        elif rows:
            self.told, self._nonsense = None, True
            _log.warning("%s", self.lack(self._not_yet))

    def _ask(self, now: float) -> None:
        if self._asked is None and not self._nonsense:
            self._socket.send(b"?")
            self._asked = now

    def close(self) -> None:
        """Twice is safe."""
        self._socket.close()


def tell(connection: socket.socket, ends: Sequence[Endpoint], did: Doings, longest: int) -> None:
    """In the child: answers until the parent is gone. longest: bytes in an answer."""
    told = Ends(ends)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, longest)
    with connection, suppress(OSError):   # it hangs up, or there are so many that nothing can be told of them
        while connection.recv(1):
            connection.send(told.rows() + did.rows())
