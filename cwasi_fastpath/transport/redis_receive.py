"""The receiving pump: from the stream into the ring of the receiver, acknowledging what was taken from there."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from .. import errors
from ..sender import Sender
from .redis_client import Address
from .redis_pump import TICK, Pump
from .redis_send import SWITCHED
from .redis_stream import Entry, Id, Lost, Stream
from .ring import LONGEST_WHOLE

_COUNT = 16
"""Entries in one request."""

_BLOCK_MS = 200
_POLLS_MS = (1, 64)
"""How long the server waits for a new entry, at first and at last, while some are not acknowledged."""

_LONG_SECONDS = 1.0
"""How long a message that does not fit into the ring waits for those before it."""

_POLLS = (0.0005, 0.02)
"""The same in seconds, where no new entry is wanted."""


class ReceivePump(Pump):
    """One receiver's. A message is acknowledged when recv has taken it from the ring."""

    def __init__(
        self,
        stream: Stream,
        target: Sender,
        reader: int,
        address: Address,
        function: str | None,
        failed: Callable[[str], None],
    ) -> None:
        super().__init__(stream, address, function, failed)
        self._target = target
        self._reader = reader
        self._at, self._first = stream.open_reader(reader)
        self._handed: deque[bytes] = deque()
        """What is in the ring, or was taken from there and is not acknowledged yet."""
        self._poll_ms = _POLLS_MS[0]
        self._ended = False
        self.over = False
        """The server knows that all was taken, up to the sender's end."""

    def _move(self) -> None:
        while not self._ended:
            entries = self._patiently(self._fetch)
            for number, fields in entries:
                self._receive(number, fields)
            if self._acknowledge() or entries:
                self._poll_ms = _POLLS_MS[0]
            elif self.closing.is_set() or self.peer_died.is_set():
                self._give_up()
                return
            self._refresh()

    def _fetch(self) -> list[Entry]:
        if self._doubt:
            self._acknowledge_again()
            # The server may have given us entries that have not arrived.
            entries = self._stream.pending(self._at, _COUNT)
            if entries:
                return entries
            self._doubt = False
        block = _BLOCK_MS
        if self._handed:
            block = self._poll_ms
            self._poll_ms = min(2 * self._poll_ms, _POLLS_MS[1])
        return self._stream.fetch(_COUNT, block)

    def _acknowledge_again(self) -> None:
        """A replica that was promoted may have missed acknowledgements, and so may a log that was not written."""
        here = set(self._handed)
        for ids in self._stream.pending_ids():
            missed = [number for number in ids if number not in here and Id.parse(number) <= self._at]
            if missed:
                self._stream.acknowledge(missed)

    def _receive(self, number: bytes, fields: dict[bytes, bytes]) -> None:
        if Id.parse(number) <= self._at:
            # We have it: a promoted replica had not, and the sender has sent it again, or it is given to us again.
            if number not in self._handed:   # else when it is taken
                self._patiently(lambda: self._stream.acknowledge([number]))
            return
        self._check_order(Id.parse(number), fields)
        if b"begin" in fields:
            self._patiently(lambda: self._stream.acknowledge([number]))
        elif b"end" in fields:
            self._end(number, fields[b"end"].decode(errors="replace"))
        else:
            self._hand(number, *self._message(number, fields))

    def _message(self, number: bytes, fields: dict[bytes, bytes]) -> tuple[bytes, int]:
        """The payload, and when it was sent."""
        try:
            return fields[b"data"], int(fields[b"stamp"]) % (1 << 64)
        except (KeyError, ValueError):
            raise Lost(f"{self._stream.key} has an entry {number.decode()} that is no message of ours") from None

    def _check_order(self, found: Id, fields: dict[bytes, bytes]) -> None:
        """Raises Lost where entries are missing."""
        first, self._first = self._first, None
        if first is not None:
            expected = found == first
        elif b"begin" in fields:
            expected = found.epoch > self._at.epoch and found.seq == self._at.seq
        else:
            expected = found == self._at._replace(seq=self._at.seq + 1)
        if not expected or not fields:
            raise Lost(
                f"what was sent is not there any more: {found} came after {first or self._at} in {self._stream.key}. "
                "Somebody has trimmed the stream or deleted entries, or the server has lost them"
            )
        self._at = found

    def _hand(self, number: bytes, data: bytes, stamp: int) -> None:
        if len(data) > LONGEST_WHOLE:
            self._until_taken(_LONG_SECONDS)   # it will keep us, and what came before shall be acknowledged by then
        self._persist(lambda: self._target.forward(data, stamp, TICK))
        self._handed.append(number)

    def _persist(self, give: Callable[[], None]) -> None:
        """Gives the receiver something, however long it takes to make room."""
        while True:
            try:
                return give()
            except errors.Timeout:
                self._acknowledge()
                self._refresh()

    def _until_taken(self, seconds: float = math.inf) -> bool:
        """Waits until the receiver has taken all that was handed to it, or is closed; whether it has."""
        pause, until = _POLLS[0], time.monotonic() + seconds
        while True:
            no_longer = self.closing.is_set() or time.monotonic() > until
            if self._acknowledge():
                pause = _POLLS[0]
            if no_longer or not self._handed:
                return not self._handed
            self.closing.wait(pause)
            pause = min(2 * pause, _POLLS[1])
            self._refresh()

    def _acknowledge(self) -> bool:
        """Tells the server what was taken since; whether anything was."""
        taken = len(self._handed) - self._target.unread
        if taken <= 0:
            return False
        ids = [self._handed[number] for number in range(taken)]
        self._patiently(lambda: self._stream.acknowledge(ids))
        for _ in ids:
            self._handed.popleft()
        return True

    def _end(self, number: bytes, how: str) -> None:
        self._ended = True
        epoch = how.removeprefix(SWITCHED)
        if epoch != how and epoch.isdecimal() and int(epoch) < 1 << 32:
            self._persist(lambda: self._target.pass_switch(int(epoch), TICK))
        else:
            self._target.finish(failed=how != "finished")
        if self._address.durable and self._until_taken():
            self._patiently(lambda: self._stream.acknowledge([*self._handed, number]))
            self._handed.clear()
            self._patiently(lambda: self._stream.remove(number))
            self.over = True

    def _needless(self) -> bool:
        return self.closing.is_set()

    def _give_up(self) -> None:
        self._target.finish(failed=True)

    def _clean_up(self) -> None:
        try:
            if self._address.durable:
                self._acknowledge_last()
            else:
                self._stream.leave(self._reader, tell=not self.peer_died.is_set())
        finally:
            self._target.close()

    def _acknowledge_last(self) -> None:
        """What the receiver has taken up to its end; the rest is for its successor."""
        taken = len(self._handed) - self._target.unread
        if taken > 0:
            self._stream.acknowledge([self._handed[number] for number in range(taken)])
