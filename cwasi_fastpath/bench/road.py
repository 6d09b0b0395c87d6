"""A way with real messages on it: two threads, where the way wants them, and channels there and back.

Each message waits for the answer to the one before it, with C at both ends. By tcp it may go over a wire, which has
delays.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from .._native import check, ffi, lib
from ..channel import open_channel
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..modes import Transport
from ..policy import Cores, Way
from ..policy.trace import Measured
from ..receiver import Receiver
from ..sender import Sender
from ..thread_watch import Ran, Watch
from ..transport.tcp import TcpLink
from ..transport.tcp_info import Network
from .wire import HERE, THERE, Wire

LARGEST = 1 << 20
_LOOPBACK = "127.0.0.1"
_RUN_SECONDS, _LONGEST_RUN = 0.003, 0.1
"""Of one run: what it takes where nobody disturbs it, and at most, about: who waits for a core before each of its parts
is to come to as many messages as others."""
_SMALLEST_PART, _LARGEST_PART = 8, 256
"""Messages there and back in a part of a run."""
_SELDOM = 4
"""In a run of messages that come after pauses."""


def rate_of(latency_ns: float) -> float:
    """Messages a second, where each waits for the answer to the one before it, which takes as long."""
    return round(1e9 / (2 * max(1.0, latency_ns)), 1)


class Road:
    """Two threads, where a way wants them, and channels there and back."""

    def __init__(
        self,
        way: Way,
        threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
        ends: list[list[Endpoint]],
        link: TcpLink | None = None,
    ) -> None:
        """link: what carries the messages there, by tcp."""
        self.way, self._link = way, link
        self._threads, self._ends = threads, ends
        self._watches = [Watch(thread.submit(threading.get_native_id).result()) for thread in threads]
        self.usual_ns: dict[int, float] = {}
        """What a message usually takes, by size, where that is known."""
        self._parts: dict[int, int] = {}
        """The same in the next part of one."""
        self._messages = [ffi.from_buffer(bytearray(b"\7") * LARGEST) for _ in range(2)]

    def run(self, size: int, pause: float = 0.0) -> Measured:
        """One run. pause: seconds before each message."""
        return self._seldom(size, pause) if pause else self._often(size)

    def knows(self, size: int, latency_ns: float) -> None:
        """What messages of this size usually take: a run has as many of them from now on as fit into it."""
        self.usual_ns[size] = latency_ns

    def close(self) -> None:
        """Its channels and threads are others' to end."""
        for watch in self._watches:
            watch.close()

    @property
    def network(self) -> Network | None:
        """As the kernel sees it, by tcp."""
        return None if self._link is None else self._link.network

    def _often(self, size: int) -> Measured:
        """As many messages there and back as a few milliseconds have room for, in small parts: nobody knows before
        what one takes when others want the cores.

        Once it is known how many that are, it is not asked how long they take, as far as that goes: else who was
        disturbed for once would be counted as if all of the block was like that.
        """
        now = time.monotonic()
        usual = None
        if size in self.usual_ns:
            usual = max(_SMALLEST_PART, round(_RUN_SECONDS * rate_of(self.usual_ns[size])))
        until = now + (_RUN_SECONDS if usual is None else _LONGEST_RUN)
        parks, before = self._parks(), self._ran()
        total = trips = cpu = parts = 0
        count = self._parts.get(size, _SMALLEST_PART)
        while not parts or (now < until and (usual is None or trips < usual)):
            took, spent = self._both(self._drive, size, count)
            cpu += spent
            total += sum(took[1:])   # the first one wakes the other side
            trips += count
            parts += 1
            then, now = now, time.monotonic()
            quick = now - then < _RUN_SECONDS / 8
            count = min(_LARGEST_PART, count * 2) if quick else max(_SMALLEST_PART, count // 2)
        self._parts[size] = count
        latency = round(total / (2 * (trips - parts)), 1)
        return Measured(
            latency_ns=latency,
            cpu_ns=round(cpu / (2 * trips), 1),
            contention=self._contention(before),
            parked=round(min(1.0, max(0, self._parks() - parks - parts) / (2 * trips)), 3),
            rate=rate_of(latency),
        )

    def _seldom(self, size: int, pause: float) -> Measured:
        """A few, by which sleepers are woken up."""
        parks, before = self._parks(), self._ran()

        def drive(loop: str, ends: list[Endpoint], message: Any, size: int, took: Any) -> int:
            if loop == "pong":
                return self._drive(loop, ends, message, size, took)
            for number in range(len(took)):
                time.sleep(pause)
                self._drive(loop, ends, message, size, took[number : number + 1])
            return 0

        took, _ = self._both(drive, size, _SELDOM)
        return Measured(
            latency_ns=round(sum(took) / (2 * _SELDOM), 1),
            contention=self._contention(before),
            parked=round(min(1.0, max(0, self._parks() - parks) / (2 * _SELDOM)), 3),
        )

    def _both(self, drive: Callable[..., int], size: int, count: int) -> tuple[list[int], int]:
        """What each message and its answer took, and the CPU time of both threads, ns."""
        took = ffi.new("uint64_t[]", count)
        work = zip(self._threads, ("ping", "pong"), self._ends, self._messages, strict=True)
        running = [thread.submit(drive, loop, ends, message, size, took) for thread, loop, ends, message in work]
        cpu = sum(one.result() for one in running)
        return list(took), cpu

    def _drive(self, loop: str, ends: list[Endpoint], message: Any, size: int, took: Any) -> int:
        """Ns of CPU. A failure takes the other side along."""
        begin = time.thread_time_ns()
        drive = ffi.new("cwasi_drive *", (ends[0].pointer, ends[1].pointer, message, size, len(took), -1, took))
        try:
            check(getattr(lib, f"cwasi_drive_{loop}")(drive), "recording")
        except BaseException:
            for end in ends:
                end.stop()
            raise
        return time.thread_time_ns() - begin

    def _ran(self) -> list[Ran | None]:
        return [watch.ran() for watch in self._watches]

    def _contention(self, before: Sequence[Ran | None]) -> float | None:
        """What of the time that they could run since then both threads waited for a core."""
        since = [now.since(then) for now, then in zip(self._ran(), before, strict=True) if now and then]
        waited, could = sum(one.waited for one in since), sum(one.ran + one.waited for one in since)
        return round(waited / could, 3) if len(since) == len(before) and could else None

    def _parks(self) -> int:
        return sum(end.metrics().parks for ends in self._ends for end in ends)


@contextmanager
def road_of(way: Way, redis: str | None, wire: Wire | None = None) -> Iterator[Road]:
    """wire: over which it goes by tcp; else it stays on the loopback."""
    usable = sorted(os.sched_getaffinity(0))
    places = {
        Cores.FREE: (set(usable), set(usable)),
        Cores.ONE: ({usable[0]}, {usable[0]}),
        Cores.TWO: ({usable[0]}, {usable[-1]}),
    }[way.cores]
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(ThreadPoolExecutor(1, "cwasi recording", os.sched_setaffinity, (0, place)))
            for place in places
        )
        link = None
        if way.transport is Transport.TCP:
            (*there, link), (*back, _) = (_by_tcp(f"recording.{name}", wire, stack) for name in ("there", "back"))
        else:
            target = redis if way.transport is Transport.REDIS and redis else str(way.transport)
            there, back = (list(open_channel(f"recording.{name}", target)) for name in ("there", "back"))
            for end in (*there, *back):
                stack.enter_context(end)
        yield stack.enter_context(closing(Road(way, (one, other), [[there[0], back[1]], [back[0], there[1]]], link)))


def _by_tcp(name: str, wire: Wire | None, stack: ExitStack) -> tuple[Sender, Receiver, TcpLink]:
    """Both ends of a channel, and what carries it at its sender's."""
    if wire is not None:
        return wire.inside(lambda: _connected(name, HERE, THERE, stack))
    return _connected(name, _LOOPBACK, _LOOPBACK, stack)


def _connected(name: str, at: str, door: str, stack: ExitStack) -> tuple[Sender, Receiver, TcpLink]:
    """at: the address at which the receiver listens. door: by which the sender reaches it."""
    listening = TcpLink.create(at)
    stack.callback(listening.close)
    described, _ = listening.export(SENDER)
    calling = TcpLink.joined({**described, "host": door}, [])
    stack.callback(calling.close)
    receiver = stack.enter_context(Receiver(listening.open(RECEIVER), name))
    return stack.enter_context(Sender(calling.open(SENDER), name)), receiver, calling
