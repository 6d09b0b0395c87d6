"""Sender and Receiver: the two ends of a channel, as Python uses them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from . import errors
from ._native import Managed, check, ffi, lib, owned, timeout_ns
from .metrics import EndMetrics
from .modes import Mode
from .names import checked

SENDER: int = lib.CWASI_SENDER
RECEIVER: int = lib.CWASI_RECEIVER
HISTOGRAM_BUCKETS: int = lib.CWASI_HISTOGRAM_BUCKETS

# A peer that is gone, or a wait that was cancelled, is no news to who closes.
_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ECANCELED, errno.EBADF}

Data = bytes | bytearray | memoryview


class Endpoint(Managed):
    """What both ends have in common. One thread at a time may use an end."""

    role: int

    def __init__(self, pointer: Any, name: str, mode: Mode = Mode.LOCAL) -> None:
        # Guests and threads inside a call hold the pointer too: close() must not free it under them.
        self._pointer = owned(pointer, lib.cwasi_channel_free)
        self.name = checked(name, "channel")
        self.mode = mode
        """The path class in use, which guests are told."""
        # The last words of a closed end: its metrics stay readable.
        self._final: EndMetrics | None = None
        self._closing = threading.Lock()
        self.on_close: Callable[[Endpoint], None] | None = None
        """Called once, after this end was freed."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of channel {self.name!r}>"

    def _delete(self, pointer: Any) -> None:
        """Nothing to do: letting go is enough."""

    def metrics(self) -> EndMetrics:
        """What this end has counted so far; after close(), what it counted at the end."""
        if self._final is not None:
            return self._final
        stats = ffi.new("cwasi_stats *")
        histogram = ffi.new("uint64_t[]", HISTOGRAM_BUCKETS)
        lib.cwasi_channel_stats(self.pointer, stats)
        lib.cwasi_channel_histogram(self.pointer, histogram)
        return EndMetrics(
            messages=stats.messages,
            bytes=stats.bytes,
            copied_bytes=stats.copied_bytes,
            waits=stats.waits,
            parks=stats.parks,
            wakes=stats.wakes,
            latency=tuple(histogram),
        )

    def sample(self, every: int) -> None:
        """Times one message in `every` (a power of two; 1 times all) from its send to its receipt."""
        if not 0 < every < 1 << 32 or every & (every - 1):
            raise ValueError(f"sample every {every!r}: use a power of two, for example 1, 64 or 1024")
        check(lib.cwasi_channel_sample(self.pointer, every), f"{self!r}: sample every {every}")

    def stop(self, *, peer_died: bool = False) -> None:
        """Ends every wait in this end, from any thread: with Cancelled, or PeerDied once what was sent is read."""
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_stop(self._pointer, errno.ECONNRESET if peer_died else errno.ECANCELED)

    def finish(self, *, failed: bool = False, linger: float | None = 5.0) -> None:
        """Tells the other side that this one is done, or failed; the end stays readable for metrics().

        linger: seconds to wait for a thread inside this end, and for room to tell the peer (None: for ever).
        Raises Timeout where there was no room to say "done" (the peer will get PeerDied instead), OSError.
        """
        pointer = self._pointer
        if pointer is None:
            return
        rc = lib.cwasi_channel_close(pointer, failed, timeout_ns(linger))
        untold = -rc in (errno.ETIMEDOUT, errno.EAGAIN)
        if untold and not failed:
            raise errors.Timeout(f"{self!r}: closed, but the other side could not be told: it reads too slowly")
        if rc < 0 and not untold and -rc not in _GONE:
            check(rc, f"{self!r}: close")

    def close(self) -> None:
        """Finishes this side and frees it. What was sent can still be received. Raises what finish raises."""
        if self._pointer is None:
            return
        try:
            self.finish()
        finally:
            with self._closing:
                last = self._pointer is not None
                self._final = self.metrics()
                super().close()
            if last and self.on_close is not None:
                self.on_close(self)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.finish(failed=True, linger=1.0)
        self.close()


class Sender(Endpoint):
    """The end that sends."""

    role = SENDER

    def send(self, data: Data, timeout: float | None = None) -> None:
        """Sends one message of 0 to 2^30 bytes; returns when the transport has taken it.

        timeout: seconds to wait for room (None: for ever); once the first byte has gone the message is completed.
        Raises Timeout, WouldWait (timeout=0), ChannelClosed, PeerDied, MessageTooLong, Busy, Cancelled, Corrupted.
        """
        buffer = data if type(data) is bytes else ffi.from_buffer(data)
        rc = lib.cwasi_channel_send(self.pointer, buffer, len(buffer), timeout_ns(timeout))
        if rc < 0:
            check(rc, f"{self!r}: send of {len(buffer)} bytes")

    def forward(self, data: bytes, stamp: int, timeout: float | None = None) -> None:
        """Sends on a message that was first sent at `stamp` (CLOCK_MONOTONIC ns; 0: it was not timed), so that its
        latency counts whole. Else as send.
        """
        rc = lib.cwasi_channel_forward(self.pointer, data, len(data), stamp, timeout_ns(timeout))
        if rc < 0:
            check(rc, f"{self!r}: send of {len(data)} bytes")


class Receiver(Endpoint):
    """The end that receives."""

    role = RECEIVER
    _SMALL = 4096

    def __init__(self, pointer: Any, name: str, mode: Mode = Mode.LOCAL) -> None:
        super().__init__(pointer, name, mode)
        self._small = ffi.new("uint8_t[]", self._SMALL)

    def recv(self, timeout: float | None = None) -> bytes:
        """Receives one message.

        timeout: seconds to wait for one (None: for ever).
        Raises Timeout, WouldWait (timeout=0), ChannelClosed, PeerDied, Busy, Cancelled, Corrupted.
        """
        rc = lib.cwasi_channel_recv(self.pointer, self._small, self._SMALL, timeout_ns(timeout))
        if rc >= 0:
            return bytes(ffi.buffer(self._small, rc))
        return self._recv_long(rc)

    def _recv_long(self, rc: int) -> bytes:
        try:
            check(rc, f"{self!r}: recv")
        except errors.MessageTooLong:
            buffer = bytearray(self.peek()[0])
            self.recv_into(buffer)
            return bytes(buffer)
        raise AssertionError(rc)

    def recv_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Receives one message into `buffer`; its length in bytes.

        Raises MessageTooLong when the buffer is short, and keeps the message; else what recv raises.
        """
        target = ffi.from_buffer(buffer, require_writable=True)
        rc: int = lib.cwasi_channel_recv(self.pointer, target, len(target), timeout_ns(timeout))
        return check(rc, f"{self!r}: recv")

    def peek(self, timeout: float | None = None) -> tuple[int, int]:
        """(length in bytes, time stamp in CLOCK_MONOTONIC ns or 0) of the next message, which stays."""
        frame = ffi.new("cwasi_frame *")
        rc = lib.cwasi_channel_peek(self.pointer, frame, timeout_ns(timeout))
        return check(rc, f"{self!r}: peek"), frame.stamp
