"""What two nodes reach whose processes met by name: each other by TCP, and a Redis server that is the same for both.

By TCP the process of the receiver listens, and says where. That says CWASI_ADDRESS; without it, it is the address from
which this node reaches the registry's server. What a link exports goes through that server, with its key: who can read
there can take the sender's place.

A URL may mean one server here and another one there. So the sender leaves a mark in the one that it means.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from . import errors
from . import transport as transports
from ._native import lib
from .endpoint import SENDER
from .request import Body
from .transport import Link, address
from .transport.echo import echo_at
from .transport.handshake import KEY_BYTES
from .transport.redis_client import Address, close, connect, public, told
from .transport.sounding import Place
from .transport.tcp import PATIENCE, WINDOW, TcpLink
from .transport.tls import TlsFiles

ENVIRONMENT = "CWASI_ADDRESS"
"""The address of this machine, or its name, at which other nodes reach it."""
TLS = "CWASI_TLS"
"""Three files, with colons between them, as TlsFiles has them: then nothing goes between nodes by TCP without TLS,
but for soundings, which carry nothing."""

NOWHERE = f"the receiver's node has no address at which others reach it (set {ENVIRONMENT} there)"

_SECONDS = 2.0
"""For the other node to take a connection."""
_PATIENCE = 10.0
"""Seconds for it to greet us."""
_REDIS_PORT = 6379
_MARK_SECONDS = 60.0
"""For a receiver to look for a mark: as long as a switch may take that another process asked for."""
_LOOKED_SECONDS = 5.0
"""For which it stays, once it has."""


def listening(server: str, host: str | None = None, port: int = 0) -> Link:
    """A link whose receiver is here. server: the registry's URL. host, port: where it listens, if that was said.

    Raises TcpUnavailable, BadSpec.
    """
    at = host or _at(server)
    try:
        return TcpLink.create(at, port, tls=_files())
    except errors.TcpUnavailable as error:
        if host is None and os.environ.get(ENVIRONMENT):
            raise errors.TcpUnavailable(f"{ENVIRONMENT}: {error}") from error
        raise


def _at(server: str) -> str:
    found = os.environ.get(ENVIRONMENT) or _towards(server)
    if found is None:
        raise errors.TcpUnavailable(f"tcp: {NOWHERE}")
    return found


def listening_if_possible(server: str) -> Link | None:
    """None where nobody said where, and there is no such address. Raises TcpUnavailable for what was said, BadSpec."""
    try:
        return listening(server)
    except errors.TcpUnavailable:
        if os.environ.get(ENVIRONMENT):
            raise
        return None


def described(link: Link) -> Body:
    """What the sender's process is to be told of it. It has files of its own."""
    description = link.export(SENDER)[0]
    return {**description, "tls": description["tls"] is not None}


def reached(said: object, seconds: float | None = None) -> Link:
    """The sender's side of what the receiver's process said. seconds: that it may take.

    Raises TcpUnavailable where it cannot be reached, or only one side wants TLS, Corrupted, BadSpec.
    """
    files = _files()
    match said:
        case {"tls": bool(tls)} if tls != (files is not None):
            raise errors.TcpUnavailable(f"tcp: only one of the two nodes wants TLS: set {TLS} on both, or on neither")
        case {"host": str(host), "port": int(port), "key": str(key)} if _is_address(host) and 0 < port < 1 << 16:
            plain = None if files is None else asdict(files)
            try:
                link = transports.join(
                    {"transport": "tcp", "role": SENDER, "reader": 0, "host": host, "port": port, "key": key,
                     "others": [], "window": WINDOW, "patience": PATIENCE, "tls": plain}, []
                )  # fmt: skip
            except (LookupError, TypeError, ValueError) as error:
                raise _dishonest() from error
        case _:
            raise _dishonest()
    try:
        address.connect(host, port, max(0.01, min(_SECONDS, _SECONDS if seconds is None else seconds))).close()
    except (OSError, errors.TcpUnavailable) as error:
        link.close()
        if isinstance(error, errors.TcpUnavailable):
            raise
        raise errors.TcpUnavailable(f"tcp: nobody listens at {host} port {port}") from error
    return link


def echo(server: str) -> Body:
    """Where this node echoes, for another one that sounds the network. Raises TcpUnavailable, BadSpec."""
    place = echo_at(_at(server))
    return {"host": place.host, "port": place.port, "key": place.key.hex()}


def echo_of(said: object) -> Place:
    """Where the other one does. Raises Corrupted."""
    match said:
        case {"host": str(host), "port": int(port), "key": str(key)} if (
            _is_far(host) and not isinstance(port, bool) and 0 < port < 1 << 16 and len(key) == 2 * KEY_BYTES
        ):
            with suppress(ValueError):
                place = Place(str(ipaddress.ip_address(host)), port, bytes.fromhex(key))
                if len(place.key) == KEY_BYTES:   # it may have had blanks
                    return place
    raise _dishonest()


def _is_far(host: str) -> bool:
    """Whether another node may have that address, and have it alone: we connect to it because a peer says so."""
    try:
        at = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (at.is_loopback or at.is_link_local or at.is_multicast or at.is_unspecified or at.is_reserved)


# ---- redis ----


def marked(description: Body) -> Body:
    """What a link to a server exports, with a mark that it has there for some seconds. Raises RedisUnavailable."""
    mark = secrets.token_hex(16)
    with _client(description["url"]) as client:
        client.set(_key(mark), b"", px=int(_MARK_SECONDS * 1000))
    return {**description, "mark": mark}


def check_mark(description: Body) -> None:
    """Raises NoTransport where our server has no such mark, RedisUnavailable, BadSpec."""
    url, mark = str(description.get("url")), str(description.get("mark"))
    with _client(url) as client:
        if not client.pexpire(_key(mark), int(_LOOKED_SECONDS * 1000)):
            raise errors.NoTransport(
                f"redis at {public(url)} is another server for the receiver than for the sender: give a URL that means "
                "the same one on both nodes"
            )


def _key(mark: str) -> str:
    return f"cwasi:registry:mark:{mark}"


@contextmanager
def _client(url: str) -> Iterator[Any]:
    where = Address.parse(url)
    client = connect(url)
    try:
        with told(where):
            yield client
    finally:
        close(client)


def opened(link: Link, seconds: float | None) -> Any:
    """The sender's end, when it is connected: so nothing is sent to whom TLS or the key refuses.

    Raises TcpUnavailable where that takes longer, and what open raises.
    """
    pointer = link.open(SENDER)
    if isinstance(link, TcpLink) and not link.connects(_PATIENCE if seconds is None else min(_PATIENCE, seconds)):
        lib.cwasi_channel_free(pointer)
        raise errors.TcpUnavailable("tcp: who listens there is not the receiver, or does not trust us")
    return pointer


def _files() -> TlsFiles | None:
    told = os.environ.get(TLS)
    if not told:
        return None
    names = told.split(":")
    if len(names) != 3:
        raise errors.BadSpec(f"{TLS}={told}: give three files, AUTHORITY:CERTIFICATE:KEY")
    return TlsFiles(*names)


def _dishonest() -> errors.Corrupted:
    return errors.Corrupted("the process that holds the receiver did not say where it listens, as an honest one does")


def _is_address(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _towards(url: str) -> str | None:
    """From which address we reach that server; None where it is on this node, or cannot be reached."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            return None
        family, _, _, _, target = socket.getaddrinfo(
            parts.hostname, parts.port or _REDIS_PORT, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)   # sends nothing
            found: str = probe.getsockname()[0]
    except (OSError, ValueError):
        return None
    return None if "%" in found or ipaddress.ip_address(found).is_loopback else found
