"""TCP: between nodes, direct. The receiver listens, the sender connects; C end to end.

Each receiver has a connection of its own. What it has not taken is kept by the sender, and sent again when the
connection was broken and made anew; see csrc/tcp.c and the keeper. Of several receivers each listens at a port of its
own, and has a key of its own.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

from .. import errors
from .._native import check, ffi, lib
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..modes import Transport
from . import address, handshake
from .accepting import ReceiverKeeper
from .connecting import SenderKeeper
from .keeper import Keeper
from .tcp_info import Network
from .tls import TlsFiles

WINDOW = 64 << 20
"""Bytes that a sender keeps at most until they are received; a longer message goes alone."""

LONGEST_WHOLE = WINDOW - 24
"""Bytes in a message that is in the window as a whole, behind its header."""

PATIENCE = 10.0
"""Seconds for which a broken connection may be made again."""

READERS_MAX: int = lib.CWASI_READERS_MAX

_JOIN_SECONDS = 10.0
_PLAIN = ("host", "port", "key", "others", "window", "patience", "tls")


class TcpLink:
    """A listening socket for each receiver, and its key. Keeps the contract of cwasi_fastpath.transport."""

    transport = Transport.TCP
    longest_whole = LONGEST_WHOLE

    def __init__(self, plain: dict[str, Any], listeners: dict[int, tuple[socket.socket, str]], *, sends: bool) -> None:
        """plain: where the receivers listen, their keys and the bounds, to be passed on. listeners: with their keys, of
        the receivers that are left to give out. sends: the sender is left, too.
        """
        self._plain = plain
        self._listeners = listeners
        self._sends = sends
        self._keepers: list[Keeper] = []

    @classmethod
    def create(
        cls, host: str = "127.0.0.1", port: int = 0, *, readers: int = 1, window: int = WINDOW,
        patience: float = PATIENCE, tls: TlsFiles | None = None,
    ) -> Self:  # fmt: skip
        """host, port: where the receiver listens; port 0 takes any. readers: how many there are; the others listen at
        the ports that follow. Raises TcpUnavailable, BadSpec.
        """
        if not 0 < readers <= READERS_MAX:
            raise errors.BadSpec(f"tcp to {readers} receivers: give 1 to {READERS_MAX}")
        if not 1 << 20 <= window <= 1 << 30:
            raise errors.BadSpec(f"a window of {window} bytes: use 1 MiB to 1 GiB")
        if not patience > 0:
            raise errors.BadSpec(f"a patience of {patience} s: use a time above 0")
        listeners: list[socket.socket] = []
        try:
            for reader in range(readers):
                listeners.append(address.listen(host, port and port + reader))
            if tls is not None:
                tls.check(listeners[0].getsockname()[0])   # what is wrong with the files is said now
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        keys = [secrets.token_hex(handshake.KEY_BYTES) for _ in listeners]
        ports = [listener.getsockname()[1] for listener in listeners]
        plain = {
            "host": listeners[0].getsockname()[0],
            "port": ports[0],
            "key": keys[0],
            "others": [list(door) for door in zip(ports[1:], keys[1:], strict=True)],
            "window": window,
            "patience": patience,
            "tls": None if tls is None else asdict(tls),
        }
        return cls(plain, dict(enumerate(zip(listeners, keys, strict=True))), sends=True)

    @classmethod
    def joined(cls, description: dict[str, Any], fds: list[int]) -> Self:
        """One end that another process passed on."""
        plain = {name: description[name] for name in _PLAIN}
        role, reader = description["role"], description["reader"]
        if not _honest(plain) or role not in (SENDER, RECEIVER) or len(fds) != (role == RECEIVER):
            raise ValueError("not what a tcp link exports")
        if fds and not address.listens(fds[0]):
            raise ValueError("not a socket that listens")
        listeners = {reader: (socket.socket(fileno=fds[0]), plain["key"])} if fds else {}
        return cls(plain, listeners, sends=role == SENDER)

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        if not (self._sends if role == SENDER else reader in self._listeners):
            raise errors.Busy(f"tcp: this end of the link at port {self._plain['port']} is given out already")
        files = self._plain["tls"]
        tls = None if files is None else TlsFiles(**files).context(server=role == RECEIVER)
        firsts = self._connect() if role == SENDER else []
        tcp, end = ffi.new("cwasi_tcp *[]", max(1, len(firsts))), ffi.new("cwasi_channel **")
        try:
            check(lib.cwasi_channel_open_tcp(role, self._plain["window"], len(tcp), tcp, end), "tcp: join")
        except BaseException:
            for first in firsts:
                if first is not None:
                    first.close()
            raise
        common = (self._plain["patience"], tls, function)
        if role == SENDER:
            self._sends = False
            host = self._plain["host"]
            self._start(
                [
                    SenderKeeper(one, bytes.fromhex(key), *common, (host, port), first)
                    for one, (port, key), first in zip(tcp, self._doors, firsts, strict=True)
                ]
            )
        else:
            listener, key = self._listeners.pop(reader)
            self._start([ReceiverKeeper(tcp[0], bytes.fromhex(key), *common, listener)])
        return end[0]

    @property
    def _doors(self) -> list[list[Any]]:
        """The port and the key of each receiver."""
        return [[self._plain["port"], self._plain["key"]], *self._plain["others"]]

    def _connect(self) -> list[socket.socket | None]:
        """To each receiver; None for one of several that is gone, of which the keeper learns it again."""
        host, found = self._plain["host"], list[socket.socket | None]()
        try:
            for port, _ in self._doors:
                try:
                    found.append(address.connect(host, port, self._plain["patience"]))
                except ConnectionRefusedError:
                    found.append(None)
            if not any(found):
                ports = ", ".join(f"{port}" for port, _ in self._doors)
                raise errors.TcpUnavailable(f"tcp: nobody listens at {host} port {ports}: the receiver is gone")
        except BaseException:
            for connection in found:
                if connection is not None:
                    connection.close()
            raise
        return found

    def _start(self, keepers: Sequence[Keeper]) -> None:
        """When all ends are here, they are connected before anybody can fork: a child has no keepers."""
        self._keepers += keepers
        for keeper in keepers:
            keeper.start()
        until = time.monotonic() + _JOIN_SECONDS
        while len(self._keepers) == 2 * len(self._doors) and time.monotonic() < until:
            if all(one.up.wait(0.01) for one in self._keepers) or not all(one.is_alive() for one in self._keepers):
                break

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        description = {"transport": self.transport.value, "role": role, "reader": reader, **self._plain}
        if role == SENDER:
            return description, []
        listener, key = self._listeners[reader]
        description |= {"port": listener.getsockname()[1], "key": key, "others": []}
        return description, [listener.fileno()]

    @property
    def why(self) -> str | None:
        """What is known of why the other side is gone."""
        return next((keeper.why for keeper in self._keepers if keeper.why), None)

    @property
    def network(self) -> Network | None:
        """What is between the sender, if it is here, and the first of its receivers."""
        return next((keeper.network() for keeper in list(self._keepers) if keeper.sends), None)

    @property
    def connected(self) -> bool:
        """Whether it ever was: from then on it is told when the other side is gone."""
        return any(keeper.up.is_set() for keeper in self._keepers)

    def connects(self, seconds: float) -> bool:
        """Waits until it is; whether it was in time, and has not been refused."""
        until = time.monotonic() + seconds
        return all(one.up.wait(max(0.0, until - time.monotonic())) and not one.ended for one in self._keepers)

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        end.peer_died(peer)

    def give_up(self) -> None:
        """Nobody comes any more: close need not wait for that."""
        for keeper in self._keepers:
            keeper.give_up()

    def close(self) -> None:
        """Waits until what was sent is received, or the other end gone; to be called when the ends are closed."""
        while self._listeners:
            self._listeners.popitem()[1][0].close()
        while self._keepers:
            self._keepers.pop().join(_JOIN_SECONDS)


def _honest(plain: dict[str, Any]) -> bool:
    """Whether it is what a link exports, as far as we use it before we know our peer. Raises ValueError."""
    match plain:
        case {"host": str(), "window": int(), "patience": int() | float() as seconds, "others": list(others)}:
            doors = [[plain["port"], plain["key"]], *others]
            return seconds > 0 and len(doors) <= READERS_MAX and all(map(_honest_door, doors))
    return False


def _honest_door(door: object) -> bool:
    match door:
        case [int(), str(key)]:
            return len(bytes.fromhex(key)) == handshake.KEY_BYTES
    return False
