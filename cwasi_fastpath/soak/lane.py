"""A lane: one channel after the other of one kind, each used at full speed until a fault ends it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Protocol

from .fault import Fault

_PAUSE = 0.05


class Score:
    """What came of a lane so far."""

    def __init__(self) -> None:
        self.episodes = 0
        self.messages = 0
        """Received."""
        self.bytes = 0
        self.lost = self.doubled = self.corrupt = self.hung = 0
        self.faults: Counter[Fault] = Counter()
        self.complaints: list[str] = []

    @property
    def flawless(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.corrupt or self.hung or self.complaints)

    def count_fault(self, fault: Fault) -> None:
        """One that happened."""
        if fault is not Fault.NONE:
            self.faults[fault] += 1

    def complain(self, what: str) -> None:
        """About something that should not be."""
        if len(self.complaints) < 20:
            self.complaints.append(what)


class Request:
    """What the soak wants of a lane: a fault now, or the end."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.over = False
        self._wanted = threading.Event()

    def fault(self) -> bool:
        """Asks for a fault; false where one is under way."""
        if self._wanted.is_set():
            return False
        self._wanted.set()
        return True

    def end(self) -> None:
        """Asks for the end."""
        self.over = True
        self._wanted.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until something is asked for; whether it was."""
        return self._wanted.wait(seconds)

    def taken(self) -> None:
        """What was asked for is done; the next may come."""
        if not self.over:
            self._wanted.clear()


class Play(Protocol):
    """One kind of channel."""

    @property
    def name(self) -> str:
        """For the report."""

    def episode(self, request: Request, score: Score) -> None:
        """Opens a channel, uses it until something is asked for or it is over, and says what came of it."""


class Lane:
    """A thread that plays one episode after the other."""

    def __init__(self, play: Play, seed: int) -> None:
        self.play = play
        self.score = Score()
        self.request = Request(seed)
        self._thread = threading.Thread(target=self._run, name=f"soak {play.name}")

    def start(self) -> None:
        """Starts it."""
        self._thread.start()

    def _run(self) -> None:
        while not self.request.over:
            try:
                self.play.episode(self.request, self.score)
            except Exception as error:
                self.score.complain(f"{type(error).__name__}: {error}")
                time.sleep(_PAUSE)
            self.score.episodes += 1

    def end(self) -> None:
        """Asks for its end."""
        self.request.end()

    def join(self, seconds: float) -> bool:
        """Whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()
