"""What Python itself has between processes: a Pipe, or shared_memory for the data and a Pipe for the rest."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, Pipe
from multiprocessing.shared_memory import SharedMemory

from .case import Path
from .line import SHARED, Payload, meet
from .task import Task

# Now, so that no process is started while something is measured.
resource_tracker.ensure_running()

_SMALL = 4096
_SLOT = struct.Struct("<I")
_SLOTS = 4


class PipeLine:
    """send_bytes and recv_bytes; what is large is received into memory that is there already."""

    def __init__(self, pipe: Connection, size: int) -> None:
        self._pipe = pipe
        self._buffer = bytearray(size)
        self.send: Callable[[Payload], object] = pipe.send_bytes
        self.receive: Callable[[], object] = pipe.recv_bytes if size <= _SMALL else self._receive_large

    def _receive_large(self) -> None:
        self._pipe.recv_bytes_into(self._buffer)

    def close(self) -> None:
        self._pipe.close()


class SharedLine:
    """Slots in shared memory for each direction, and a duplex Pipe for the numbers of full and of empty ones."""

    def __init__(
        self, out: Connection, back: Connection, sent: SharedMemory, received: SharedMemory, task: Task
    ) -> None:
        self._out, self._back = out, back
        self._memories = sent, received
        self._made = task.first
        self._size = task.size
        self._buffer = bytearray(task.size)
        assert sent.buf is not None and received.buf is not None
        self._to, self._from = sent.buf, received.buf
        self._free = list(range(_SLOTS))

    def send(self, payload: Payload) -> None:
        while not self._free or self._out.poll():
            self._free += _SLOT.unpack(self._out.recv_bytes())
        slot = self._free.pop()
        at = slot * self._size
        self._to[at : at + self._size] = payload
        self._out.send_bytes(_SLOT.pack(slot))

    def receive(self) -> None:
        number = self._back.recv_bytes()
        at = _SLOT.unpack(number)[0] * self._size
        self._buffer[:] = self._from[at : at + self._size]
        self._back.send_bytes(number)

    def close(self) -> None:
        for memory in self._memories:
            memory.close()
            if self._made:
                (SHARED / memory.name).unlink()
        self._out.close()
        self._back.close()


def open_line(task: Task, meeting: socket.socket) -> PipeLine | SharedLine:
    """The first process makes everything, and hands the second its ends."""
    if task.path is Path.MP_PIPE:
        return PipeLine(_pipe(task, meeting), task.size)
    there, back = _pipe(task, meeting), _pipe(task, meeting)
    if not task.first:
        meet(meeting)
    sent, received = (_memory(task, name) for name in ("there", "back"))
    if task.first:
        meet(meeting)
    if not task.first:
        there, back, sent, received = back, there, received, sent
    return SharedLine(there, back, sent, received, task)


def _pipe(task: Task, meeting: socket.socket) -> Connection:
    if not task.first:
        return Connection(socket.recv_fds(meeting, 1, 1)[1][0])
    ours, theirs = Pipe()
    socket.send_fds(meeting, [b"p"], [theirs.fileno()])
    theirs.close()
    return ours


def _memory(task: Task, name: str) -> SharedMemory:
    """Made by the first process; the second must come after it."""
    size = _SLOTS * task.size if task.first else 0
    memory = SharedMemory(f"{task.key}-{name}", create=task.first, size=size)
    # Python takes whoever opens a memory for its owner; and should we be killed, clean_up() does it without a warning.
    resource_tracker.unregister(f"/{memory.name}", "shared_memory")
    return memory
