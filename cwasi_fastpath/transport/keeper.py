"""Keepers: a thread for each end over TCP that makes its connections, and sees to what is left when nobody is inside.

What moves messages is C, in the thread of whoever sends or receives. A keeper sleeps while the connection holds. When
it breaks, a sender's keeper connects again, a receiver's accepts; it gives up, so that the end gets PeerDied, after

- `patience` seconds, where the other node was silent;
- a quarter of it, where its kernel has closed or reset the connection: a sender that lives is back at once;
- some refusals in a row, a third of a second: its node is there, and nobody listens.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import select
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from .. import errors
from .._native import check, lib
from . import handshake
from .address import connect, tune

STRANGERS_MAX = 16
"""Connections that have not proven anything yet; one more, and the oldest of them is dropped."""

_HANDSHAKE_SECONDS = 5.0
_LINGER_SECONDS = 2.0
_EXIT_SECONDS = 5.0
_REFUSALS = 6
_BACKOFF_FIRST, _BACKOFF_LAST = 0.01, 0.5
_LOOK_SECONDS = 0.1

_log = logging.getLogger(__name__)
_all: WeakSet[Keeper] = WeakSet()
_lock = threading.Lock()
"""Held while a keeper leaves, and over a fork: a child gives up each copy once."""


class Keeper(threading.Thread):
    """Keeps one end connected until it is closed and all is done, or the peer is given up."""

    def __init__(self, tcp: Any, key: bytes, patience: float) -> None:
        """tcp: the C side's handle, which is the keeper's."""
        super().__init__(name=f"cwasi tcp {type(self).__name__}", daemon=True)
        self._tcp = tcp
        self._key = key
        self._patience = patience
        self._kick: int = lib.cwasi_tcp_descriptor(tcp)
        self._connection: socket.socket | None = None
        self._left = False
        self.up = threading.Event()
        """The first connection is made, or never will be."""
        with _lock:
            _all.add(self)

    def run(self) -> None:
        try:
            self._keep()
        except (OSError, errors.Error) as error:
            _log.warning("%s: %s", self.name, error)
            lib.cwasi_tcp_give_up(self._tcp)
        finally:
            self.up.set()
            self.leave()

    def leave(self, *, forked: bool = False) -> None:
        """Gives up all that the keeper has; what the end has stays."""
        with _lock:
            if self._left:
                return
            self._left = True
            for held in self._sockets():
                held.close()
            lib.cwasi_tcp_leave(self._tcp, forked)

    def finishes(self, seconds: float) -> None:
        """Waits until nothing is on its way, for a process that ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with _lock:
                if self._left or lib.cwasi_tcp_tend(self._tcp) in (0, -errno.ESHUTDOWN):
                    return
            time.sleep(_LOOK_SECONDS / 10)

    def _sockets(self) -> list[socket.socket]:
        return [self._connection] if self._connection is not None else []

    def _keep(self) -> None:
        raise NotImplementedError

    def _hand_over(self, connection: socket.socket, timed: bool) -> None:
        """To the end, in place of the one that it had. Raises OSError."""
        self._drop()
        self._connection = connection
        tune(connection, self._patience / 2)
        rc = lib.cwasi_tcp_connected(self._tcp, connection.fileno(), timed)
        if rc != -errno.EPIPE:
            check(rc, self.name)
        self.up.set()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class SenderKeeper(Keeper):
    """Connects to the receiver."""

    def __init__(self, tcp: Any, key: bytes, patience: float, address: tuple[str, int], first: socket.socket) -> None:
        """first: a connection that nobody has greeted yet."""
        super().__init__(tcp, key, patience)
        self._address = address
        self._trying: socket.socket | None = first

    def _sockets(self) -> list[socket.socket]:
        return [*super()._sockets(), *([self._trying] if self._trying is not None else [])]

    def _keep(self) -> None:
        state = -errno.ENOTCONN
        while state != -errno.ESHUTDOWN:
            if self._connection is None or state < 0:
                if not self._connect(state):
                    return
            else:
                self._wait(self._connection, select.POLLRDHUP | state, None)
            state = lib.cwasi_tcp_tend(self._tcp)

    def _wait(self, connection: socket.socket, events: int, timeout: float | None) -> bool:
        """Until one of these on the connection, or a kick; whether it was the connection."""
        poll = select.poll()
        poll.register(connection, events)
        poll.register(self._kick, select.POLLIN)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        return any(descriptor == connection.fileno() for descriptor, _ in ready)

    def _connect(self, why: int) -> bool:
        """Makes a new connection, or gives up; whether it did."""
        begin, backoff, refusals = time.monotonic(), _BACKOFF_FIRST, 0
        patience = self._patience if why == -errno.ETIMEDOUT else self._patience / 4
        while lib.cwasi_tcp_tend(self._tcp) != -errno.ESHUTDOWN:
            try:
                if self._trying is None:
                    self._trying = connect(*self._address, timeout=patience)
                return self._greeted(self._trying, begin + patience)
            except (ConnectionRefusedError, _Refused):
                refusals += 1
            except (OSError, errors.TcpUnavailable):
                patience = self._patience   # the way is gone, and may come back
            self._stop_trying()
            if refusals == _REFUSALS or time.monotonic() > begin + patience:
                lib.cwasi_tcp_give_up(self._tcp)
                break
            time.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF_LAST)
        return False

    def _stop_trying(self) -> None:
        trying, self._trying = self._trying, None
        if trying is not None:
            trying.close()

    def _greeted(self, connection: socket.socket, until: float) -> bool:
        """False if the end has gone meanwhile. Raises _Refused, OSError."""
        limit = None if not self.up.is_set() else min(until, time.monotonic() + _HANDSHAKE_SECONDS)
        hello = self._read(connection, handshake.HELLO_BYTES, limit)
        if hello is None:
            return False
        answer = handshake.answer(self._key, hello)
        if answer is None:
            raise _Refused
        connection.sendall(answer)
        proof = self._read(connection, handshake.PROOF_BYTES, limit)
        if proof is None:
            return False
        if not handshake.proven(self._key, hello, answer, proof):
            raise _Refused
        self._trying = None
        self._hand_over(connection, timed=True)
        return True

    def _read(self, connection: socket.socket, count: int, until: float | None) -> bytes | None:
        """So many bytes; None if the end has gone. The first receiver may come as late as it likes."""
        got = b""
        connection.setblocking(False)
        while len(got) < count:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("no greeting")
            if not self._wait(connection, select.POLLIN, left):
                if lib.cwasi_tcp_tend(self._tcp) == -errno.ESHUTDOWN:
                    return None
                continue
            more = connection.recv(count - len(got))
            if not more:
                raise _Refused
            got += more
        connection.setblocking(True)
        return got


class _Refused(Exception):
    """Who listens there hung up, or is not who it should be."""


class ReceiverKeeper(Keeper):
    """Accepts the sender, and drops whoever else comes."""

    def __init__(self, tcp: Any, key: bytes, patience: float, listener: socket.socket) -> None:
        super().__init__(tcp, key, patience)
        self._listener = listener
        self._strangers: dict[int, _Stranger] = {}
        self._hung_up = False
        self._until: float | None = None
        """When to give up; None while there is a connection."""

    def _sockets(self) -> list[socket.socket]:
        return [*super()._sockets(), self._listener, *(stranger.socket for stranger in self._strangers.values())]

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
            self._start_clock(_LINGER_SECONDS)   # closed: the sender is yet to hear of it
        elif state < 0 and self._connection is not None:
            self._drop()
            self._start_clock(self._patience if state == -errno.ETIMEDOUT else self._patience / 4)
        if self._until is None or now < self._until:
            return False
        lib.cwasi_tcp_give_up(self._tcp)
        return True

    def _start_clock(self, seconds: float) -> None:
        if self._until is None:
            self._until = time.monotonic() + seconds

    def _ready(self, state: int) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._kick, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        for descriptor in self._strangers:
            poll.register(descriptor, select.POLLIN)
        if self._connection is not None and not self._hung_up:
            poll.register(self._connection, max(state, 0))   # a hang-up is always told
        now = time.monotonic()
        for descriptor in [fd for fd, stranger in self._strangers.items() if stranger.until <= now]:
            self._strangers.pop(descriptor).socket.close()
        times = [stranger.until for stranger in self._strangers.values()]
        times += [self._until] if self._until is not None else []
        times += [now + _LOOK_SECONDS] if self._hung_up else []
        return poll.poll(max(0.0, min(times) - now) * 1000 if times else None)

    def _handle(self, descriptor: int, events: int, state: int) -> None:
        if descriptor == self._listener.fileno():
            self._accept()
        elif descriptor in self._strangers:
            self._listen_to(descriptor)
        elif self._connection is not None and descriptor == self._connection.fileno():
            # The end reads what came before, and then notices by itself.
            self._hung_up = state == 0 and bool(events & (select.POLLHUP | select.POLLERR))
            if self._hung_up:
                error = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._start_clock(self._patience if error == errno.ETIMEDOUT else self._patience / 4)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
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
            stranger.socket.send(proven[0])
            self._hand_over(stranger.socket, proven[1])
            self._hung_up, self._until = False, None
        except OSError:
            stranger.socket.close()


class _Stranger:
    """A connection that has not proven to be the sender's."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.hello = handshake.hello()
        self.answer = b""
        self.until = time.monotonic() + _HANDSHAKE_SECONDS


def _after_fork_in_child() -> None:
    _lock.release()
    for keeper in list(_all):
        keeper.leave(forked=True)


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)


@atexit.register
def _finish() -> None:
    """What was sent to a receiver that has not read it yet would be lost with our end of the connection."""
    for keeper in list(_all):
        if isinstance(keeper, SenderKeeper):
            keeper.finishes(_EXIT_SECONDS)
