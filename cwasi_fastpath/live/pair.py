"""The two guests of a live run, and the pipes by which one of them is told what to do."""

from __future__ import annotations

import os
import select
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import errors
from ..guest import Guest
from ..host import Host
from .script import Phase

CHANNELS = ("there", "back")
"""Of what is asked, and of what comes back: as the guests call them."""

MODULE = Path(__file__).with_name("guests.wat")
WRONG = 99
"""The status with which the guest that asks ends where a message is."""
_TASK, _RECORD = struct.Struct("<QQQ"), struct.Struct("<QQQQ")
_THREADS = 4

Record = tuple[int, int, int, int]
"""The time since the task began, ns (0: it is over); messages that came back; what they took, ns, in all; the longest
of them.
"""


class Pair:
    """Both in one host, which connects them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        tasks, records = os.pipe(), os.pipe()
        self._fds = {*tasks, *records}
        self._tasks, self._records = tasks[1], records[0]
        self._threads = ThreadPoolExecutor(_THREADS, "cwasi live")
        self._running: list[Future[None]] = []
        try:
            ask = host.load(MODULE, "ask", arguments=("ask",), stdin=_path(tasks[0]), stdout=_path(records[1]))
            self._open(ask, host.load(MODULE, "reply", arguments=("reply",)))
        except BaseException:
            self.close()
            raise

    def _open(self, ask: Guest, reply: Guest) -> None:
        """Connects them, and lets them run."""
        there, back = CHANNELS
        self._channels = {there: self.host.connect(there, ask, reply), back: self.host.connect(back, reply, ask)}
        self._run(ask, reply)

    def _run(self, *guests: Guest) -> None:
        self._running.append(self._threads.submit(self.host.run, *guests))

    def ways(self) -> dict[str, tuple[str, str]]:
        """Of each channel: the way in use, and the mode."""
        decisions = {name: one.decision for name, one in self._channels.items()}   # a switch may come at any time
        return {name: (str(one.way), str(one.mode)) for name, one in decisions.items()}

    def prepare(self, receiver: str) -> None:
        """For place(), what takes its time."""

    def place(self, receiver: str) -> None:
        """Where the guest that answers is to run, while messages come. Here it stays."""

    def explained(self) -> tuple[dict[str, Any], str]:
        """Of the channel of what is asked."""
        return self._explained(CHANNELS[0])

    def _explained(self, channel: str) -> tuple[dict[str, Any], str]:
        found = self.host.explain(channel)
        return ({}, "") if found is None else (found.as_plain(), found.at_length())

    # ---- tasks and records ----

    def begin(self, phase: Phase) -> None:
        """From now on they do that."""
        gap = 0 if phase.rate is None else int(1e9 / phase.rate)
        os.write(self._tasks, _TASK.pack(phase.size, gap, int(phase.seconds * 1e9)))

    def records(self, seconds: float) -> list[Record]:
        """Those that come in that time. Raises what went wrong with the guests."""
        for running in self._running:
            if running.done():
                self._result(running)
                raise errors.Corrupted("the guests of a live run ended before they were told to")
        if not select.select([self._records], [], [], seconds)[0]:
            return []
        return list(_RECORD.iter_unpack(os.read(self._records, 128 * _RECORD.size)))

    # ---- the end ----

    def end(self, trips: int) -> None:
        """Waits for the guests; then so many messages must have been sent, and have come. Raises Corrupted."""
        self._no_more_tasks()
        for running in self._running:
            self._result(running)
        for name, (sent, received) in self._counted().items():
            if not sent == received == trips:
                what = f"{sent:,} messages were sent and {received:,} received, where {trips:,} came back"
                raise errors.Corrupted(f"channel {name!r}: {what}")

    def _counted(self) -> dict[str, tuple[int, int]]:
        """Messages sent and received, by channel."""
        counted = {name: channel.metrics() for name, channel in self._channels.items()}
        return {name: (one.sent, one.received) for name, one in counted.items()}

    def _result(self, running: Future[None]) -> None:
        try:
            running.result()
        except errors.GuestExit as error:
            if error.exit_code == WRONG:
                raise errors.Corrupted("a message of a live run was wrong, or not the one that was due") from error
            raise

    def _no_more_tasks(self) -> None:
        if self._tasks in self._fds:
            self._fds.remove(self._tasks)
            os.close(self._tasks)

    def close(self) -> None:
        """Ends what runs."""
        self._no_more_tasks()
        self.host.stop()
        self._threads.shutdown()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _path(fd: int) -> str:
    """As WASI takes a pipe."""
    return f"/proc/self/fd/{fd}"
