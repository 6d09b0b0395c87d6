"""TCP: between nodes, direct. The receiver listens, the sender connects; C end to end.

Each link has a connection of its own. What the receiver has not taken is kept by the sender, and sent again when the
connection was broken and made anew; see csrc/tcp.c and the keeper.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
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
from .tls import TlsFiles

WINDOW = 64 << 20
"""Bytes that a sender keeps at most until they are received; a longer message goes alone."""

LONGEST_WHOLE = WINDOW - 24
"""Bytes in a message that is in the window as a whole, behind its header."""

PATIENCE = 10.0
"""Seconds for which a broken connection may be made again."""

_JOIN_SECONDS = 10.0


class TcpLink:
    """A listening socket, and a key. Keeps the contract of cwasi_fastpath.transport."""

    transport = Transport.TCP
    longest_whole = LONGEST_WHOLE

    def __init__(self, plain: dict[str, Any], listener: socket.socket | None, roles: set[int]) -> None:
        """plain: where the receiver listens, the key and the bounds, to be passed on. roles: left to give out."""
        self._plain = plain
        self._listener = listener
        self._roles = roles
        self._keepers: list[Keeper] = []

    @classmethod
    def create(
        cls, host: str = "127.0.0.1", port: int = 0, *, window: int = WINDOW, patience: float = PATIENCE,
        tls: TlsFiles | None = None,
    ) -> Self:  # fmt: skip
        """host, port: where the receiver listens; port 0 takes any. Raises TcpUnavailable, BadSpec."""
        if not 1 << 20 <= window <= 1 << 30:
            raise errors.BadSpec(f"a window of {window} bytes: use 1 MiB to 1 GiB")
        if not patience > 0:
            raise errors.BadSpec(f"a patience of {patience} s: use a time above 0")
        if tls is not None:
            tls.context(server=True)   # what is wrong with the files is said now
        listener = address.listen(host, port)
        plain = {
            "host": listener.getsockname()[0],
            "port": listener.getsockname()[1],
            "key": secrets.token_hex(handshake.KEY_BYTES),
            "window": window,
            "patience": patience,
            "tls": None if tls is None else asdict(tls),
        }
        return cls(plain, listener, {SENDER, RECEIVER})

    @classmethod
    def joined(cls, description: dict[str, Any], fds: list[int]) -> Self:
        """One end that another process passed on."""
        plain = {name: description[name] for name in ("host", "port", "key", "window", "patience", "tls")}
        role = description["role"]
        if not _honest(plain) or role not in (SENDER, RECEIVER) or len(fds) > (role == RECEIVER):
            raise ValueError("not what a tcp link exports")
        return cls(plain, socket.socket(fileno=fds[0]) if fds else None, {role})

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        if role not in self._roles:
            raise errors.Busy(f"tcp: this end of the link at port {self._plain['port']} is given out already")
        files = self._plain["tls"]
        tls = None if files is None else TlsFiles(**files).context(server=role == RECEIVER)
        first = self._connect() if role == SENDER else None
        tcp, end = ffi.new("cwasi_tcp **"), ffi.new("cwasi_channel **")
        try:
            check(lib.cwasi_channel_open_tcp(role, self._plain["window"], tcp, end), "tcp: join")
        except BaseException:
            if first is not None:
                first.close()
            raise
        self._roles.discard(role)
        self._start(self._keeper(tcp[0], first, tls, function))
        return end[0]

    def _connect(self) -> socket.socket:
        host, port = self._plain["host"], self._plain["port"]
        try:
            return address.connect(host, port, self._plain["patience"])
        except ConnectionRefusedError as error:
            raise errors.TcpUnavailable(f"tcp: nobody listens at {host} port {port}: the receiver is gone") from error

    def _keeper(
        self, tcp: Any, first: socket.socket | None, tls: ssl.SSLContext | None, function: str | None
    ) -> Keeper:
        common = (tcp, bytes.fromhex(self._plain["key"]), self._plain["patience"], tls, function)
        if first is not None:
            return SenderKeeper(*common, (self._plain["host"], self._plain["port"]), first)
        listener, self._listener = self._listener, None
        assert listener is not None   # as long as the receiver's role is left
        return ReceiverKeeper(*common, listener)

    def _start(self, keeper: Keeper) -> None:
        """Both ends here are connected before anybody can fork: a child has no keepers."""
        self._keepers.append(keeper)
        keeper.start()
        until = time.monotonic() + _JOIN_SECONDS
        while len(self._keepers) == 2 and time.monotonic() < until:
            if all(one.up.wait(0.01) for one in self._keepers) or not all(one.is_alive() for one in self._keepers):
                break

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        description = {"transport": self.transport.value, "role": role, **self._plain}
        return description, [self._listener.fileno()] if role == RECEIVER and self._listener is not None else []

    @property
    def connected(self) -> bool:
        """Whether it ever was: from then on it is told when the other side is gone."""
        return any(keeper.up.is_set() for keeper in self._keepers)

    def connects(self, seconds: float) -> bool:
        """Waits until it is; whether it was in time, and has not been refused."""
        until = time.monotonic() + seconds
        return all(one.up.wait(max(0.0, until - time.monotonic())) and not one.ended for one in self._keepers)

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        end.peer_died()

    def give_up(self) -> None:
        """Nobody comes any more: close need not wait for that."""
        for keeper in self._keepers:
            keeper.give_up()

    def close(self) -> None:
        """Waits until what was sent is received, or the other end gone; to be called when the ends are closed."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        while self._keepers:
            self._keepers.pop().join(_JOIN_SECONDS)


def _honest(plain: dict[str, Any]) -> bool:
    """Whether it is what a link exports, as far as we use it before we know our peer. Raises ValueError."""
    match plain:
        case {"host": str(), "port": int(), "key": str(key), "window": int(), "patience": int() | float() as seconds}:
            return len(bytes.fromhex(key)) == handshake.KEY_BYTES and seconds > 0
    return False
