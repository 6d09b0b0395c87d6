"""ZeroMQ: a pair of PAIR sockets over a unix socket (ipc)."""

from __future__ import annotations

import socket
from collections.abc import Callable

import zmq

from .line import Payload, meet
from .task import Task

_SMALL = 4096
_QUEUED_BYTES = 64 << 20


class ZmqLine:
    """One socket for both directions; large messages are moved without the copies of the binding."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: zmq.Socket[bytes], size: int) -> None:
        self._context, self._socket = context, endpoint
        small = size <= _SMALL
        self.send: Callable[[Payload], object] = endpoint.send if small else self._send_large
        self.receive: Callable[[], object] = endpoint.recv if small else self._receive_large

    def _send_large(self, payload: Payload) -> None:
        self._socket.send(payload, copy=False)

    def _receive_large(self) -> memoryview:
        return self._socket.recv(copy=False).buffer

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()


def open_line(task: Task, meeting: socket.socket) -> ZmqLine:
    """The first process binds, the second connects."""
    context = zmq.Context()
    endpoint = context.socket(zmq.PAIR)
    for side in (zmq.SNDHWM, zmq.RCVHWM):
        endpoint.setsockopt(side, max(2, min(1000, _QUEUED_BYTES // task.size)))
    address = f"ipc://{task.address}/{task.key}"
    if task.first:
        endpoint.bind(address)
    meet(meeting)
    if not task.first:
        endpoint.connect(address)
    return ZmqLine(context, endpoint, task.size)
