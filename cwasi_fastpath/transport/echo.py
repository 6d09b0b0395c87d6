"""Echoes: a thread of the process at an address of it, which answers when another node sounds the network (see
sounding). It is there when somebody asks where, and ends by itself when nobody has come for some time.

Whoever comes is heard for some seconds at most, and for a sounding at most; of those that are heard there are not many.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
import select
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

from ..errors import Error, TcpUnavailable
from ..policy.sounding import BYTES, SECONDS
from . import handshake
from .address import listen
from .sounding import Place

THREAD = "cwasi echo"
"""The name of the thread."""

CALLERS_MAX = 64
"""One more, and a stranger is dropped."""

_CALL_SECONDS = 2 * SECONDS
_IDLE_SECONDS = 60.0
_PAUSE = 0.1
"""Seconds without a further connection when no descriptor is left."""
_PIECE = 1 << 16

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_echoes: dict[str, Echo] = {}
"""By address."""


def echo_at(host: str) -> Place:
    """Where one listens at an address of this machine. Raises TcpUnavailable, BadSpec."""
    with _lock:
        found = _echoes.get(host)
        if found is None or not found.stays():
            found = Echo(host)
            try:
                found.start()
            except RuntimeError as error:
                found.leave()
                raise TcpUnavailable(f"tcp: nothing echoes at {host}: {error}") from error
            _echoes[host] = found
        return found.place


class Echo(threading.Thread):
    """At one address."""

    def __init__(self, host: str) -> None:
        super().__init__(name=THREAD, daemon=True)
        self._host = host
        self._listener = listen(host, 0)
        at, port = self._listener.getsockname()[:2]
        self.place = Place(at, port, secrets.token_bytes(handshake.KEY_BYTES))
        self._callers: dict[int, _Caller] = {}
        self._until = 0.0
        """When it ends."""
        self.stays()

    def stays(self) -> bool:
        """For some more time; False where it is over. In the lock, or nobody knows of it yet."""
        self._until = time.monotonic() + _IDLE_SECONDS
        return self._listener.fileno() >= 0

    def run(self) -> None:
        try:
            while not self._is_over():
                for descriptor in self._ready():
                    if descriptor == self._listener.fileno():
                        self._accept()
                    elif (caller := self._callers.get(descriptor)) is not None:   # it may just have been dropped
                        self._hear(descriptor, caller)
        except (OSError, Error) as error:
            _log.warning("%s: %s", self.name, error)
        finally:
            with _lock:
                self.leave()

    def leave(self) -> None:
        """Gives up all that it has."""
        for held in (self._listener, *(caller.socket for caller in self._callers.values())):
            held.close()
        self._callers.clear()

    def _is_over(self) -> bool:
        with _lock:
            if time.monotonic() < self._until:
                return False
            self.leave()
            if _echoes.get(self._host) is self:
                del _echoes[self._host]
            return True

    def _ready(self) -> list[int]:
        now = time.monotonic()
        for descriptor in [fd for fd, caller in self._callers.items() if caller.until <= now]:
            self._callers.pop(descriptor).socket.close()
        poll = select.poll()
        for descriptor in (self._listener.fileno(), *self._callers):
            poll.register(descriptor, select.POLLIN)
        until = min(self._until, *(caller.until for caller in self._callers.values()), now + _IDLE_SECONDS)
        return [descriptor for descriptor, _ in poll.poll(1000 * max(0.0, until - now) + 1)]

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_PAUSE)   # it stays in the queue
            return
        self._callers[connection.fileno()] = caller = _Caller(connection, address[0])
        with suppress(OSError):
            connection.send(caller.hello)
        if len(self._callers) > CALLERS_MAX:
            self._drop()

    def _drop(self) -> None:
        """A stranger, at an address from which most have come: any one, or many who come would keep out all others
        before these are known.
        """
        strangers = {fd: caller.address for fd, caller in self._callers.items() if not caller.known}
        counts = Counter(strangers.values())
        most = max(counts.values())
        dropped = random.choice([fd for fd, address in strangers.items() if counts[address] == most])
        self._callers.pop(dropped).socket.close()

    def _hear(self, descriptor: int, caller: _Caller) -> None:
        try:
            goes_on = caller.hear(self.place.key)
        except BlockingIOError:
            return
        except OSError:
            goes_on = False
        if caller.known:
            with _lock:
                self.stays()
        if not goes_on:
            del self._callers[descriptor]
            caller.socket.close()


class _Caller:
    """Who sounds the network, or pretends to."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        connection.setblocking(False)
        self.address = address
        self.socket = connection
        self.hello = handshake.hello()
        self.known = False
        self.until = time.monotonic() + _CALL_SECONDS
        self._answer = b""
        self._left = BYTES

    def hear(self, key: bytes) -> bool:
        """Reads some of what it says; whether there is more to be heard. Raises OSError."""
        if self.known:
            heard = len(self.socket.recv(min(self._left, _PIECE)))
            self._left -= heard
            if not self._left:
                self.socket.send(b"\0")
            return bool(heard and self._left)
        more = self.socket.recv(handshake.ANSWER_BYTES - len(self._answer))
        self._answer += more
        if len(self._answer) < handshake.ANSWER_BYTES:
            return bool(more)
        proof = handshake.proof(key, self.hello, self._answer)
        if proof is None:
            return False
        self.socket.send(proof[0])
        self.known = True
        return True


def _after_fork_in_child() -> None:
    """They are the parent's, with their threads."""
    _lock.release()
    for echo in _echoes.values():
        echo.leave()
    _echoes.clear()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
