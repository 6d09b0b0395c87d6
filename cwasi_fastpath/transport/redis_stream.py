"""One stream in the server: what one sender sends, until all receivers have it.

Keys: one, `cwasi:{KEY}`; the braces keep whatever else may come beside it in the same slot of a cluster.

Entries have explicit ids `epoch-seq`. A sender that begins claims the stream: an epoch over all that were (the server's
clock, so that it rises also where a stream was deleted and made again) and a mark with the id `epoch-n`, n being the
last number in use. Its messages go on with n + 1, n + 2, ... So the server itself refuses doubles, and the messages of
a sender that was replaced, whose ids are too low from then on. The last entry of a sender says how it ended.

A receiver has a consumer group of its own, `reader.epoch`, with one consumer. Entries are pending until the receiver
has taken them. Who begins to receive makes a group that starts at the oldest pending entry of the group before, and
destroys that: what was pending comes first, and a receiver that was replaced can neither fetch nor acknowledge anything
any more, since its group is gone. All of that is done by scripts, each of which is one step for the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from .. import errors
from . import redis_scripts as scripts
from .redis_client import close

LEASE_MS = 3_600_000
"""How long a stream that is not durable outlives the last sign of life of either end."""

_CONSUMER = "one"

_SOME = 1000
"""Ids in one request; a script takes some 8,000."""

_SCRIPT_BYTES = 16 << 10
"""A longer message is added without a script."""


class Id(NamedTuple):
    """Of an entry."""

    epoch: int
    seq: int

    @classmethod
    def parse(cls, text: bytes) -> Id:
        epoch, _, seq = text.partition(b"-")
        return cls(int(epoch), int(seq))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


LAST = Id.parse(scripts.LAST_ID.encode())

Fields = dict[str, Any]
"""Of an entry that is to be added."""
Entry = tuple[bytes, dict[bytes, bytes]]
"""One that is there: its id and its fields."""


class Lost(errors.Corrupted):
    """The server, or somebody there, has lost or changed what was sent."""


class Replaced(errors.Busy):
    """Another sender, or another receiver, has taken our place."""


class Stream:
    """What the ends do with it. Raises what redis-py raises, and what is said at each."""

    def __init__(self, client: Any, name: str, *, readers: int = 1, durable: bool = False, replicas: int = 0) -> None:
        self.key = f"cwasi:{{{name}}}"
        self._client = client
        self.readers = readers
        self._lease = 0 if durable else LEASE_MS
        self._replicas = replicas
        self._held = getattr(client, "connection", None)
        """The only connection, where it is no cluster: it is not made again without an error before."""
        self._certain = False
        """Since the last error we know what the newest id is."""
        self.group = ""

    def close(self) -> None:
        close(self._client)

    def reconnect(self) -> None:
        """After an error. A connection that is held asks Sentinel for the master only when it is told to connect."""
        self._certain = False
        if self._held is not None:
            self._held.disconnect()
            self._held.connect()

    def _run(self, script: str, *arguments: Any) -> Any:
        return self._client.eval(script, 1, self.key, *arguments)

    # ---- sender ----

    def open_sender(self) -> Id:
        """Claims the stream; the id from which on we number, in our epoch."""
        return Id.parse(self._run(scripts.OPEN_SENDER, self.readers, self._lease))

    def add(self, after: Id, messages: Sequence[Fields]) -> bool:
        """Adds all of them, with the ids after that one, or none: false where that one is not the newest.

        Raises Lost where the stream is gone.
        """
        ids = [str(after._replace(seq=after.seq + 1 + number)) for number in range(len(messages))]
        if len(messages) == 1 and len(messages[0].get("data", b"")) > _SCRIPT_BYTES:
            return self._add_long(after, ids[0], messages[0])
        arguments: list[Any] = []
        for number, fields in zip(ids, messages, strict=True):
            words = [word for pair in fields.items() for word in pair]
            arguments += [number, len(words), *words]
        added = self._run(scripts.ADD, str(after), *arguments)
        if added < 0:
            raise self.gone()
        return bool(added)

    def tell(self, after: Id, fields: Fields) -> bool:
        """Adds this behind that id, whatever is there; false where the server refuses."""
        import redis

        try:
            number = str(after._replace(seq=after.seq + 1))
            return self._client.xadd(self.key, fields, id=number, nomkstream=True) is not None
        except redis.ResponseError:
            return False

    def _add_long(self, after: Id, number: str, fields: Fields) -> bool:
        """Not by a script, which would copy it once more. Whoever comes in between has a higher epoch."""
        import redis

        if not self._certain and self.newest() != after:
            return False
        self._certain = self._held is not None
        try:
            if self._client.xadd(self.key, fields, id=number, nomkstream=True) is None:
                raise self.gone()
        except redis.ResponseError as error:
            if "XADD" in str(error) or "last possible ID" in str(error):
                return False
            raise
        return True

    def replicated(self, seconds: float) -> bool:
        """Whether as many replicas as were asked for have all that was added, after so many seconds at most."""
        return not self._replicas or self._client.wait(self._replicas, int(1000 * seconds)) >= self._replicas

    def newest(self) -> Id:
        """The last id that the server has taken, also where the entry is not there any more. Raises Lost."""
        found = self._run(scripts.NEWEST)
        if not found:
            raise self.gone()
        return Id.parse(found)

    def between(self, first: Id, last: Id) -> list[Entry]:
        """The entries that are still there."""
        found: list[Entry] = self._client.xrange(self.key, str(first), str(last))
        return found

    def room(self) -> tuple[Id, int]:
        """The oldest id that is not taken by all, and how many receivers there are. Raises Lost."""
        reply = self._run(scripts.ROOM, self._lease)
        if not reply:
            raise self.gone()
        return Id.parse(reply[0]), int(reply[1])

    def size(self) -> int:
        """Bytes that it takes in the server."""
        return int(self._client.memory_usage(self.key, samples=0) or 0)

    def gone(self) -> Lost:
        """Why there is no stream."""
        return Lost(
            f"the server has lost what was sent: the stream {self.key} is gone. The server was started again and keeps "
            "nothing (appendonly no), or somebody has deleted the key"
        )

    # ---- receiver ----

    def open_reader(self, reader: int) -> tuple[Id, Id | None]:
        """Takes over as that receiver: the last id that was taken, and the oldest that was given out and not taken."""
        group, start, oldest = self._run(scripts.OPEN_READER, self.readers, self._lease, reader)
        self.group = group.decode()
        return Id.parse(start), Id.parse(oldest) if oldest else None

    def fetch(self, count: int, block_ms: int) -> list[Entry]:
        """New entries, which are pending from now on. Raises Lost, Replaced."""
        return self._read(">", count, block_ms)

    def pending(self, after: Id, count: int) -> list[Entry]:
        """Entries that were given to us before. Raises Lost, Replaced."""
        return self._read(str(after), count, None)

    def pending_ids(self) -> Iterator[list[bytes]]:
        """Of all that was given to us and not acknowledged, some at a time."""
        after = "-"
        while True:
            with self._as_ours():
                rows = self._client.xpending_range(self.key, self.group, after, "+", _SOME)
            if not rows:
                return
            ids = [_bytes(row["message_id"]) for row in rows]
            after = f"({ids[-1].decode()}"
            yield ids

    def _read(self, after: str, count: int, block_ms: int | None) -> list[Entry]:
        with self._as_ours():
            reply = self._client.xreadgroup(self.group, _CONSUMER, {self.key: after}, count=count, block=block_ms)
        if not reply:
            return []
        # RESP2 gives [[key, entries]], RESP3 {key: [entries]}.
        found: list[Entry] = reply[0][1] if isinstance(reply, list) else next(iter(reply.values()))[0]
        return found

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        """Raises Lost or Replaced where the group that is used inside is gone."""
        import redis

        try:
            yield
        except redis.ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED")) or "consumer group" in str(error):
                self._check_ours()
            raise

    def _check_ours(self) -> None:
        """Raises Lost where the stream is gone, Replaced where another receiver has our place."""
        if not self._client.exists(self.key):
            raise self.gone()
        rows = self._client.xinfo_groups(self.key)
        names = {_bytes(row["name"]).decode() for row in rows}
        if self.group in names:
            return
        reader = self.group.partition(".")[0]
        epochs = [int(name.partition(".")[2]) for name in names if name.partition(".")[0] == reader]
        if any(epoch > int(self.group.partition(".")[2]) for epoch in epochs):
            raise Replaced(f"another receiver has taken over {self.key}")
        raise Lost(f"the server has lost what was received from {self.key}: our group {self.group} is gone")

    def acknowledge(self, ids: Sequence[bytes]) -> None:
        """These were taken. Raises Lost, Replaced."""
        for start in range(0, len(ids), _SOME):
            if not self._run(scripts.ACKNOWLEDGE, self.group, self._lease, *ids[start : start + _SOME]):
                self._check_ours()

    def remove(self, last: bytes) -> None:
        """Removes the stream, if that entry is its last and every receiver has taken it."""
        self._run(scripts.REMOVE, last)

    def leave(self, reader: int, *, tell: bool) -> None:
        """That receiver will not come back. The last one removes the stream, and may tell a sender that goes on."""
        self._run(scripts.LEAVE, self._lease if tell else 0, reader)

    # ---- both ----

    def setting(self, name: str) -> str | None:
        """Of the server that has the stream; None where it does not tell."""
        import redis

        try:
            found = self._client.config_get(name, **self._where())
        except redis.ResponseError:
            return None
        value = found.get(name)
        return None if value is None else str(value)

    def info(self, section: str) -> dict[str, Any]:
        """Of the server that has the stream."""
        found: dict[str, Any] = self._client.info(section, **self._where())
        return found

    def _where(self) -> dict[str, Any]:
        """Which server of a cluster it is."""
        find = getattr(self._client, "get_node_from_key", None)
        return {} if find is None else {"target_nodes": find(self.key)}

    def refresh(self) -> None:
        """A sign of life."""
        if self._lease:
            self._client.pexpire(self.key, self._lease)

    def delete(self) -> None:
        self._client.delete(self.key)


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
