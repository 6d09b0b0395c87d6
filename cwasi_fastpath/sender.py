"""Sender: the end of a channel that sends."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

from . import watch
from ._native import check, ffi, lib, timeout_ns
from .endpoint import SENDER, Endpoint, first_ns, goes_on, patiently
from .errors import BadSpec, PeerDied
from .modes import Mode
from .tidy import tidy_switches

Data = bytes | bytearray | memoryview


class Sender(Endpoint):
    """The end that sends."""

    role = SENDER
    switcher: Callable[[str, float | None], None] | None = None
    """Who can take this end and its receivers to another transport."""
    why_before: Callable[[], str | None] = staticmethod(lambda: None)
    """As why, of the transports that it has left by a switch."""

    def send(self, data: Data, timeout: float | None = None) -> None:
        """Sends one message of 0 to 2^30 bytes; returns when the transport has taken it.

        timeout: seconds to wait for room (None: for ever); once the first byte has gone the message is completed.
        Raises Timeout, WouldWait (timeout=0), ChannelClosed, PeerDied, MessageTooLong, Busy, Cancelled, Corrupted.
        """
        buffer = data if type(data) is bytes else ffi.from_buffer(data)
        rc = lib.cwasi_channel_send(self._pointer or self.pointer, buffer, len(buffer), first_ns(timeout))
        if rc < 0:
            if goes_on(rc, timeout):
                rc = patiently(lambda ns: lib.cwasi_channel_send(self.pointer, buffer, len(buffer), ns), timeout)
            self._checked(rc, f"send of {len(buffer)} bytes")

    def _checked(self, rc: int, what: str) -> int:
        """As every end, and says of a death how much was not received."""
        if rc == -errno.ECONNRESET:
            raise PeerDied(f"{self!r}: {what}: {self._death()}")
        return super()._checked(rc, what)

    def _death(self) -> str:
        before, unread = ffi.new("uint64_t *"), self.unread
        missing = f"; {unread} messages were not received" if unread else ""
        if lib.cwasi_channel_lost(self.pointer, before):
            death = "a transport that it left by a switch died before all was received"
            missing, why = f"{missing}, {before[0]} of them sent by that one", self.why_before()
        else:
            death, why = "the other side failed or died", self.why()
        return f"{death}{missing}{f': {why}' if why else ''}"

    def switch(self, target: str, timeout: float | None = 5.0) -> None:
        """Goes on by another transport, live: nothing is lost, doubled or out of order. From any thread.

        target: ring, pipe, tcp, tcp://HOST:PORT where the receiver is to listen, or the URL of a Redis server; for ends
        that met in one, redis means that. timeout: seconds in which the receivers must have agreed, and the old
        transport must have had room for the last word.
        Raises Timeout, BadSpec, NoTransport, RedisUnavailable, TcpUnavailable, and what send raises; then the channel
        goes on as before.
        """
        if self.switcher is None:
            raise BadSpec(f"{self!r}: nobody here knows its receivers; it cannot switch")
        self.switcher(target, timeout)

    def leave_for(self, pointer: Any, mode: Mode, timeout: float | None) -> None:
        """Sends the last frame here, and goes on by an end that a link has opened; its receivers know theirs already.

        Raises Timeout, and what send raises; then all stays as it was.
        """
        own = self._pointer_for(pointer)
        lib.cwasi_channel_set_mode(pointer, mode)
        until = None if timeout is None else time.monotonic() + timeout
        rc = lib.cwasi_channel_switch(own, pointer, timeout_ns(timeout))
        try:
            while rc == -errno.EINTR:   # in between, signals (Ctrl-C) are handled
                left = None if until is None else max(0.0, until - time.monotonic())
                rc = lib.cwasi_channel_switch(self.pointer, pointer, timeout_ns(left))
        except BaseException:
            lib.cwasi_channel_free(pointer)
            raise
        check(rc, f"{self!r}: switch")
        watch.watch_more(self)
        tidy_switches(self)

    def depart(self, timeout: float | None) -> None:
        """The last word here, between two messages: those that follow come from another process, whose end of the next
        transport the receiver has the other end of. Raises Timeout, and what send raises; then all stays as it was.
        """
        check(lib.cwasi_channel_depart(self.pointer, timeout_ns(timeout)), f"{self!r}: hand over")

    def pass_switch(self, epoch: int, timeout: float | None = None) -> None:
        """Passes on that the sender whose messages this end sends on goes on elsewhere. Raises what send raises."""
        rc = patiently(lambda ns: lib.cwasi_channel_pass_switch(self.pointer, epoch, ns), timeout)
        check(rc, f"{self!r}: switch to epoch {epoch}")

    @property
    def messages(self) -> int:
        """How many were sent so far."""
        if self._final is not None:
            return self._final.messages
        stats = ffi.new("cwasi_stats *")
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_stats(self._pointer, stats)
        return int(stats.messages)

    @property
    def unread(self) -> int:
        """Messages that were sent and not received, by the slowest receiver, also one that has left; 0 where the
        transport does not tell. After PeerDied it says how many were not received.
        """
        return int(lib.cwasi_channel_unread(self.pointer))

    def trim(self) -> bool:
        """Gives the memory of an empty ring, or of what is lent to pipes, back to the system; a send meanwhile waits
        for some microseconds.

        Whether it did: not while something is unread in a ring. Raises OSError.
        """
        with self._closing:
            if self._pointer is None:
                return False
            return bool(check(lib.cwasi_channel_trim(self._pointer), f"{self!r}: trim"))

    def limit(self, size: int) -> None:
        """Refuses messages of more bytes (MessageTooLong); 2^30 at first."""
        check(lib.cwasi_channel_limit(self.pointer, size), f"{self!r}: limit of {size} bytes")

    def try_send(self, data: Data) -> bool:
        """As send with timeout=0, but false where that would raise WouldWait: for loops that poll."""
        buffer = data if type(data) is bytes else ffi.from_buffer(data)
        rc = lib.cwasi_channel_send(self._pointer or self.pointer, buffer, len(buffer), 0)
        if rc == -errno.EAGAIN:
            return False
        self._checked(rc, "send")
        return True

    def forward(self, data: bytes, stamp: int, timeout: float | None = None) -> None:
        """Sends on a message that was first sent at `stamp` (CLOCK_MONOTONIC ns; 0: it was not timed), so that its
        latency counts whole. Else as send.
        """
        rc = patiently(lambda ns: lib.cwasi_channel_forward(self.pointer, data, len(data), stamp, ns), timeout)
        self._checked(rc, f"send of {len(data)} bytes")
