"""What a process exchanges messages over: a line to the other process, of one kind a module."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path as File
from typing import Any, Protocol

from .. import errors
from .case import REDIS_PATHS, Path
from .task import Task

Payload = bytes
SHARED = File("/dev/shm")

_MODULES = {
    **{path: "redis_line" for path in REDIS_PATHS},
    Path.RING: "channel_line",
    Path.PIPE: "channel_line",
    Path.TCP: "channel_line",
    Path.ICEORYX: "iceoryx_line",
    Path.ZMQ: "zmq_line",
    Path.MP_PIPE: "multiprocessing_line",
    Path.MP_SHARED: "multiprocessing_line",
}


class Line(Protocol):
    """This process's side of a line."""

    @property
    def send(self) -> Callable[[Payload], object]:
        """Sends a message."""

    @property
    def receive(self) -> Callable[[], object]:
        """Waits for a message, for ever if need be: who takes too long is ended from outside."""

    def close(self) -> None:
        """Gives everything back, also what is on disk."""


def send_all(line: Line, payload: Payload, count: int) -> None:
    """Streams `count` messages, in whatever way the line does that best."""
    own = getattr(line, "send_all", None)
    if own is not None:
        own(payload, count)
        return
    send = line.send
    for _ in range(count):
        send(payload)


def receive_all(line: Line, count: int) -> None:
    """Takes a stream of `count` messages."""
    own = getattr(line, "receive_all", None)
    if own is not None:
        own(count)
        return
    receive = line.receive
    for _ in range(count):
        receive()


def line_module(path: Path) -> Any:
    """The module with the lines of `path`. Raises Unavailable where a package is not installed."""
    try:
        return import_module(f".{_MODULES[path]}", __package__)
    except ImportError as error:
        package = {"zmq": "pyzmq"}.get(error.name or "", error.name)
        raise errors.Unavailable(f"{path} is not installed. Remedy: pip install {package}") from error


@contextmanager
def open_line(task: Task, meeting: socket.socket) -> Iterator[Line]:
    """Joins a line; both processes do at the same time. meeting: connects them, to agree on what the line needs."""
    line: Line = line_module(task.path).open_line(task, meeting)
    try:
        meet(meeting)
        yield line
        meet(meeting)   # what the other has not read yet must not vanish with us
    finally:
        line.close()


def shared_prefix(directory: str) -> str:
    """Begins the names in shared memory of all that is made by a run with this directory for its files."""
    return f"{File(directory).name}_"


def clean_up(directory: str) -> None:
    """Removes what iceoryx2 always leaves, and others where they are killed. May be called twice."""
    for file in SHARED.glob(f"{shared_prefix(directory)}*"):
        file.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def meet(meeting: socket.socket) -> None:
    """Waits until the other process is here too."""
    meeting.send(b"!")
    if not meeting.recv(1):
        raise errors.PeerDied("the other process is gone")
