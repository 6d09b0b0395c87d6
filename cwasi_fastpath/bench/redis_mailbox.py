"""The two ways in which Redis passes messages: a list, and a stream. redis-py with hiredis, as it comes or tuned."""

from __future__ import annotations

from typing import Any, Protocol

import redis
from redis.connection import PythonRespSerializer

from .. import errors
from .case import Path

PATIENCE_SECONDS = 60.0
"""How long a receiver waits before it takes its peer for dead."""

BATCH = 16
"""Messages in one request at most, where they may queue."""

_LARGE = 128 << 10
_CUTOFF = 6000   # redis-py's own: what is longer is passed to the socket uncopied


class Mailbox(Protocol):
    """One direction of messages."""

    def send(self, payload: bytes | memoryview) -> None:
        """Sends a message of which only one is under way at a time."""

    def receive(self) -> bytes:
        """Waits for the message that send() sent."""

    def put(self, payloads: list[bytes | memoryview]) -> int:
        """Sends messages behind others, in one request; how many are waiting now."""

    def take(self) -> list[bytes]:
        """Waits for messages that put() sent; all that are there, up to a batch."""


def connect(url: str, size: int, tuned: bool) -> Any:
    """A warm client; a tuned one is as fast as redis-py can be for messages of `size`. Raises RedisUnavailable."""
    if not tuned:
        client: Any = redis.Redis.from_url(url, socket_timeout=2 * PATIENCE_SECONDS)
        client.ping()
        _require_hiredis(client.connection_pool.make_connection())
        return client
    # One connection without a pool saves a third of the latency of small messages. hiredis's own packer copies a
    # payload into memory fresh from the kernel, which for large ones takes longer than all the rest.
    packer = PythonRespSerializer(_CUTOFF, redis.Redis().get_encoder().encode) if size >= _LARGE else None
    client = redis.Redis.from_url(
        url, single_connection_client=True, socket_timeout=2 * PATIENCE_SECONDS, command_packer=packer
    )
    client.ping()
    _require_hiredis(client.connection)
    return client


def _require_hiredis(connection: Any) -> None:
    parser = type(connection._parser).__name__
    if "Hiredis" not in parser:
        raise errors.RedisUnavailable(f"redis-py uses {parser}, not hiredis. Remedy: pip install hiredis")


class ListMailbox:
    """RPUSH and BLPOP; BLMPOP for batches."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key

    def send(self, payload: bytes | memoryview) -> None:
        self._client.rpush(self._key, payload)

    def receive(self) -> bytes:
        found = self._client.blpop([self._key], PATIENCE_SECONDS)
        if found is None:
            raise errors.Timeout(f"{self._key}: the peer sent nothing")
        message: bytes = found[1]
        return message

    def put(self, payloads: list[bytes | memoryview]) -> int:
        waiting: int = self._client.rpush(self._key, *payloads)
        return waiting

    def take(self) -> list[bytes]:
        found = self._client.blmpop(PATIENCE_SECONDS, 1, self._key, direction="LEFT", count=BATCH)
        if found is None:
            raise errors.Timeout(f"{self._key}: the peer sent nothing")
        messages: list[bytes] = found[1]
        return messages


class StreamMailbox:
    """XADD and XREAD. What was read is trimmed in passing: by the next message, or with the next read."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key
        self._last = b"0-0"

    def send(self, payload: bytes | memoryview) -> None:
        self._client.xadd(self._key, {b"m": payload}, maxlen=1, approximate=False)

    def receive(self) -> bytes:
        return self._read(self._client.xread({self._key: self._last}, count=1, block=int(PATIENCE_SECONDS * 1000)))[0]

    def put(self, payloads: list[bytes | memoryview]) -> int:
        pipeline = self._client.pipeline(transaction=False)
        for payload in payloads:
            pipeline.xadd(self._key, {b"m": payload})
        pipeline.xlen(self._key)
        waiting: int = pipeline.execute()[-1]
        return waiting

    def take(self) -> list[bytes]:
        pipeline = self._client.pipeline(transaction=False)
        # Up to the last one that was read: a stream keeps its newest entry only where MAXLEN says so.
        pipeline.xtrim(self._key, minid=self._after_last(), approximate=False)
        pipeline.xread({self._key: self._last}, count=BATCH, block=int(PATIENCE_SECONDS * 1000))
        return self._read(pipeline.execute()[1])

    def _after_last(self) -> bytes:
        milliseconds, _, sequence = self._last.partition(b"-")
        return b"%s-%d" % (milliseconds, int(sequence) + 1)

    def _read(self, found: Any) -> list[bytes]:
        if not found:
            raise errors.Timeout(f"{self._key}: the peer sent nothing")
        # RESP2 gives [[key, entries]], RESP3 {key: [entries]}.
        entries = found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]
        self._last = entries[-1][0]
        return [fields[b"m"] for _, fields in entries]


def open_mailbox(path: Path, client: Any, key: str) -> Mailbox:
    """A mailbox of the kind that `path` names."""
    return (ListMailbox if path in (Path.LIST, Path.TUNED_LIST) else StreamMailbox)(client, key)
