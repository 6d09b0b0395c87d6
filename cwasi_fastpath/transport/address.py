"""Sockets for the tcp transport: listening, connected, and how soon they notice that the other node is silent."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable

from ..errors import BadSpec, TcpUnavailable

_BACKLOG = 128
_KEEP_ALIVE_IDLE = 5
_KEEP_ALIVE_EVERY = 1


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address of this machine; port 0 takes any. Raises TcpUnavailable, BadSpec."""
    family, address = _resolved(host, port)
    if ipaddress.ip_address(address[0].partition("%")[0]).is_unspecified:
        raise BadSpec(f"tcp at {host}: give the address by which senders reach this machine, not all addresses")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise TcpUnavailable(
            f"tcp: cannot listen at {host} port {port}: {error.strerror}. "
            "Give an address of this machine and a free port, or port 0 for any"
        ) from error
    return listener


def listens(descriptor: int) -> bool:
    """Whether it is a socket to which senders connect."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            internet = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
            return internet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False


def connect(
    host: str, port: int, timeout: float, made: Callable[[socket.socket], object] | None = None
) -> socket.socket:
    """A connected socket. made: is told of it before.

    Raises TcpUnavailable; ConnectionRefusedError where the node is there, but nobody listens.
    """
    family, address = _resolved(host, port)
    connection = socket.socket(family, socket.SOCK_STREAM)
    if made is not None:
        made(connection)
    connection.settimeout(timeout)
    try:
        connection.connect(address)
    except OSError as error:
        connection.close()
        if isinstance(error, ConnectionRefusedError):
            raise
        raise TcpUnavailable(f"tcp: cannot connect to {host} port {port}: {error.strerror or error}") from error
    return connection


def tune(connection: socket.socket, silence: float) -> None:
    """silence: seconds without an answer of the other node, after which the connection counts as broken."""
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_USER_TIMEOUT, max(1, int(silence * 1000))),
        (socket.TCP_KEEPIDLE, min(_KEEP_ALIVE_IDLE, max(1, int(silence)))),
        (socket.TCP_KEEPINTVL, _KEEP_ALIVE_EVERY),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _resolved(host: str, port: int) -> tuple[int, tuple[str, int]]:
    if not 0 <= port < 1 << 16:
        raise BadSpec(f"tcp port {port}: ports are from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise TcpUnavailable(f"tcp: the host name {host!r} does not resolve: {error}") from error
    return family, address  # type: ignore[return-value]
