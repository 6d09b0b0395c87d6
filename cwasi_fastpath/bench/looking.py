"""What a look of the steward at the channels of its host costs, by how many of them are busy."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, islice
from math import isqrt
from pathlib import Path
from statistics import median

from ..guest import Guest
from ..host import Host
from ..policy import CostPolicy
from ..policy.generate import generate
from ..steward import Steward

_MODULE = """(module
  (import "cwasi_v1" "channel_open" (func (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")))"""
MESSAGES, _BYTES = 3, 64
"""In each window of each busy channel."""
SECONDS = 0.1
"""From one look to the next, as the steward is told."""
_SETTLED, _LOOKS = 3, 5


class _Standing(Host):
    """Its guests count as if they ran."""

    def running(self) -> dict[str, Guest]:
        return {guest.name: guest for guest in self.guests}


class Looking:
    """At as many channels, between guests that have more than one each."""

    def __init__(self, host: Host, edges: int) -> None:
        pairs = islice(combinations(host.guests, 2), edges)
        self.channels = [host.connect(f"{one.name}-{other.name}", one, other) for one, other in pairs]
        self.steward = Steward(host)
        self._now = 0.0
        self.look()

    def seconds(self, busy: float) -> float:
        """Of CPU, for a look while this part of the channels carries messages; the median of some."""
        while self.look():   # those that were busy before have not all had their turn
            pass
        return median([self._timed(busy) for _ in range(_SETTLED + _LOOKS)][_SETTLED:])

    def _timed(self, busy: float) -> float:
        self.carry(busy)
        begin = time.thread_time()
        self.look()
        return time.thread_time() - begin

    def carry(self, busy: float) -> int:
        """Messages, through this part of the channels; how many."""
        chosen = self.channels[: round(busy * len(self.channels))]
        for channel in chosen:
            for sender, receiver in zip(channel.senders.values(), channel.receivers.values(), strict=True):
                for _ in range(MESSAGES):
                    sender.send(bytes(_BYTES))
                    receiver.recv()
        return MESSAGES * len(chosen)

    def look(self) -> bool:
        """Whether any that had its turn was busy."""
        self._now += SECONDS
        return self.steward.look(self._now, threading.Event())


@contextmanager
def looking(edges: int) -> Iterator[Looking]:
    """A host with so many channels, for a while."""
    guests = max(3, isqrt(2 * edges) + 2)   # of two guests alone the cores would be chosen, too
    policy = CostPolicy(generate("steady", seconds=0.1).costs)
    with tempfile.TemporaryDirectory(prefix="cwasi-bench-") as directory, _Standing(policy=policy) as host:
        module = Path(directory) / "standing.wat"
        module.write_text(_MODULE, encoding="utf-8")
        for number in range(guests):
            host.load(module, f"guest{number}")
        yield Looking(host, edges)
