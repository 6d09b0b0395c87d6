"""Channels between two Python processes, as a program of its own would use them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

from .. import transport
from ..endpoint import RECEIVER, SENDER
from ..errors import WouldWait
from ..modes import Transport
from ..receiver import Receiver
from ..sender import Sender
from .line import Payload
from .task import Task

_DESCRIPTION_BYTES = 4096
_FDS = 4
_SMALL = 4096


class ChannelLine:
    """A channel in each direction."""

    def __init__(self, tx: Sender, rx: Receiver, task: Task) -> None:
        self._tx, self._rx = tx, rx
        self._buffer = bytearray(task.size)
        self.send: Callable[[Payload], object] = self._send_polled if task.spins else tx.send
        self.receive = self._how_to_receive(task)

    def _how_to_receive(self, task: Task) -> Callable[[], object]:
        if task.size <= _SMALL:
            return self._receive_polled if task.spins else self._rx.recv
        return self._receive_large_polled if task.spins else self._receive_large

    def _send_polled(self, payload: Payload) -> None:
        while not self._tx.try_send(payload):
            pass

    def _receive_polled(self) -> None:
        receive = self._rx.try_recv
        while receive() is None:
            pass

    def _receive_large_polled(self) -> None:
        while True:
            try:
                return self._receive_large(0)
            except WouldWait:
                pass

    def _receive_large(self, timeout: float | None = None) -> None:
        """Into memory that is there already: fresh memory costs more than the copy."""
        self._rx.recv_into(self._buffer, timeout)

    def close(self) -> None:
        self._tx.close()
        self._rx.close()


def open_line(task: Task, meeting: socket.socket) -> ChannelLine:
    """The first process makes both links, and hands the second its end of each."""
    if task.first:
        links = [transport.create(Transport(task.path.value)) for _ in range(2)]
        for link, role in zip(links, (RECEIVER, SENDER), strict=True):
            description, fds = link.export(role)
            socket.send_fds(meeting, [json.dumps(description).encode()], fds)
        out, back = links
    else:
        links = [_joined(meeting) for _ in range(2)]
        back, out = links
    line = ChannelLine(Sender(out.open(SENDER), "out"), Receiver(back.open(RECEIVER), "back"), task)
    for link in links:
        link.close()
    return line


def _joined(meeting: socket.socket) -> transport.Link:
    data, fds, _, _ = socket.recv_fds(meeting, _DESCRIPTION_BYTES, _FDS)
    return transport.join(json.loads(data), fds)
