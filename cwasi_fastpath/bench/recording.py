"""Records a trace for policies: real messages between two threads, by every way in turn, while something changes.

A block has two short runs on each way, in turn, so that all of them meet the same time, and the noise of one half is
not in the other. In a run each message waits for the one before it to be answered, with C at both ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from .. import calibration
from .._native import check, ffi, lib
from ..channel import open_channel
from ..endpoint import Endpoint
from ..errors import BadSpec
from ..modes import EdgeFacts, Locality, Transport
from ..placing import Ran, ran
from ..policy import Cores, Costs, Curve, Way
from ..policy.trace import Block, Measured, Trace
from .environment import environment

SMALL, LARGE = 64, 1 << 20
_FIRST_ROUNDS = 40
"""Before the trace begins: what a calibration would know."""
_RUN_SECONDS, _LONGEST_RUN = 0.003, 0.02
"""Of one run: what it takes where nobody disturbs it, and at most, about."""
_SMALLEST_PART, _LARGEST_PART = 8, 256
"""Messages there and back in a part of a run."""
_SWITCHES = 5
_HERE = EdgeFacts(Locality.PROCESS)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a recording."""

    size: int = SMALL
    crowded: bool = False
    """Another process wants one of the cores all the time."""


SCENARIOS: dict[str, tuple[Phase, ...]] = {
    "steady": (Phase(),),
    "size-shift": (Phase(SMALL), Phase(LARGE), Phase(SMALL)),
    "contention": (Phase(), Phase(crowded=True), Phase()),
}


def usable_ways(redis: str | None) -> list[Way]:
    """What can be measured here. redis: a server's URL."""
    ways = [Way(Transport.RING), Way(Transport.RING, Cores.ONE)]
    if len(os.sched_getaffinity(0)) > 1:
        ways.append(Way(Transport.RING, Cores.TWO))
    return [*ways, Way(Transport.PIPE), Way(Transport.TCP), *([Way(Transport.REDIS)] if redis else [])]


def record(scenario: str, seconds: float, ways: Sequence[Way], redis: str | None = None) -> Trace:
    """A trace of about that length, on the ways given. Raises what channels raise, BadSpec."""
    if scenario not in SCENARIOS:
        raise BadSpec(f"scenario {scenario!r} cannot be recorded: use {', '.join(SCENARIOS)}")
    phases = SCENARIOS[scenario]
    with ExitStack() as stack:
        roads = [stack.enter_context(_road(way, redis)) for way in ways]
        busy = _Busy()
        costs = _calibrated(roads, sorted({phase.size for phase in phases}), redis)
        blocks: list[Block] = []
        changes = []
        start = time.monotonic()
        for number, phase in enumerate(phases):
            until = start + seconds * (number + 1) / len(phases)
            with _crowd(phase.crowded):
                if number:
                    changes.append(round(time.monotonic() - start, 6))
                while not blocks or time.monotonic() < until or blocks[-1].at < (changes or [0.0])[-1]:
                    blocks.append(_block(roads, phase.size, start, busy, _fastest(costs, phase.size)))
    about = {"recorded": scenario, **environment()}
    return Trace(f"{scenario}, recorded", costs, tuple(blocks), tuple(changes), about)


def _block(roads: Sequence[_Road], size: int, start: float, busy: _Busy, rate: float) -> Block:
    """Stands for what an edge does in its time whose messages follow each other at this rate, messages a second."""
    begin = time.monotonic()
    runs = [{road.way: road.run(size) for road in roads} for _ in range(2)]
    end = time.monotonic()
    measured = {road.way: _both(*(run[road.way] for run in runs)) for road in roads}
    messages = max(1, round((end - begin) * rate))
    return Block(
        round(begin - start, 6), round(end - begin, 6), messages, float(size), measured, _HERE, burst=0.0,
        others=busy.others(),
    )  # fmt: skip


def _both(one: Measured, other: Measured) -> Measured:
    latency = round((one.latency_ns + other.latency_ns) / 2, 1)
    return Measured(
        latency_ns=latency,
        cpu_ns=_mean(one.cpu_ns, other.cpu_ns, 1),
        contention=_mean(one.contention, other.contention, 3),
        parked=round((one.parked + other.parked) / 2, 3),
        rate=_rate(latency),
        halves=(one, other),
    )


def _mean(one: float | None, other: float | None, digits: int) -> float | None:
    return None if one is None or other is None else round((one + other) / 2, digits)


def _rate(latency: float) -> float:
    """Where each message waits for the answer to the one before it, which takes as long."""
    return round(1e9 / (2 * max(1.0, latency)), 1)


def _fastest(costs: Costs, size: int) -> float:
    """Of the way that was the best before the trace."""
    return _rate(min(curve.latency_ns[curve.sizes.index(size)] for curve in costs.curves.values()))


# ---- one way ----


class _Road:
    """Two threads, where a way wants them, and channels there and back."""

    def __init__(
        self, way: Way, threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor], ends: list[list[Endpoint]]
    ) -> None:
        self.way = way
        self._threads, self._ends = threads, ends
        self._numbers = [thread.submit(threading.get_native_id).result() for thread in threads]
        self.usual: dict[int, int] = {}
        """Messages there and back in a run, by size."""
        self._parts: dict[int, int] = {}
        """The same in the next part of one."""
        self._messages = [ffi.from_buffer(bytearray(b"\7") * LARGE) for _ in range(2)]

    def run(self, size: int) -> Measured:
        """As many messages there and back as a few milliseconds have room for, in small parts: nobody knows before
        what one takes when others want the cores.

        Once `usual` is known, their number does not depend on how long they take, as far as that goes: else who was
        disturbed for once would be counted as if all of the block was like that.
        """
        now = time.monotonic()
        usual = self.usual.get(size)
        until = now + (_RUN_SECONDS if usual is None else _LONGEST_RUN)
        parks, before = self._parks(), self._ran()
        total = trips = cpu = parts = 0
        count = self._parts.get(size, _SMALLEST_PART)
        while not parts or (now < until and (usual is None or trips < usual)):
            took = ffi.new("uint64_t[]", count)
            work = zip(self._threads, ("ping", "pong"), self._ends, self._messages, strict=True)
            running = [
                thread.submit(self._drive, loop, ends, message, size, took) for thread, loop, ends, message in work
            ]
            cpu += sum(one.result() for one in running)
            total += sum(list(took)[1:])   # the first one wakes the other side
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
            rate=_rate(latency),
        )

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
        return [ran(number) for number in self._numbers]

    def _contention(self, before: Sequence[Ran | None]) -> float | None:
        """What of the time that they could run since then both threads waited for a core."""
        since = [now.since(then) for now, then in zip(self._ran(), before, strict=True) if now and then]
        waited, could = sum(one.waited for one in since), sum(one.ran + one.waited for one in since)
        return round(waited / could, 3) if len(since) == len(before) and could else None

    def _parks(self) -> int:
        return sum(end.metrics().parks for ends in self._ends for end in ends)


@contextmanager
def _road(way: Way, redis: str | None) -> Iterator[_Road]:
    target = redis if way.transport is Transport.REDIS and redis else str(way.transport)
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
        there, back = open_channel("recording.there", target), open_channel("recording.back", target)
        for end in (*there, *back):
            stack.enter_context(end)
        yield _Road(way, (one, other), [[there[0], back[1]], [back[0], there[1]]])


# ---- what is known before ----


def _calibrated(roads: Sequence[_Road], sizes: Sequence[int], redis: str | None) -> Costs:
    """As a calibration would have it, on these sizes."""
    found: dict[tuple[Way, int], list[Measured]] = {}
    for _ in range(_FIRST_ROUNDS):
        for road in roads:
            for size in sizes:
                found.setdefault((road.way, size), []).append(road.run(size))
    curves = {
        road.way: Curve(
            tuple(map(float, sizes)),
            # Of runs that nobody disturbed: what others on the cores do to a way is known apart from this.
            tuple(median(one.latency_ns for one in found[road.way, size][3:]) for size in sizes),
            error=0.1,
        )
        for road in roads
    }
    for road in roads:
        latencies = zip(sizes, curves[road.way].latency_ns, strict=True)
        road.usual = {size: max(_SMALLEST_PART, round(_RUN_SECONDS * _rate(latency))) for size, latency in latencies}
    transports = {road.way.transport for road in roads}
    switch = {kind: _switch_ns(kind, redis) for kind in Transport if kind in transports}
    costs = calibration.costs(redis)
    return replace(costs, curves=curves, switch=switch, cores=len(os.sched_getaffinity(0)))


def _switch_ns(kind: Transport, redis: str | None) -> float:
    """What the message that meets a switch to this transport waits, and the switch itself."""
    other = "pipe" if kind is Transport.RING else "ring"
    target = redis if kind is Transport.REDIS and redis else str(kind)
    tx, rx = open_channel("recording.switch", other)
    times = []
    with tx, rx:
        for _ in range(_SWITCHES):
            begin = time.perf_counter_ns()
            tx.switch(target)
            tx.send(b"the first by the new way")
            rx.recv(5.0)
            times.append(time.perf_counter_ns() - begin)
            tx.switch(other)
            tx.send(b"and back")
            rx.recv(5.0)
    return float(median(times))


# ---- the others ----


class _Busy:
    """How many of our cores others have kept busy, lately."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float, float]] = deque(maxlen=2)
        self._tick = os.sysconf("SC_CLK_TCK")

    def others(self) -> float | None:
        """Since some blocks ago: the kernel counts in hundredths of a second."""
        now = (time.monotonic(), self._all(), time.process_time())
        self._looks.append(now)
        then = self._looks[0]
        if now[0] <= then[0]:
            return None
        return round(max(0.0, (now[1] - then[1] - (now[2] - then[2])) / (now[0] - then[0])), 3)

    def _all(self) -> float:
        """Seconds for which our cores were busy."""
        ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        busy = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in ours:
                user, nice, system, _, _, irq, soft, *_ = map(int, fields)
                busy += user + nice + system + irq + soft
        return busy / self._tick


_HOG = """
import os
parent = os.getppid()
os.write(1, b".")
while os.getppid() == parent: sum(range(100_000))
"""


@contextmanager
def _crowd(wanted: bool) -> Iterator[None]:
    """A process that wants the last of our cores all the time. It ends with us, however we end."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", _HOG], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as hog:
        try:
            os.sched_setaffinity(hog.pid, {max(os.sched_getaffinity(0))})
            if hog.stdout is not None and not hog.stdout.read(1):
                raise RuntimeError("the other process has not begun")
            yield
        finally:
            hog.kill()
