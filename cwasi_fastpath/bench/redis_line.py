"""Redis between two processes: a mailbox in each direction."""

from __future__ import annotations

import socket
import time
from typing import Any

from .case import TUNED_PATHS
from .line import Payload
from .redis_mailbox import BATCH, Mailbox, connect, open_mailbox
from .task import Task

BACKLOG = 64 << 20
"""Bytes that wait in the server, about, before the sender waits for room."""

_REQUEST = 4 << 20
"""Bytes in one request, about."""

_SMALL = 4096
_ROOM_SECONDS = 0.0005


class RedisLine:
    """One message at a time, or streams in batches."""

    def __init__(self, client: Any, out: Mailbox, back: Mailbox, size: int) -> None:
        self._client, self._out, self._back = client, out, back
        self._size = size

    def send(self, payload: Payload) -> None:
        # Small ones as they are: redis-py sends bytes in one piece with their command.
        self._out.send(payload if self._size <= _SMALL else memoryview(payload))

    def receive(self) -> bytes:
        return self._back.receive()

    def send_all(self, payload: Payload, count: int) -> None:
        message = payload if self._size <= _SMALL else memoryview(payload)
        batch: list[bytes | memoryview] = [message] * max(1, min(BATCH, _REQUEST // self._size))
        most = max(2, BACKLOG // self._size)
        while count > 0:
            if self._out.put(batch[:count]) > most:
                time.sleep(_ROOM_SECONDS)
            count -= len(batch)

    def receive_all(self, count: int) -> None:
        while count > 0:
            count -= len(self._back.take())

    def close(self) -> None:
        self._client.close()


def open_line(task: Task, meeting: socket.socket) -> RedisLine:
    """Raises RedisUnavailable."""
    client = connect(task.address, task.size, tuned=task.path in TUNED_PATHS)
    there, back = (open_mailbox(task.path, client, f"{task.key}:{name}") for name in ("there", "back"))
    return RedisLine(client, there, back, task.size) if task.first else RedisLine(client, back, there, task.size)
