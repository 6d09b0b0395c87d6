"""A proxy between the two ends of a TCP connection, which can break it."""

from __future__ import annotations

import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESETS = struct.pack("ii", 1, 0)   # SO_LINGER that makes a close a reset


class Proxy:
    """Passes on what comes; cut() resets all connections of the moment, refuse() also those to come."""

    def __init__(self, port: int, seen: bytearray | None = None) -> None:
        """port: on the loopback, where the proxy connects to. seen: gets all that goes through."""
        self._target, self._seen = port, seen
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._told, self._tell = socket.socketpair()
        self._refuses = False
        self.cuts = 0
        """Connections that were reset."""
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def cut(self) -> None:
        self._tell.send(b"c")

    def refuse(self) -> None:
        self._refuses = True
        self.cut()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._told, *self._pairs], [], [])
            if self._told in ready:
                word = self._told.recv(1)
                self._reset_all()
                if word != b"c":
                    return
                continue
            if self._listener in ready:
                self._accept()
            for one in ready:
                if one in self._pairs:
                    self._pass_on(one)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._refuses:
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except ConnectionRefusedError:
            near.close()
            return
        self._pairs[near], self._pairs[far] = far, near

    def _pass_on(self, one: socket.socket) -> None:
        other = self._pairs[one]
        try:
            data = one.recv(1 << 16)
            if data:
                if self._seen is not None:
                    self._seen += data
                other.sendall(data)
                return
        except OSError:
            pass
        for end in (one, other):
            del self._pairs[end]
            end.close()

    def _reset_all(self) -> None:
        for end in self._pairs:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            end.close()
        self.cuts += len(self._pairs) // 2
        self._pairs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._tell.send(b"e")
        self._thread.join()
        for held in (self._listener, self._told, self._tell):
            held.close()
