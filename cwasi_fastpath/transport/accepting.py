"""The keeper of a receiver: accepts the sender, and drops whoever else comes."""

from __future__ import annotations

import errno
import logging
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

from .._native import lib
from . import handshake
from .keeper import HANDSHAKE_SECONDS, LOOK_SECONDS, Keeper
from .tls import Pump

STRANGERS_MAX = 64
"""Connections that have not proven anything yet; one more, and the oldest of them is dropped."""

_LINGER_SECONDS = 2.0

_log = logging.getLogger(__name__)


class ReceiverKeeper(Keeper):
    """Accepts the sender, and drops whoever else comes."""

    sends = False

    def __init__(
        self,
        tcp: Any,
        key: bytes,
        patience: float,
        tls: ssl.SSLContext | None,
        function: str | None,
        listener: socket.socket,
    ) -> None:
        super().__init__(tcp, key, patience, tls, function)
        self._listener = listener
        self._listens = True
        """Nobody can come any more, where not."""
        self._securing: tuple[Pump, bool] | None = None
        """A sender with which TLS is being agreed on, and whether it has our clock."""
        self._strangers: dict[int, _Stranger] = {}
        self._hung_up = False
        self._until: float | None = None
        """When to give up; None while there is a connection."""
        self._longest = 0.0
        """When to give up at the latest, while somebody comes who may be the sender."""

    def _sockets(self, *, forked: bool) -> list[socket.socket]:
        securing = self._securing[0].sockets(forked=forked) if self._securing is not None else []
        strangers = [stranger.socket for stranger in self._strangers.values()]
        return [*super()._sockets(forked=forked), self._listener, *strangers, *securing]

    def _keep(self) -> None:
        while True:
            state = lib.cwasi_tcp_tend(self._tcp)
            if state == -errno.ESHUTDOWN or self._is_over(state):
                return
            for descriptor, events in self._ready(state):
                self._handle(descriptor, events, state)

    def _is_over(self, state: int) -> bool:
        """Whether its time is up. Sets the clock when a connection is lost or the end closed."""
        now = time.monotonic()
        if state > 0 or state == -errno.EPIPE:
            self._start_clock(_LINGER_SECONDS, _LINGER_SECONDS)   # closed: the sender is yet to hear of it
        elif state < 0 and self._connection is not None:
            silent = state == -errno.ETIMEDOUT or (self._pump is not None and self._pump.silent)
            self._drop()
            self._start_clock(self._soon(silent), self._patience)
        nobody = not (self._listens or self._strangers or self._securing or self._connection)
        if not nobody and (self._until is None or now < self._until):
            return False
        lib.cwasi_tcp_give_up(self._tcp)
        return True

    def _start_clock(self, seconds: float, longest: float) -> None:
        if self._until is None:
            self._until, self._longest = time.monotonic() + seconds, time.monotonic() + longest

    def _ready(self, state: int) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._kick, select.POLLIN)
        if self._listens:
            poll.register(self._listener, select.POLLIN)
        if self._securing is not None:
            poll.register(self._securing[0].told, select.POLLIN)
        for descriptor in self._strangers:
            poll.register(descriptor, select.POLLIN)
        if self._connection is not None and not self._hung_up:
            poll.register(self._connection, max(state, 0))   # a hang-up is always told
        now = time.monotonic()
        for descriptor in [fd for fd, stranger in self._strangers.items() if stranger.until <= now]:
            self._strangers.pop(descriptor).socket.close()
        times = [stranger.until for stranger in self._strangers.values()]
        times += [self._until] if self._until is not None else []
        times += [now + LOOK_SECONDS] if self._hung_up else []
        return poll.poll(max(0.0, min(times) - now) * 1000 if times else None)

    def _handle(self, descriptor: int, events: int, state: int) -> None:
        if descriptor == self._listener.fileno():
            self._accept()
        elif descriptor in self._strangers:
            self._listen_to(descriptor)
        elif self._securing is not None and descriptor == self._securing[0].told.fileno():
            self._take_secured(*self._securing)
        elif self._connection is not None and descriptor == self._connection.fileno():
            # The end reads what came before, and then notices by itself.
            self._hung_up = state == 0 and bool(events & (select.POLLHUP | select.POLLERR))
            if self._hung_up:
                error = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._start_clock(self._soon(error == errno.ETIMEDOUT), self._patience)

    def _accept(self) -> None:
        try:
            self._listener.setblocking(False)   # who passed it on has it too
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(LOOK_SECONDS)   # it stays in the queue
            self._listens = error.errno not in (errno.EINVAL, errno.EOPNOTSUPP)   # somebody has shut it
            return
        if self._until is not None:
            self._until = self._longest
        if len(self._strangers) >= STRANGERS_MAX:
            self._strangers.pop(next(iter(self._strangers))).socket.close()
        stranger = _Stranger(connection)
        self._strangers[connection.fileno()] = stranger
        connection.setblocking(False)
        with suppress(OSError):
            connection.send(stranger.hello)

    def _listen_to(self, descriptor: int) -> None:
        """Reads some of an answer; a right one makes it the end's connection."""
        stranger = self._strangers[descriptor]
        try:
            more = stranger.socket.recv(handshake.ANSWER_BYTES - len(stranger.answer))
        except BlockingIOError:
            return
        except OSError:
            more = b""
        stranger.answer += more
        if more and len(stranger.answer) < handshake.ANSWER_BYTES:
            return
        del self._strangers[descriptor]
        proven = handshake.proof(self._key, stranger.hello, stranger.answer)
        try:
            if proven is None:
                raise ConnectionError
            if self._until is not None:   # it lives
                self._until = self._longest = time.monotonic() + self._patience
            stranger.socket.send(proven[0])
            stranger.socket.setblocking(True)
            pump = self._secured(stranger.socket, None)
            if pump is None:
                self._take(stranger.socket, None, proven[1])
                return
        except OSError:
            stranger.socket.close()
            return
        self._stop_securing()
        self._securing = (pump, proven[1])

    def _take(self, connection: socket.socket, pump: Pump | None, timed: bool) -> None:
        self._hand_over(connection, pump, timed)
        self.up.set()
        self._hung_up, self._until = False, None

    def _take_secured(self, pump: Pump, timed: bool) -> None:
        """The sender's, if both sides have what it takes."""
        if not pump.agreed:
            _log.warning("tcp: a sender is not trusted: %s", pump.why)
            self._stop_securing()
            return
        self._securing = None
        self._take(pump.end, pump, timed)

    def _stop_securing(self) -> None:
        """One at a time: each has proven that it knows the key."""
        if self._securing is not None:
            for held in self._securing[0].sockets(forked=False):
                held.close()
            self._securing = None


class _Stranger:
    """A connection that has not proven to be the sender's."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.hello = handshake.hello()
        self.answer = b""
        self.until = time.monotonic() + HANDSHAKE_SECONDS
