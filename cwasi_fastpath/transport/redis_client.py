"""The server behind a URL: one, a cluster, or what Sentinel names; never its password.

    redis://[user:password@]host:port/db     rediss:// with TLS     unix:///path
    redis+cluster://host:port,host:port      rediss+cluster:// with TLS
    redis+sentinel://host:port,host:port/service[/db]      rediss+sentinel:// with TLS

What stands behind `?` goes to redis-py (ssl_ca_certs=..., socket_timeout=...), except what Address has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from .. import errors

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")

_PATIENCE = {False: 5.0, True: 30.0}
"""Seconds; by whether the channel is durable."""

_START_SECONDS = 5.0
"""For each answer while a channel is opened: a server that is stopped shall not stop us."""

_SOCKET_SECONDS = 30.0
"""For each request later; a long message over a slow line takes its time."""

_SHORTEST_SECONDS = 0.5
"""The time-out of a request: some wait in the server on purpose, though not so long."""

_OLDEST = (6, 2)
"""The first server with XADD NOMKSTREAM and XTRIM MINID."""

_PASSING = (
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED",
)  # fmt: skip
"""What a server refuses now and may take later."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart."""

    url: str
    """For redis-py: without our own options."""
    durable: bool = False
    """`durable=1`: the stream has the channel's name and stays until it was read to its end."""
    replicas: int = 0
    """`replicas=n`: so many have a message before it counts as stored."""
    patience: float = _PATIENCE[False]
    """`patience=s`: seconds in which a server that went away may come back."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises BadSpec."""
        place, _, query = url.partition("?")
        options = parse_qsl(query, keep_blank_values=True)
        ours = {name: value for name, value in options if name in ("durable", "replicas", "patience")}
        rest = urlencode([option for option in options if option[0] not in ours])
        durable = _number(url, ours, "durable", 0.0) != 0
        replicas = int(_number(url, ours, "replicas", 0.0))
        if replicas and "+cluster:" in place:
            raise errors.BadSpec(f"{public(url)}: replicas= is for one server and for Sentinel, not for a cluster")
        patience = _number(url, ours, "patience", _PATIENCE[durable])
        if _number(url, dict(options), "socket_timeout", _SOCKET_SECONDS) < _SHORTEST_SECONDS:
            raise errors.BadSpec(f"{public(url)}: socket_timeout= is {_SHORTEST_SECONDS:g} s at least")
        return cls(f"{place}?{rest}" if rest else place, durable, replicas, patience)

    def __str__(self) -> str:
        return public(self.url)

    def client(self, seconds: float) -> Any:
        """A client that waits so long for each answer, unless the URL says otherwise, and that repeats nothing by
        itself: only we know what may be repeated. Raises what redis-py raises.
        """
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        common = {
            "socket_connect_timeout": _START_SECONDS,
            "socket_timeout": seconds,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
        }
        if "+cluster" in self.url.partition(":")[0]:
            return self._cluster(common)
        if "+sentinel" in self.url.partition(":")[0]:
            return self._by_sentinel(common)
        import redis

        # One connection without a pool: WAIT counts for what went before on the same one.
        return redis.Redis.from_url(self.url, **common).client()

    @staticmethod
    def _given(url: str) -> dict[str, Any]:
        """What the URL says about the connection."""
        from redis.connection import parse_url

        options: dict[str, Any] = parse_url(url)
        if options.pop("connection_class", None) is not None:
            options["ssl"] = True   # it is the class for TLS
        return options

    def _nodes(self) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
        """The hosts, what the URL says about connections to them, and its path."""
        parts = urlsplit(self.url)
        credentials, at, hosts = parts.netloc.rpartition("@")
        nodes = []
        for host in hosts.split(","):
            name, _, port = host.rpartition(":")
            if not name or not port.isdigit():
                raise ValueError(f"{host!r} is no host:port")
            nodes.append((name.strip("[]"), int(port)))
        scheme = parts.scheme.partition("+")[0]
        options = self._given(urlunsplit((scheme, f"{credentials}{at}{nodes[0][0]}", "", parts.query, "")))
        options.pop("host", None)
        return nodes, options, parts.path.strip("/")

    def _cluster(self, common: dict[str, Any]) -> Any:
        from redis.cluster import ClusterNode, RedisCluster

        nodes, options, _ = self._nodes()
        return RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], **{**common, **options})

    def _by_sentinel(self, common: dict[str, Any]) -> Any:
        from redis.sentinel import Sentinel

        nodes, options, path = self._nodes()
        service, _, database = path.partition("/")
        if not service:
            raise ValueError("the name of the service is missing behind the hosts: /service")
        watchers = {name: value for name, value in options.items() if name.startswith("ssl")}
        watchers |= {**common, "socket_timeout": _START_SECONDS, "password": options.pop("sentinel_password", None)}
        sentinel = Sentinel(nodes, sentinel_kwargs=watchers)
        master = sentinel.master_for(unquote(service), db=int(database or 0), **{**common, **options})
        return master.client()


class Behind(OSError):
    """Fewer replicas have a message than were asked for."""


def _number(url: str, options: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise errors.BadSpec(f"{public(url)}: {name}={options[name]!r} is no number from 0 on")
    return value


def public(text: str) -> str:
    """A URL, or a text with one in it, without the passwords that may be in it."""
    text = re.sub(r"//[^/@]*@", "//...@", text)
    return re.sub(r"(password=)[^&\s]*", r"\1...", text)


def connect(url: str) -> Any:
    """A client for `url`. Raises RedisUnavailable when nobody answers, or who cannot serve us; BadSpec."""
    address = Address.parse(url)
    with told(address):
        probe = address.client(_START_SECONDS)
        try:
            probe.ping()
            _check_version(probe)
        finally:
            close(probe)
        return address.client(_SOCKET_SECONDS)


def close(client: Any) -> None:
    """The client and its connection."""
    client.close()
    pool = getattr(client, "connection_pool", None)   # a cluster has closed those of its nodes
    if pool is not None:
        pool.disconnect()


def _check_version(client: Any) -> None:
    reply = client.info("server")
    # A cluster answers by node where several were asked.
    version = str(reply.get("redis_version") or next(iter(reply.values()))["redis_version"])
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise errors.RedisUnavailable(f"redis-server {version} is too old: 6.2 is the first that will do")


@contextmanager
def told(address: Address) -> Iterator[None]:
    """Raises RedisUnavailable, with the remedy, for what goes wrong inside."""
    import redis

    try:
        yield
    except (redis.RedisError, redis.exceptions.RedisClusterException, OSError, ValueError) as error:
        raise errors.RedisUnavailable(f"redis at {address} {describe(error)}") from error


def describe(error: Exception) -> str:
    """What has gone wrong with the server, and the remedy."""
    import redis

    text = public(_own_words(error)).rstrip(".")
    word = text.partition(" ")[0]
    if isinstance(error, redis.AuthenticationError) or word in ("NOAUTH", "WRONGPASS"):
        return f"wants another password: {text}. Give it in the URL: redis://user:password@host"
    if word == "WRONGTYPE":
        return f"has something else than a stream under our key: {text}. Delete it, or use another name or database"
    if word == "NOPERM" or isinstance(error, redis.exceptions.NoPermissionError):
        return f"does not permit it: {text}. The user needs @stream, @scripting, @keyspace, INFO and TIME on cwasi:*"
    if word == "OOM" or isinstance(error, redis.exceptions.OutOfMemoryError):
        return f"is full: {text}. Raise its maxmemory, or let the receivers read"
    if word == "READONLY" or isinstance(error, redis.ReadOnlyError):
        return f"is a replica, which takes no messages: {text}. Give the URL of the master, or of Sentinel"
    if isinstance(error, Behind):
        return f"is not followed as it should be: {text}"
    if isinstance(error, redis.ResponseError):
        return f"refuses: {text}"
    if not isinstance(error, redis.RedisError | redis.exceptions.RedisClusterException | OSError | ValueError):
        return f"gives us something that we do not understand: {error!r}"
    return (
        f"does not answer: {text}. Start redis-server (apt install redis-server) or give another URL "
        f"({', '.join(f'{scheme}://' for scheme in SCHEMES)})"
    )


def _own_words(error: Exception) -> str:
    """Without the request that redis-py puts in front, where it was one of several: it has a message in it."""
    return str(error).rpartition("of pipeline caused error: ")[2]


def passing(error: Exception) -> bool:
    """Whether it may work when it is tried again."""
    import redis

    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return False
    if isinstance(error, redis.ResponseError):
        kinds = (redis.ReadOnlyError, redis.exceptions.OutOfMemoryError, redis.exceptions.ClusterDownError)
        return isinstance(error, (*kinds, redis.exceptions.TryAgainError)) or _own_words(error).startswith(_PASSING)
    kinds_of_loss = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException, OSError)
    return isinstance(error, kinds_of_loss)
