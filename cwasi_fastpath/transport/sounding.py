"""Sounds the network to another node, by a connection without messages that an echo there answers (see echo).

    echo -> us   hello             us -> echo   answer          echo -> us   proof       as between the ends of a link
    us -> echo   BYTES bytes       echo -> us   a byte, when all are there

Nothing goes this way that anybody might want to read, so it is not encrypted. What the other side sends is read as far
as it must be, and no longer than a sounding may take.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import replace
from math import inf
from typing import NamedTuple
from weakref import WeakSet

from ..errors import Corrupted
from ..policy.sounding import BYTES, SECONDS, gives
from . import handshake
from .address import connect
from .tcp_info import Network, network_of

_AT_ONCE = struct.pack("ii", 1, 0)
"""For SO_LINGER: what is still to be sent is dropped when the socket is closed."""


_under_way: WeakSet[socket.socket] = WeakSet()
"""Connections that a forked child has, too, and not the thread that closes them."""


class Place(NamedTuple):
    """Where an echo listens, and the key by which it knows us."""

    host: str
    port: int
    key: bytes


def sound(place: Place, patience: float = inf) -> Network:
    """What is between here and there. patience: seconds for the other side to greet us.

    Raises OSError, TcpUnavailable, Corrupted where nobody honest answers.
    """
    begin = time.monotonic()
    until, patience = begin + SECONDS, min(SECONDS, patience)
    with connect(place.host, place.port, patience, _under_way.add) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answered = _greeted(connection, place, begin + patience)
        found = network_of(connection)
        if found is None or found.rtt_ns is None:
            raise OSError("the kernel does not tell how long there and back takes")
        begin = time.monotonic()
        try:
            connection.settimeout(_left(until))
            connection.sendall(bytes(BYTES))
            _read(connection, 1, until)
        except TimeoutError:
            pass   # which says enough
        return replace(found, bytes_per_second=gives(time.monotonic() - begin, answered, found.rtt_ns / 1e9))


def _greeted(connection: socket.socket, place: Place, until: float) -> float:
    """Seconds for a few bytes, until the other side has answered them."""
    hello = _read(connection, handshake.HELLO_BYTES, until)
    answer = handshake.answer(place.key, hello)
    if answer is None:
        raise Corrupted(f"{place.host} port {place.port}: who listens there is no echo")
    begin = time.monotonic()
    connection.sendall(answer)
    proof = _read(connection, handshake.PROOF_BYTES, until)
    if not handshake.proven(place.key, hello, answer, proof):
        raise Corrupted(f"{place.host} port {place.port}: who listens there is not the other node's echo")
    return time.monotonic() - begin


def _read(connection: socket.socket, count: int, until: float) -> bytes:
    got = b""
    while len(got) < count:
        connection.settimeout(_left(until))
        more = connection.recv(count - len(got))
        if not more:
            raise ConnectionResetError("it hung up")
        got += more
    return got


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left


def _after_fork_in_child() -> None:
    for connection in list(_under_way):
        connection.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
