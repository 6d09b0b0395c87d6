"""The keeper of a sender: connects to the receiver, and again after a break."""

from __future__ import annotations

import errno
import logging
import select
import socket
import ssl
import time
from typing import Any

from .. import errors
from .._native import lib
from . import handshake
from .address import connect
from .keeper import HANDSHAKE_SECONDS, Keeper

_REFUSALS = 6
_ATTEMPT_SECONDS = 1.0   # then a fresh one: the kernel itself waits longer and longer
_BACKOFF_FIRST, _BACKOFF_LAST = 0.01, 0.5

_log = logging.getLogger(__name__)


class _Refused(Exception):
    """Who listens there is not who it should be."""


class _HungUp(Exception):
    """Who listens there, or the way to it, ended the connection before it was in use."""

    def __init__(self, *, greeted: bool = False) -> None:
        """greeted: it was something that speaks as a receiver does."""
        super().__init__()
        self.greeted = greeted


class _Distrusted(Exception):
    """TLS says that this is not the receiver: it will not be the next time either."""


class SenderKeeper(Keeper):
    """Connects to the receiver."""

    sends = True

    def __init__(
        self,
        tcp: Any,
        key: bytes,
        patience: float,
        tls: ssl.SSLContext | None,
        function: str | None,
        address: tuple[str, int],
        first: socket.socket | None,
    ) -> None:
        """first: a connection that nobody has greeted yet, or None."""
        super().__init__(tcp, key, patience, tls, function)
        self._address = address
        self._trying: socket.socket | None = first
        self._began = 0.0
        """When the trouble of the moment began."""
        self._backoff, self._refusals = _BACKOFF_FIRST, 0

    def _sockets(self, *, forked: bool) -> list[socket.socket]:
        return [*super()._sockets(forked=forked), *([self._trying] if self._trying is not None else [])]

    def _keep(self) -> None:
        state = -errno.ENOTCONN
        while state != -errno.ESHUTDOWN:
            if self._connection is None or state < 0:
                if not self._connect(state):
                    return
            else:
                self._wait(self._connection, select.POLLRDHUP | state, None)
            state = lib.cwasi_tcp_tend(self._tcp)
            # Not before the receiver has said where it begins: after a fork it would be read here and missed there.
            if state >= 0 and state != select.POLLIN:
                self.up.set()

    def _wait(self, connection: socket.socket, events: int, timeout: float | None) -> bool:
        """Until one of these on the connection, or a kick; whether it was the connection."""
        poll = select.poll()
        poll.register(connection, events)
        poll.register(self._kick, select.POLLIN)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        return any(descriptor == connection.fileno() for descriptor, _ in ready)

    def _connect(self, why: int) -> bool:
        """Makes a new connection, or gives up; whether it did."""
        silent = why == -errno.ETIMEDOUT or (self._pump is not None and self._pump.silent)
        patience = self._soon(silent)
        if why != -errno.ECONNREFUSED:
            self._heard_of()
        elif not self._useful() or not self._goes_on(patience):
            return False
        while lib.cwasi_tcp_tend(self._tcp) != -errno.ESHUTDOWN:
            try:
                if self._trying is None:
                    self._trying = connect(*self._address, timeout=min(patience, _ATTEMPT_SECONDS))
                return self._greeted(self._trying, self._began + patience)
            except (ConnectionRefusedError, _Refused):
                self._refusals += 1
            except _HungUp as error:
                if error.greeted:   # it is there; the next one may last
                    patience, self._backoff = self._patience, _BACKOFF_FIRST
            except _Distrusted as error:
                self._distrust(f"it is not trusted: {error}")
            except (OSError, errors.TcpUnavailable):
                patience = self._patience   # the way is gone, and may come back
            self._stop_trying()
            if not self._goes_on(patience):
                break
        return False

    def _heard_of(self) -> None:
        """The receiver has shown that it lives: what went wrong before counts no longer."""
        self._began, self._backoff, self._refusals = time.monotonic(), _BACKOFF_FIRST, 0

    def _useful(self) -> bool:
        """Whether another connection may be of more use than the last one, which ended before the receiver's word."""
        if self._pump is None or not self._pump.refused:
            return True
        self._distrust(f"it does not trust our certificate: {self._pump.why}")
        lib.cwasi_tcp_give_up(self._tcp)
        return False

    def _distrust(self, why: str) -> None:
        self.why = f"{self._address[0]} port {self._address[1]}: TLS: {why}"
        _log.warning("tcp: %s", self.why)
        self._refusals = _REFUSALS

    def _goes_on(self, patience: float) -> bool:
        """Pauses before the next attempt, unless there is none."""
        if self._refusals == _REFUSALS or time.monotonic() > self._began + patience:
            lib.cwasi_tcp_give_up(self._tcp)
            return False
        time.sleep(self._backoff)
        self._backoff = min(2 * self._backoff, _BACKOFF_LAST)
        return True

    def _stop_trying(self) -> None:
        trying, self._trying = self._trying, None
        if trying is not None:
            trying.close()

    def _greeted(self, connection: socket.socket, until: float) -> bool:
        """False if the end has gone meanwhile. Raises _Refused, _HungUp, _Distrusted, OSError."""
        limit = None if not self.up.is_set() else min(until, time.monotonic() + HANDSHAKE_SECONDS)
        hello = self._read(connection, handshake.HELLO_BYTES, limit)
        if hello is None:
            return False
        answer = handshake.answer(self._key, hello)
        if answer is None:
            raise _Refused
        try:
            connection.sendall(answer)
            proof = self._read(connection, handshake.PROOF_BYTES, limit)
        except (_HungUp, ConnectionError) as error:
            raise _HungUp(greeted=True) from error
        if proof is None:
            return False
        if not handshake.proven(self._key, hello, answer, proof):
            raise _Refused
        self._heard_of()
        self._trying = None
        self._secure_and_hand_over(connection)
        return True

    def _secure_and_hand_over(self, connection: socket.socket) -> None:
        pump = self._secured(connection, self._address[0])
        if pump is None:
            self._hand_over(connection, None, timed=True)
            return
        poll = select.poll()
        poll.register(pump.told, select.POLLIN)
        poll.poll()   # a pump tells in time, also that it has failed
        if not pump.agreed:
            for held in pump.sockets(forked=False):
                held.close()
            raise _Distrusted(pump.why) if not pump.silent else OSError(pump.why)
        self._hand_over(pump.end, pump, timed=True)

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
                raise _HungUp
            got += more
        connection.setblocking(True)
        return got
