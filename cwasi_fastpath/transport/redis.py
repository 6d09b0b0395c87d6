"""Redis Streams, pumped: the guest's end is a ring, and one thread drives redis-py (with hiredis).

Each message is one entry with the explicit id `1-<seq>`, so the server itself refuses doubles. The receiver deletes
what it has handed on; a sender waits while more than BACKLOG bytes are outstanding. An entry without payload ends the
stream: `finished` or `failed`. A receiver that leaves before that puts an entry with the last possible id, so that the
server refuses what the sender adds. The last of the two removes the stream. Nothing here is durable: what the server
loses, the receiver reports as PeerDied.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any

from .. import attribution, errors
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..modes import Transport
from ..receiver import Receiver
from ..sender import Sender
from .ring import LONGEST_WHOLE, RingLink

BACKLOG = 64 << 20
"""Bytes outstanding in the server at most, like the bound of a ring."""

_BLOCK_MS = 200
_JOIN_SECONDS = 10.0
_POLL_SECONDS = 0.001
_ALWAYS_TAKEN = 1 << 20
"""Bytes; no server can be told to take less."""

_LAST_ID = f"{2**64 - 1}-{2**64 - 1}"

_log = logging.getLogger(__name__)


def connect(url: str) -> Any:
    """A client for `url` (redis://, rediss://, unix://). Raises RedisUnavailable when nobody answers."""
    import redis

    try:
        client = redis.Redis.from_url(url)
        client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise errors.RedisUnavailable(
            f"redis at {_public(url)} does not answer: {error}. "
            "Start redis-server (apt install redis-server) or give another URL"
        ) from error
    return client


def _public(url: str) -> str:
    """The URL without the password that may be in it."""
    return re.sub(r"//[^/]*@", "//...@", url)


class RedisLink:
    """A stream `key` in the server at `url`. Keeps the contract of cwasi_fastpath.transport."""

    transport = Transport.REDIS
    longest_whole = LONGEST_WHOLE

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = f"cwasi:{key}"
        self._pumps: list[_Pump] = []
        self._opened: set[int] = set()

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        if role in self._opened:
            raise errors.Busy(f"{self._key}: this end was given out before; each end is one's own")
        client = connect(self._url)
        ring = RingLink.create()
        try:
            end = ring.open(role)
            if role == SENDER:
                pump: _Pump = _SendPump(client, self._key, Receiver(ring.open(RECEIVER), "pump"), function)
            else:
                pump = _ReceivePump(client, self._key, Sender(ring.open(SENDER), "pump"), function)
        finally:
            ring.close()
        self._opened.add(role)
        self._pumps.append(pump)
        pump.start()
        return end

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        return {"transport": self.transport.value, "url": self._url, "key": self._key.removeprefix("cwasi:")}, []

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        """What the dead sender left in the server is still delivered."""
        for pump in self._pumps:
            pump.peer_died.set()
        if end.role == SENDER:
            end.peer_died()

    def close(self) -> None:
        """Waits until what was sent is in the server; to be called when the ends are closed."""
        while self._pumps:
            pump = self._pumps.pop()
            pump.closing.set()
            pump.join(_JOIN_SECONDS)


class _Pump(threading.Thread):
    """Moves messages between a ring and the server until either side ends."""

    def __init__(self, client: Any, key: str, function: str | None) -> None:
        super().__init__(name=f"redis {key}", daemon=True)
        self._function = function
        self._client = client
        self._key = key
        self.closing = threading.Event()
        self.peer_died = threading.Event()

    def run(self) -> None:
        import redis

        # The pump works for one function: what it costs is charged to that.
        charged = attribution.function(self._function) if self._function else nullcontext()
        try:
            with charged:
                self._move()
        except (errors.ChannelError, redis.RedisError, OSError) as error:
            # That an end has left is no news.
            if not isinstance(error, errors.ChannelClosed | errors.PeerDied):
                _log.warning("channel %s: %s", self._key, error)
            self._give_up()
        finally:
            with suppress(redis.RedisError, OSError):
                self._clean_up()
            self._client.close()

    def _move(self) -> None:
        raise NotImplementedError

    def _give_up(self) -> None:
        """Tells the end in this process."""
        raise NotImplementedError

    def _clean_up(self) -> None:
        """Leaves the server in order, as far as it answers."""
        raise NotImplementedError


class _SendPump(_Pump):
    def __init__(self, client: Any, key: str, source: Receiver, function: str | None) -> None:
        super().__init__(client, key, function)
        self._source = source
        self._seq = 0
        self._sizes: dict[int, int] = {}
        self._outstanding = 0
        self._ended = False

    def _move(self) -> None:
        while True:
            try:
                _, stamp = self._source.peek()
                data = self._source.recv()
            except (errors.ChannelClosed, errors.PeerDied) as end:
                self._end("finished" if isinstance(end, errors.ChannelClosed) else "failed")
                break
            self._check_size(len(data))
            self._wait_for_room(len(data))
            self._add({"data": data, "stamp": stamp})
            self._sizes[self._seq] = len(data)
            self._outstanding += len(data)
        self._source.close()

    def _add(self, fields: dict[str, Any]) -> None:
        import redis

        try:
            self._client.xadd(self._key, fields, id=f"1-{self._seq + 1}")
        except redis.ResponseError as error:
            if self._client.xrange(self._key, _LAST_ID, _LAST_ID):
                raise errors.ChannelClosed(f"{self._key}: the receiver has left") from error
            raise
        self._seq += 1

    def _check_size(self, length: int) -> None:
        if length > _ALWAYS_TAKEN and length > self._longest:
            raise errors.MessageTooLong(
                f"a message of {length:,} bytes is longer than the server takes; "
                f"raise its proto-max-bulk-len ({self._longest:,})"
            )

    @cached_property
    def _longest(self) -> int:
        import redis

        try:
            return int(self._client.config_get("proto-max-bulk-len")["proto-max-bulk-len"])
        except (redis.ResponseError, KeyError):   # some servers keep their settings to themselves
            return 512 << 20

    def _end(self, how: str) -> None:
        self._add({"end": how})
        self._ended = True

    def _wait_for_room(self, length: int) -> None:
        while self._outstanding and self._outstanding + length > BACKLOG:
            self._forget_consumed()
            if self.peer_died.is_set():
                raise errors.PeerDied(f"{self._key}: the receiver is gone")
            if self._outstanding + length > BACKLOG:
                time.sleep(_POLL_SECONDS)

    def _forget_consumed(self) -> None:
        oldest = self._client.xrange(self._key, count=1)
        first = int(oldest[0][0].partition(b"-")[2]) if oldest else max(self._sizes) + 1
        for seq in [seq for seq in self._sizes if seq < first]:
            self._outstanding -= self._sizes.pop(seq)

    def _give_up(self) -> None:
        self._source.finish(failed=True)
        self._source.close()

    def _clean_up(self) -> None:
        if not self._ended and not self.peer_died.is_set():
            with suppress(errors.ChannelClosed):
                self._end("failed")
        if not self._ended or self.peer_died.is_set():
            self._client.delete(self._key)


class _ReceivePump(_Pump):
    def __init__(self, client: Any, key: str, target: Sender, function: str | None) -> None:
        super().__init__(client, key, function)
        self._target = target
        self._ended = False

    def _move(self) -> None:
        last = b"0-0"
        while True:
            entries = self._client.xread({self._key: last}, count=16, block=_BLOCK_MS)
            if not entries:
                if self.closing.is_set() or self.peer_died.is_set():
                    self._give_up()
                    return
                continue
            # RESP2 gives [[key, entries]], RESP3 {key: [entries]}.
            batch = entries[0][1] if isinstance(entries, list) else next(iter(entries.values()))[0]
            for _, fields in batch:
                if b"end" in fields:
                    self._ended = True
                    self._target.finish(failed=fields[b"end"] != b"finished")
                    self._target.close()
                    return
                self._target.forward(fields[b"data"], int(fields[b"stamp"]))
            last = batch[-1][0]
            self._client.xdel(self._key, *(entry for entry, _ in batch))

    def _give_up(self) -> None:
        self._target.finish(failed=True)
        self._target.close()

    def _clean_up(self) -> None:
        if self._ended or self.peer_died.is_set():
            self._client.delete(self._key)
        else:
            self._client.transaction(self._leave, self._key)

    def _leave(self, pipeline: Any) -> None:
        newest = pipeline.xrevrange(self._key, count=1)
        pipeline.multi()
        pipeline.delete(self._key)
        if not newest or b"end" not in newest[0][1]:
            pipeline.xadd(self._key, {"left": 1}, id=_LAST_ID)
