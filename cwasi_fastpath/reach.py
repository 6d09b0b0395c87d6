"""TCP between two nodes whose processes met by name: that of the receiver listens where the other one reaches it, and
says so.

Where that is says CWASI_ADDRESS; without it, it is the address from which this node reaches the registry's server. What
a link exports goes through that server, with its key: who can read there can take the sender's place.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from . import errors
from . import transport as transports
from .endpoint import SENDER
from .modes import Transport
from .request import Body
from .transport import Link, address
from .transport.tcp import PATIENCE, WINDOW

ENVIRONMENT = "CWASI_ADDRESS"
"""The address of this machine, or its name, at which other nodes reach it."""

NOWHERE = f"the receiver's node has no address at which others reach it (set {ENVIRONMENT} there)"

_SECONDS = 2.0
"""For the other node to take a connection."""
_REDIS_PORT = 6379


def listening(server: str, host: str | None = None, port: int = 0) -> Link:
    """A link whose receiver is here. server: the registry's URL. host, port: where it listens, if that was said.

    Raises TcpUnavailable, BadSpec.
    """
    at = host or os.environ.get(ENVIRONMENT) or _towards(server)
    if at is None:
        raise errors.TcpUnavailable(f"tcp: {NOWHERE}")
    try:
        return transports.create(Transport.TCP, listen=(at, port))
    except (errors.TcpUnavailable, errors.BadSpec) as error:
        if host is None and ENVIRONMENT in os.environ:
            raise type(error)(f"{ENVIRONMENT}: {error}") from error
        raise


def listening_if_possible(server: str) -> Link | None:
    """None where nobody said where, and the server is on this node. Raises TcpUnavailable, BadSpec."""
    return listening(server) if os.environ.get(ENVIRONMENT) or _towards(server) else None


def described(link: Link) -> Body:
    """What the sender's process is to be told of it."""
    return link.export(SENDER)[0]


def reached(said: object, seconds: float | None = None) -> Link:
    """The sender's side of what the receiver's process said. seconds: that it may take.

    Raises TcpUnavailable where it cannot be reached, Corrupted.
    """
    match said:
        case {"host": str(host), "port": int(port), "key": str(key)} if _is_address(host) and 0 < port < 1 << 16:
            try:
                link = transports.join(
                    {"transport": "tcp", "role": SENDER, "reader": 0, "host": host, "port": port, "key": key,
                     "others": [], "window": WINDOW, "patience": PATIENCE, "tls": None}, []
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
