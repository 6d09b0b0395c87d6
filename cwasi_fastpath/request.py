"""What one process asks of another over a connection, and the answer."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from . import errors

Body = dict[str, Any]

TEXT = 2000
"""Characters of an error that a peer is told."""

_WAITING = 32
"""Requests that may wait for their turn."""


@dataclass(slots=True)
class Answer:
    """What the peer answered. Who asked owns the descriptors."""

    body: Body
    fds: list[int] = field(default_factory=list)


class Waiting:
    """A thread that waits for its answer."""

    def __init__(self, descriptors: bool = True) -> None:
        """descriptors: those of the answer are wanted; else they are closed."""
        self.descriptors = descriptors
        self.told = threading.Event()
        self.answer: Answer | None = None
        self.error: errors.Error | None = None


class Way(Protocol):
    """How a request has come, and its answer goes."""

    @property
    def peer(self) -> object:
        """Who it is."""

    def send(self, message: Body, fds: Sequence[int] = ()) -> None:
        """Never raises what lies with the peer."""


class Request:
    """What a peer asks. A handler answers it, now or later, from any thread."""

    def __init__(self, connection: Way, message: Body, fds: list[int]) -> None:
        """Raises ValueError for what is no request."""
        self.connection = connection
        self.since = time.monotonic()
        """When it came."""
        match message.get("ask"), message.get("channel"), message.get("id"), message.get("body", {}):
            case (str(kind), str() | None as channel, int() | None as number, dict(body)):
                self.kind: str = kind
                self.channel: str | None = channel
                self.body: Body = body
                self._id = number
            case _:
                raise ValueError("a request has a kind, perhaps a channel and an id, and a body")
        self._fds = fds

    def take_fds(self) -> list[int]:
        """The descriptors that came along; they are the caller's now. Those that no handler takes are closed."""
        fds, self._fds = self._fds, []
        return fds

    def answer(self, body: Body | None = None, fds: Sequence[int] = ()) -> None:
        """The descriptors stay the caller's, and may be closed afterwards."""
        if self._id is not None:
            self.connection.send({"answer": self._id, "body": body or {}}, fds)

    def refuse(self, error: BaseException) -> None:
        """The peer's request() raises the same."""
        if self._id is not None:
            kind = type(error).__name__ if isinstance(error, errors.Error) else "Error"
            self.connection.send({"refused": self._id, "error": kind, "message": str(error)[:TEXT]})


def refusal(message: Body) -> errors.Error:
    """The error that a peer was refused with; its words are the peer's."""
    kind = getattr(errors, str(message.get("error")), None)
    if not isinstance(kind, type) or not issubclass(kind, errors.Error) or kind is errors.GuestExit:
        kind = errors.Error
    text = "".join(char if char.isprintable() else " " for char in str(message.get("message"))[:TEXT])
    return kind(text)


def close_all(fds: list[int]) -> None:
    """Closes and forgets them."""
    while fds:
        os.close(fds.pop())


def duplicates(fds: Sequence[int]) -> list[int]:
    """A copy of each, which is the caller's. Raises OSError; then there is none."""
    found: list[int] = []
    try:
        for fd in fds:
            found.append(os.dup(fd))
    except OSError:
        close_all(found)
        raise
    return found


Work = Callable[[Request, list[int]], None]
"""Answers a request, which came with these descriptors. Those that are left in the list are closed."""


class InTurn:
    """Has requests worked on by a thread of its own, one after another, in the order in which they came: so the work
    may wait, and the control thread need not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Work, Request, list[int]]] = deque()
        self._at_work = False
        """There is a thread, as long as something waits."""

    def handler(self, work: Work) -> Callable[[Request], None]:
        """One that leaves it to `work`. It raises Busy where too many wait already."""
        return partial(self._add, work)

    def _add(self, work: Work, request: Request) -> None:
        with self._lock:
            if len(self._waiting) == _WAITING:
                raise errors.Busy(f"{_WAITING} requests wait here already")
            if not self._at_work:
                threading.Thread(target=self._run, daemon=True).start()
                self._at_work = True
            self._waiting.append((work, request, request.take_fds()))

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._at_work = False
                    return
                work, request, fds = self._waiting.popleft()
            _answered(work, request, fds)


def _answered(work: Work, request: Request, fds: list[int]) -> None:
    try:
        work(request, fds)
    except BaseException as error:   # sys.exit() in a policy of the user's, too, ends no thread that others wait for
        close_all(fds)   # before it is told: then nothing is left here
        request.refuse(error)
    finally:
        close_all(fds)
