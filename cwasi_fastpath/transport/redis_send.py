"""The sending pump: from the ring of the sender into the stream, several messages at once where several wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from queue import SimpleQueue
from typing import Any

from .. import errors
from ..receiver import Receiver
from .redis_client import Address, Behind
from .redis_pump import TICK, Pump
from .redis_stream import LAST, Fields, Id, Lost, Replaced, Stream

BACKLOG = 64 << 20
"""Bytes outstanding in the server at most, like the bound of a ring."""

SWITCHED = "switched:"
"""How the last entry begins of a sender that goes on by another transport; the epoch follows."""

_ALWAYS_TAKEN = 1 << 20
"""Bytes; no server can be told to take less."""

_ENTRY = 64
"""Bytes that a message counts beside its payload: it takes some in the server, also when it is empty."""

_BATCH_MESSAGES = 64
_BATCH_BYTES = 1 << 20
"""The most that is stored by one request, unless one message is longer."""

_PAUSES = (0.001, 0.016)
"""Seconds between two looks for room."""


class SendPump(Pump):
    """One sender's. It numbers the messages, and after a lost connection finds out which of them were stored."""

    def __init__(
        self, stream: Stream, source: Receiver, address: Address, function: str | None, failed: Callable[[str], None]
    ) -> None:
        super().__init__(stream, address, function, failed)
        self._source = source
        self._at = stream.open_sender()
        """The last id that is stored for certain."""
        self._sizes: deque[tuple[int, int]] = deque()
        """(number, bytes) of what is outstanding."""
        self._outstanding = 0
        self._count(self._at.seq, stream.size() if self._at.seq else 0)   # what a predecessor has left
        self._begin = self._at
        self._lost = False
        self._dead: SimpleQueue[int] = SimpleQueue()
        self._receivers = stream.readers
        self.ended = False
        """All that was sent is in the server, and the sender's end too."""

    @property
    def stored(self) -> int:
        """How many messages of this sender are in the server for certain."""
        return self._at.seq - self._begin.seq

    def lose(self, reader: int) -> None:
        """That receiver has died: the others go on."""
        self._dead.put(reader)

    def _bury(self) -> None:
        while not self._dead.empty():
            reader = self._dead.get()
            self._receivers -= 1
            if self._receivers == 0:
                self.peer_died.set()
            if not self._address.durable:
                self._patiently(partial(self._stream.leave, reader, tell=False))
        if self.peer_died.is_set():
            raise errors.PeerDied(f"{self._stream.key}: no receiver is left")

    def _move(self) -> None:
        ending: str | None = None
        while ending is None:
            batch, ending = self._collect()
            self._bury()
            if batch:
                self._wait_for_room(sum(_ENTRY + len(fields["data"]) for fields in batch))
                self._store(batch)
            self._refresh()
        self._end(ending)
        self._source.close()

    def _collect(self) -> tuple[list[Fields], str | None]:
        """The messages that wait, perhaps none; and how the sender ended, if it has."""
        batch: list[Fields] = []
        size, timeout = 0, TICK
        try:
            while len(batch) < _BATCH_MESSAGES:
                length, stamp = self._source.peek(timeout)
                if batch and size + length > _BATCH_BYTES:
                    break
                self._check_size(length)
                batch.append({"data": self._source.recv(), "stamp": stamp})
                size, timeout = size + length, 0
        except (errors.WouldWait, errors.Timeout):
            pass
        except errors.ChannelClosed:
            return batch, "finished"
        except errors.Moved as moved:
            return batch, f"{SWITCHED}{moved.epoch}"
        except errors.PeerDied:
            return batch, "failed"
        return batch, None

    def _check_size(self, length: int) -> None:
        if length > _ALWAYS_TAKEN and length > self._longest:
            raise errors.MessageTooLong(
                f"a message of {length:,} bytes is longer than the server takes; "
                f"raise its proto-max-bulk-len ({self._longest:,})"
            )

    @cached_property
    def _longest(self) -> int:
        found = self._patiently(lambda: self._stream.setting("proto-max-bulk-len"))
        return int(found) if found else 512 << 20   # some servers keep their settings to themselves

    def _store(self, batch: list[Fields]) -> None:
        """Until all of it is in the server, each message once."""

        def attempt() -> None:
            there = 0
            while there < len(batch) and not self._stream.add(self._after(there), batch[there:]):
                there = self._already_there(batch)
            if not self._stream.replicated(TICK):
                raise Behind("fewer replicas than replicas= asks for have the message")

        self._patiently(attempt)
        for fields in batch:
            self._at = self._after(1)
            self._count(self._at.seq, _ENTRY + len(fields.get("data", b"")))

    def _count(self, seq: int, size: int) -> None:
        self._sizes.append((seq, size))
        self._outstanding += size

    def _after(self, count: int) -> Id:
        """The id so many messages on."""
        return self._at._replace(seq=self._at.seq + count)

    def _already_there(self, messages: list[Fields]) -> int:
        """How many of them were stored by a request to which no answer has come. Raises what says why none were."""
        count = self._look().seq - self._at.seq
        if count > len(messages):
            raise Lost(f"{self._stream.key} has {count} messages under our ids, and we have sent {len(messages)}")
        for number, fields in self._stream.between(self._after(1), self._after(count)) if count else []:
            sent = messages[Id.parse(number).seq - self._at.seq - 1]
            if {name.encode(): _bytes(value) for name, value in sent.items()} != fields:
                raise Lost(f"{self._stream.key} has another message under the id {number.decode()}, which is ours")
        return count

    def _look(self) -> Id:
        """The last id in the server, which is ours. Raises ChannelClosed, Lost, Replaced."""
        newest = self._stream.newest()
        if newest == LAST:
            raise errors.ChannelClosed(f"{self._stream.key}: the receiver has left")
        if newest.epoch > self._at.epoch:
            raise Replaced(f"another sender has taken over {self._stream.key}")
        if newest < self._at:
            self._lost = True
            raise Lost(
                f"the server has lost what was sent: {self._stream.key} ends with {newest} where it had {self._at} "
                "(started again without appendfsync always, or a replica was promoted that was behind)"
            )
        return newest

    def _end(self, how: str) -> None:
        if how != "failed" or not self._address.durable:
            self._store([{"end": how}])
        self.ended = True

    def _wait_for_room(self, length: int) -> None:
        pause = _PAUSES[0]
        while self._outstanding and self._outstanding + length > BACKLOG:
            self._bury()
            self._patiently(self._forget_taken)
            if self._outstanding + length > BACKLOG:
                time.sleep(pause)
                pause = min(2 * pause, _PAUSES[1])

    def _forget_taken(self) -> None:
        first, receivers = self._stream.room()
        if not receivers:
            self._look()   # they have left
        while self._sizes and Id(self._at.epoch, self._sizes[0][0]) < first:
            self._outstanding -= self._sizes.popleft()[1]

    def _give_up(self) -> None:
        self._source.finish(failed=True)
        self._source.close()

    def _clean_up(self) -> None:
        if self._address.durable and not self._lost:
            return   # the next sender goes on
        if not self.ended and not self.peer_died.is_set() and self._tell_failure():
            return
        if not self.ended or self.peer_died.is_set():
            self._stream.delete()

    def _tell_failure(self) -> bool:
        """The receiver learns of it, and removes the stream; false where it has left before."""
        after = self._after(1) if self._lost else self._at   # what is missing shall be missed
        return self._stream.tell(after, {"end": "failed"})


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
