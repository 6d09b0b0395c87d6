"""Keepers: a thread for each end over TCP that makes its connections, and sees to what is left when nobody is inside.

What moves messages is C, in the thread of whoever sends or receives. A keeper sleeps while the connection holds. When
it breaks, a sender's keeper connects again, a receiver's accepts; it gives up, so that the end gets PeerDied, after

- `patience` seconds, where the other node was silent, or greets, and no greeting comes to its end;
- a quarter of it (two seconds at least), where its kernel has closed or reset the connection: a sender that lives is
  back at once;
- some refusals in a row, a third of a second: its node is there, and nobody listens.

The clock begins anew with each greeting in which the other side has proven who it is: a way that is cut again and again
is no death.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import socket
import ssl
import threading
import time
from typing import Any
from weakref import WeakSet

from .. import errors
from .._native import check, lib
from .address import tune
from .tcp_info import Network, network_of
from .tls import Pump

HANDSHAKE_SECONDS = 5.0
LOOK_SECONDS = 0.1
_EXIT_SECONDS = 5.0
_SOONEST_SECONDS = 2.0
_PUMP_SECONDS = 2.0
"""For TLS to send what an end said before it left."""

_log = logging.getLogger(__name__)
_all: WeakSet[Keeper] = WeakSet()
_lock = threading.Lock()
"""Held while a keeper leaves, and over a fork: a child gives up each copy once."""


class Keeper(threading.Thread):
    """Keeps one end connected until it is closed and all is done, or the peer is given up."""

    sends: bool

    def __init__(self, tcp: Any, key: bytes, patience: float, tls: ssl.SSLContext | None, function: str | None) -> None:
        """tcp: the C side's handle, which is the keeper's. function: whom TLS works for."""
        super().__init__(name=f"cwasi tcp {type(self).__name__}", daemon=True)
        self._tcp = tcp
        self._key = key
        self._patience = patience
        self._tls = tls
        self._function = function
        self._pump: Pump | None = None
        self._kick: int = lib.cwasi_tcp_descriptor(tcp)
        self._connection: socket.socket | None = None
        self._left = False
        self.why: str | None = None
        """What is known of why there is no other connection."""
        self.up = threading.Event()
        """The first connection is in use, or there never will be one."""
        self.ended = False
        """There will be none any more."""
        with _lock:
            _all.add(self)

    def run(self) -> None:
        try:
            self._keep()
        except (OSError, errors.Error) as error:
            _log.warning("%s: %s", self.name, error)
            lib.cwasi_tcp_give_up(self._tcp)
        finally:
            self.ended = True
            self.up.set()
            self.leave()
            if self._pump is not None:
                self._pump.join(_PUMP_SECONDS)

    def leave(self, *, forked: bool = False) -> None:
        """Gives up all that the keeper has; what the end has stays."""
        with _lock:
            if self._left:
                return
            self._left = True
            for held in self._sockets(forked=forked):
                held.close()
            lib.cwasi_tcp_leave(self._tcp, forked)

    def network(self) -> Network | None:
        """What the kernel knows of it; None while there is no connection."""
        pump, connection = self._pump, self._connection   # the thread may be changing them
        carrier = pump.carrier if pump is not None else connection
        return None if carrier is None else network_of(carrier)

    def give_up(self) -> None:
        """Ends it, without a word to the other side, which has never used the link."""
        with _lock:
            if not self._left:
                lib.cwasi_tcp_give_up(self._tcp)
                os.eventfd_write(self._kick, 1)

    def finishes(self, seconds: float) -> None:
        """Waits until nothing is on its way, for a process that ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with _lock:
                if self._left or lib.cwasi_tcp_tend(self._tcp) in (0, -errno.ESHUTDOWN):
                    return
            time.sleep(LOOK_SECONDS / 10)

    def _soon(self, silent: bool) -> float:
        """Seconds for which a connection may be missing. silent: it broke because nothing came back."""
        return self._patience if silent else min(self._patience, max(_SOONEST_SECONDS, self._patience / 4))

    def _sockets(self, *, forked: bool) -> list[socket.socket]:
        held = [self._connection] if self._connection is not None else []
        return [*held, *self._pump.sockets(forked=forked)] if self._pump is not None else held

    def _keep(self) -> None:
        raise NotImplementedError

    def _secured(self, connection: socket.socket, host: str | None) -> Pump | None:
        """Starts TLS on it, where that is wanted; else what has no TLS is ready."""
        tune(connection, self._patience / 2)
        if self._tls is None:
            return None
        pump = Pump(connection, self._tls, host, HANDSHAKE_SECONDS, self._function)
        pump.start()
        return pump

    def _hand_over(self, connection: socket.socket, pump: Pump | None, timed: bool) -> None:
        """To the end, in place of the one that it had. Raises OSError."""
        self._drop()
        self._connection, self._pump = connection, pump
        rc = lib.cwasi_tcp_connected(self._tcp, connection.fileno(), timed)
        if rc != -errno.EPIPE:
            check(rc, self.name)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._pump is not None:
            self._pump.told.close()
            self._pump = None


def _after_fork_in_child() -> None:
    _lock.release()
    for keeper in list(_all):
        keeper.leave(forked=True)


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)


@atexit.register
def _finish() -> None:
    """What was sent to a receiver that has not read it yet would be lost with our end of the connection."""
    for keeper in list(_all):
        if keeper.sends:
            keeper.finishes(_EXIT_SECONDS)
