"""What a user names as a transport: ring, pipe, tcp, tcp://HOST:PORT, or the URL of a Redis server."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import BadSpec
from ..modes import Transport
from . import Link, create
from .redis_client import SCHEMES

if TYPE_CHECKING:
    from .tls import TlsFiles

_REDIS = tuple(f"{scheme}://" for scheme in SCHEMES)


def transport_of(target: str) -> Transport:
    """Which one is meant. Raises BadSpec."""
    if target.startswith(_REDIS):
        return Transport.REDIS
    if target.startswith("tcp://"):
        return Transport.TCP
    if target in (Transport.RING, Transport.PIPE, Transport.TCP):
        return Transport(target)
    raise BadSpec(f"transport {target!r} is unknown: use ring, pipe, tcp or a URL like unix:///run/redis/redis.sock")


def link_to(target: str, *, key: str, readers: int = 1, tls: TlsFiles | None = None) -> Link:
    """Makes a new link. key: how its stream in a server is called. tls: for tcp.

    Raises BadSpec, and what create raises.
    """
    transport = transport_of(target)
    if transport is Transport.REDIS:
        return create(transport, readers=readers, redis=target, key=key)
    listen = host_and_port(target) if target.startswith("tcp://") else None
    return create(transport, readers=readers, listen=listen, tls=tls)


def host_and_port(url: str) -> tuple[str, int]:
    """Of tcp://HOST:PORT. Raises BadSpec."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadSpec(f"{url!r}: {error}") from error
    if not host or port is None or url not in (f"tcp://{parts.netloc}", f"tcp://{parts.netloc}/"):
        raise BadSpec(f"{url!r}: write tcp://HOST:PORT, where the receiver is to listen; port 0 takes any")
    return host, port
