"""The tracer's control socket: gives hosts of the traced command the slot map, and functions their ids.

An AF_UNIX SOCK_SEQPACKET socket in the abstract namespace, so that no file is left behind; one JSON object a message.

    {"hello": 1}           -> {"version": 1, "slots": N} and the map's fd: a u32[N] to be mapped, indexed by tid
    {"function": "name"}   -> {"id": n}, n >= 1: what to store in the slot of the thread that runs the function
    anything else          -> {"error": "..."}

A slot is indexed by the tid in the tracer's pid namespace, and whoever has the map could charge its calls to another
host's function. So only processes that are traced, and that are in this namespace, are served.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from .errors import BadName
from .names import checked

ENVIRONMENT = "CWASI_TRACER"
OTHER = "other"
"""Stands for all functions that have no id of their own."""

_VERSION = 1
_MESSAGE_BYTES = 4096
_CONNECTIONS = 512


class ControlSocket:
    """The listening socket and the thread that serves it."""

    def __init__(self, slots_fd: int, slots: int, ids: int, traced: Callable[[int], bool]) -> None:
        """slots_fd: the map, of `slots` u32. ids: how many there are, 0 included. traced: whether a live pid is."""
        self._slots_fd = slots_fd
        self._slots = slots
        self._traced = traced
        self._other = ids - 1
        self._ids: dict[str, int] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = f"@cwasi-tracer-{os.getpid()}-{secrets.token_hex(8)}"
        self._listener.bind("\0" + self.address[1:])
        self._listener.listen(64)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="cwasi-tracer", daemon=True)
        self._thread.start()

    def names(self) -> dict[int, str]:
        """The functions by id. OTHER has the last one."""
        return {**{number: name for name, number in self._ids.copy().items()}, self._other: OTHER}

    def close(self) -> None:
        """Ends the thread and all connections; hosts keep their mapping of the map, which nobody reads any more."""
        self._wake.close()
        self._thread.join()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            stack.enter_context(self._woken)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock is self._woken:
                        self._drop_all(selector)
                        return
                    if sock is self._listener:
                        self._accept(selector)
                    elif not self._answer(sock):
                        selector.unregister(sock)
                        sock.close()

    def _drop_all(self, selector: selectors.BaseSelector) -> None:
        for key in selector.get_map().values():
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client is gone already
        connection.setblocking(False)
        refusal = self._refusal(connection, len(selector.get_map()))
        if refusal is None:
            selector.register(connection, selectors.EVENT_READ)
            return
        with connection, contextlib.suppress(OSError):
            connection.send(_error(refusal))

    def _refusal(self, connection: socket.socket, connections: int) -> str | None:
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if connections > _CONNECTIONS:
            return "too many connections"
        if not self._traced(pid):
            return "only processes of the traced command, in the tracer's pid namespace, are served"
        return None

    def _answer(self, connection: socket.socket) -> bool:
        """Serves one message; False when the connection is to be closed."""
        try:
            message = connection.recv(_MESSAGE_BYTES)
            if not message:
                return False
            reply, fds = self._reply(message)
            socket.send_fds(connection, [reply], fds)
        except OSError:
            return False
        return True

    def _reply(self, message: bytes) -> tuple[bytes, list[int]]:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            return _error("not JSON"), []
        if request == {"hello": _VERSION}:
            return _encoded({"version": _VERSION, "slots": self._slots}), [self._slots_fd]
        if not isinstance(request, dict) or request.keys() != {"function"}:
            return _error(f'expected {{"hello": {_VERSION}}} or {{"function": "<name>"}}'), []
        try:
            return _encoded({"id": self._id(checked(request["function"], "function"))}), []
        except BadName as error:
            return _error(str(error)), []

    def _id(self, name: str) -> int:
        if name == OTHER:
            return self._other
        if name not in self._ids and len(self._ids) + 1 < self._other:
            self._ids[name] = len(self._ids) + 1
        return self._ids.get(name, self._other)


def _encoded(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()


def _error(text: str) -> bytes:
    return _encoded({"error": text})
