"""One of two processes that exchange messages over Redis: does what its standard input says, a JSON line a task."""

from __future__ import annotations

import json
import struct
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from .case import TUNED_PATHS, Path
from .redis_mailbox import BATCH, Mailbox, connect, open_mailbox

BACKLOG = 64 << 20
"""Bytes that wait in the server, about, before the sender waits for room."""

_REQUEST = 4 << 20
"""Bytes in one request, about."""

_STAMP = struct.Struct("<Q")
_SMALL = 4096
_WARMING = 16
_ROOM_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Task:
    """What one peer does in one run of a case."""

    role: str
    """ping, pong, source or sink."""
    path: Path
    url: str
    key: str
    """Prefix of the keys to use."""
    size: int
    count: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Task:
        fields = json.loads(line)
        return cls(**{**fields, "path": Path(fields["path"])})


def main() -> None:
    """Answers each task with a line of JSON, until its input ends."""
    roles = {"ping": _ping, "pong": _pong, "source": _source, "sink": _sink}
    for line in sys.stdin:
        task = Task.from_json(line)
        client = connect(task.url, task.size, tuned=task.path in TUNED_PATHS)
        there, back = (open_mailbox(task.path, client, f"{task.key}:{name}") for name in ("there", "back"))
        answer = roles[task.role](task, there, back)
        client.close()
        print(json.dumps(answer), flush=True)


class _Stamped:
    """A message that is reused, with the time of its sending in its first bytes."""

    def __init__(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)

    def now(self) -> bytes | memoryview:
        """The message, stamped. Small ones as bytes: redis-py sends those in one piece with their command."""
        _STAMP.pack_into(self._buffer, 0, time.monotonic_ns())
        return bytes(self._buffer) if len(self._buffer) <= _SMALL else self._view


def _receive(mailbox: Mailbox) -> int:
    """The nanoseconds that a message took."""
    message = mailbox.receive()
    return int(time.monotonic_ns() - _STAMP.unpack_from(message)[0])


def _ping(task: Task, there: Mailbox, back: Mailbox) -> dict[str, Any]:
    message, took = _Stamped(task.size), []
    for _ in range(_WARMING + task.count):
        there.send(message.now())
        took.append(_receive(back))
    return {"latencies": took[_WARMING:]}


def _pong(task: Task, there: Mailbox, back: Mailbox) -> dict[str, Any]:
    message, took = _Stamped(task.size), []
    for _ in range(_WARMING + task.count):
        took.append(_receive(there))
        back.send(message.now())
    return {"latencies": took[_WARMING:]}


def _source(task: Task, there: Mailbox, back: Mailbox) -> dict[str, Any]:
    payload = bytes(task.size) if task.size <= _SMALL else memoryview(bytearray(task.size))
    batch = [payload] * max(1, min(BATCH, _REQUEST // task.size))
    most = max(2, BACKLOG // task.size)
    there.send(payload)
    back.receive()
    left = task.count
    start = time.monotonic_ns()
    while left > 0:
        if there.put(batch[:left]) > most:
            time.sleep(_ROOM_SECONDS)
        left -= len(batch)
    return {"start": start}


def _sink(task: Task, there: Mailbox, back: Mailbox) -> dict[str, Any]:
    there.receive()
    back.send(b"ready")
    left = task.count
    while left > 0:
        left -= len(there.take())
    return {"end": time.monotonic_ns(), "messages": task.count - left}


if __name__ == "__main__":
    main()
