"""Plays a script under a policy: two guests exchange messages, each of which is checked, while what they do, and what
else the cores have to do, changes.

A guest sends, and waits until its message comes back. Both run in a host of this process, on at most two cores, which
are the same for every policy; a busy neighbour runs on the last of them.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import calibration, errors
from ..channel import Channel
from ..host import Host
from ..neighbour import neighbours
from ..policy import Costs, Policy
from .played import Change, Part, Played, Slice
from .script import Phase

CHANNELS = ("there", "back")
"""Of what is asked, and of what comes back."""

_MODULE = Path(__file__).with_name("guests.wat")
_CORES = 2
_TASK, _RECORD = struct.Struct("<QQQ"), struct.Struct("<QQQQ")
_LOOK = 0.02
"""Seconds between two looks at which way the channels go."""
_PATIENCE = 30.0
"""Seconds that a message may take; longer, and it is lost."""

Tell = Callable[[str, float], None]
"""Is told the phase, and how much of the run is over, from 0 to 1."""


def play(script: Sequence[Phase], name: str, make: Callable[[Costs], Policy], tell: Tell | None = None) -> Played:
    """name: of the policy. make: makes it, for this machine.

    Raises Corrupted for a message that is wrong, lost or doubled, Timeout, Unavailable, and what Host.run raises.
    """
    with kept_to(some_cores()) as cores, Host(policy=make(calibration.costs(None))) as host:
        pair = _Pair(host)
        try:
            return _Play(script, pair, cores, tell).played(name)
        finally:
            pair.close()


def some_cores() -> tuple[int, ...]:
    """The first and the last that we may use: on as many cores as there may be, two are what two guests need."""
    usable = sorted(os.sched_getaffinity(os.getpid()))
    return tuple(usable) if len(usable) <= _CORES else (usable[0], usable[-1])


@contextmanager
def kept_to(cores: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """This thread, and those that it starts. (A host looks at the process's first thread.)"""
    threads = {0, os.getpid()}
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        for thread in threads:
            os.sched_setaffinity(thread, cores)
        yield tuple(cores)
    finally:
        for thread, allowed in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, allowed)


class _Pair:
    """The two guests, while they run, and the pipes by which one of them is told what to do."""

    def __init__(self, host: Host) -> None:
        self.host = host
        tasks, records = os.pipe(), os.pipe()
        self._fds = {*tasks, *records}
        self._tasks, self._records = tasks[1], records[0]
        self._thread = ThreadPoolExecutor(1, "cwasi live")
        try:
            ask = host.load(_MODULE, "ask", arguments=("ask",), stdin=_path(tasks[0]), stdout=_path(records[1]))
            reply = host.load(_MODULE, "reply", arguments=("reply",))
            self.channels: dict[str, Channel] = {
                CHANNELS[0]: host.connect(CHANNELS[0], ask, reply), CHANNELS[1]: host.connect(CHANNELS[1], reply, ask)
            }  # fmt: skip
            self._running = self._thread.submit(host.run, ask, reply)
        except BaseException:
            self.close()
            raise

    def begin(self, phase: Phase) -> None:
        gap = 0 if phase.rate is None else int(1e9 / phase.rate)
        os.write(self._tasks, _TASK.pack(phase.size, gap, int(phase.seconds * 1e9)))

    def records(self, seconds: float) -> list[tuple[int, int, int, int]]:
        """Those that come in that time. Raises what went wrong with the guests."""
        if self._running.done():
            self._result()
            raise errors.Corrupted("the guests of a live run ended before they were told to")
        if not select.select([self._records], [], [], seconds)[0]:
            return []
        return list(_RECORD.iter_unpack(os.read(self._records, 128 * _RECORD.size)))

    def end(self, trips: int) -> None:
        """Waits for the guests; then all that was sent must have been received. Raises Corrupted."""
        self._no_more_tasks()
        self._result()
        for name, channel in self.channels.items():
            counted = channel.metrics()
            if not counted.sent == counted.received == trips:
                raise errors.Corrupted(
                    f"channel {name!r}: {counted.sent:,} messages were sent and {counted.received:,} received, "
                    f"where {trips:,} came back"
                )

    def _result(self) -> None:
        try:
            self._running.result()
        except errors.GuestExit as error:
            if error.exit_code == _WRONG:
                raise errors.Corrupted("a message of a live run was wrong, or not the one that was due") from error
            raise

    def _no_more_tasks(self) -> None:
        if self._tasks in self._fds:
            self._fds.remove(self._tasks)
            os.close(self._tasks)

    def close(self) -> None:
        self._no_more_tasks()
        self.host.stop()
        self._thread.shutdown()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


_WRONG = 99


def _path(fd: int) -> str:
    """As WASI takes a pipe."""
    return f"/proc/self/fd/{fd}"


class _Play:
    """One run."""

    def __init__(self, script: Sequence[Phase], pair: _Pair, cores: tuple[int, ...], tell: Tell | None) -> None:
        self._script, self._pair, self._cores, self._tell = script, pair, cores, tell
        self._began = time.monotonic()
        self._trips = 0
        self._over = 0.0
        """Seconds of the script."""
        self._changes: list[Change] = []

    def played(self, name: str) -> Played:
        parts = tuple(map(self._part, self._script))
        self._pair.end(self._trips)
        return Played(name, self._cores, parts, tuple(self._changes))

    def _part(self, phase: Phase) -> Part:
        begin = self._now()
        on = [self._cores[-1 - number % len(self._cores)] for number in range(phase.busy)]
        with neighbours(on):
            slices = self._slices(phase)
            explained = self._pair.host.explain(CHANNELS[0])
        assert explained is not None   # both ends are here
        self._over += phase.seconds
        return Part(phase, begin, self._now(), tuple(slices), explained.as_plain(), explained.at_length())

    def _slices(self, phase: Phase) -> list[Slice]:
        begin = heard = self._now()
        slices: list[Slice] = []
        self._pair.begin(phase)
        while True:
            for at, trips, total, worst in self._pair.records(_LOOK):
                if not at:
                    return slices
                heard = self._now()
                self._trips += trips
                slices.append(Slice(begin + at / 1e9, 2 * trips, total, worst / 2))
            self._look(phase, begin)
            if self._now() - heard > _PATIENCE + (0.0 if phase.rate is None else 1 / phase.rate):
                raise errors.Timeout(f"phase {phase.name}: no message has come back for {_PATIENCE:.0f} s")

    def _look(self, phase: Phase, begin: float) -> None:
        """Which way the channels go now."""
        now = self._now()
        for name, channel in self._pair.channels.items():
            way, mode = str(channel.decision.way), str(channel.mode)
            before = next((change for change in reversed(self._changes) if change.channel == name), None)
            if before is None or (before.way, before.mode) != (way, mode):
                self._changes.append(Change(0.0 if before is None else now, name, way, mode))
        if self._tell is not None:
            done = self._over + min(phase.seconds, now - begin)
            self._tell(phase.name, done / sum(one.seconds for one in self._script))

    def _now(self) -> float:
        return time.monotonic() - self._began
