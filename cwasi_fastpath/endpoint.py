"""Sender and Receiver: the two ends of a channel, as Python uses them."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from . import errors, watch
from ._native import Managed, check, ffi, lib, owned, timeout_ns
from .metrics import EndMetrics
from .modes import Mode
from .names import checked

SENDER: int = lib.CWASI_SENDER
RECEIVER: int = lib.CWASI_RECEIVER
HISTOGRAM_BUCKETS: int = lib.CWASI_HISTOGRAM_BUCKETS

# A peer that is gone, or a wait that was cancelled, is no news to who closes.
_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ECANCELED, errno.EBADF}

_PATIENCE = 0.5
"""Seconds after which a wait looks for signals, if one came just before it began to sleep."""
_PATIENCE_NS = int(_PATIENCE * 1e9)

_DESCRIPTORS_MAX = 1024

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
        watch.know(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of channel {self.name!r}>"

    def after_fork(self) -> None:
        """To be called in a forked child, where no other thread is inside any more."""
        self._closing = threading.Lock()

    def _delete(self, pointer: Any) -> None:
        """Nothing to do: letting go is enough."""

    def _keep_last_words(self) -> None:
        self._final = self.metrics()

    def metrics(self) -> EndMetrics:
        """What this end has counted so far; after close(), what it counted at the end."""
        if self._final is not None:
            return self._final
        stats = ffi.new("cwasi_stats *")
        histogram = ffi.new("uint64_t[]", HISTOGRAM_BUCKETS)
        lib.cwasi_channel_stats(self.pointer, stats)
        lib.cwasi_channel_histogram(self.pointer, histogram)
        return _metrics(stats, tuple(histogram))

    def bells(self) -> list[int]:
        """Descriptors that hang up when a peer's process ends, one a peer, not ours to close; -1 for a sender, one of
        several, that has none. Empty after close().
        """
        pointer = self._pointer   # another thread may be closing
        if pointer is None:
            return []
        descriptors = ffi.new("int[]", _DESCRIPTORS_MAX)
        return list(descriptors[0 : lib.cwasi_channel_bells(pointer, descriptors, _DESCRIPTORS_MAX)])

    def sample(self, every: int) -> None:
        """Times one message in `every` (a power of two; 1 times all) from its send to its receipt."""
        if not 0 < every < 1 << 32 or every & (every - 1):
            raise ValueError(f"sample every {every!r}: use a power of two, for example 1, 64 or 1024")
        check(lib.cwasi_channel_sample(self.pointer, every), f"{self!r}: sample every {every}")

    def stop(self) -> None:
        """Ends every wait in this end, now and later, with Cancelled; from any thread."""
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_stop(self._pointer)

    def peer_died(self, peer: int = 0) -> None:
        """Tells this end that the process of a peer (0, or which of several) has ended; from any thread.

        What it sent can still be received, then PeerDied is raised. A sender goes on while it has other receivers.
        """
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_peer_died(self._pointer, peer)

    def abandon(self) -> None:
        """Frees the copy of this end that a fork left in this process, without a word to the peer: the other process
        goes on using it. Raises Busy.
        """
        if self._pointer is None:
            return
        watch.forget(self)
        with self._closing:
            check(lib.cwasi_channel_abandon(self._pointer), f"{self!r}: abandon")
            ffi.gc(self._pointer, None)
            super().close()

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
            if self._pointer is not None:
                watch.forget(self)
            with self._closing:
                last = self._pointer is not None
                self._keep_last_words()
                super().close()
            if last and self.on_close is not None:
                self.on_close(self)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.finish(failed=True, linger=1.0)
        self.close()


def _metrics(stats: Any, latency: tuple[int, ...]) -> EndMetrics:
    return EndMetrics(
        messages=stats.messages,
        bytes=stats.bytes,
        copied_bytes=stats.copied_bytes,
        waits=stats.waits,
        parks=stats.parks,
        wakes=stats.wakes,
        lost_peers=stats.lost_peers,
        latency=latency,
    )


def _first_ns(timeout: float | None) -> int:
    """How long the first call waits; most need no second."""
    if timeout is None:
        return _PATIENCE_NS
    return timeout_ns(min(timeout, _PATIENCE))


def _goes_on(rc: int, timeout: float | None) -> bool:
    """Whether it was only to look for signals that the first call came back."""
    return rc == -errno.EINTR or (rc == -errno.ETIMEDOUT and (timeout is None or timeout > _PATIENCE))


def _patiently(call: Callable[[int], int], timeout: float | None) -> int:
    """Makes a call of the data plane that waits, call(nanoseconds) -> result or -errno, in pieces: in between, signals
    (Ctrl-C) are handled.
    """
    until = None if timeout is None else time.monotonic() + timeout
    rc = call(_first_ns(timeout))
    while _goes_on(rc, timeout):
        left = _PATIENCE if until is None else until - time.monotonic()
        if left <= 0:
            return -errno.ETIMEDOUT
        rc = call(timeout_ns(min(left, _PATIENCE)))
    return rc


class Sender(Endpoint):
    """The end that sends."""

    role = SENDER

    def send(self, data: Data, timeout: float | None = None) -> None:
        """Sends one message of 0 to 2^30 bytes; returns when the transport has taken it.

        timeout: seconds to wait for room (None: for ever); once the first byte has gone the message is completed.
        Raises Timeout, WouldWait (timeout=0), ChannelClosed, PeerDied, MessageTooLong, Busy, Cancelled, Corrupted.
        """
        buffer = data if type(data) is bytes else ffi.from_buffer(data)
        rc = lib.cwasi_channel_send(self._pointer or self.pointer, buffer, len(buffer), _first_ns(timeout))
        if rc < 0:
            if _goes_on(rc, timeout):
                rc = _patiently(lambda ns: lib.cwasi_channel_send(self.pointer, buffer, len(buffer), ns), timeout)
            check(rc, f"{self!r}: send of {len(buffer)} bytes")

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
        """Gives the memory of an empty ring back to the system; a send meanwhile waits for some microseconds.

        Whether it did: not while something is unread, or on other transports. Raises OSError.
        """
        with self._closing:
            if self._pointer is None:
                return False
            return bool(check(lib.cwasi_channel_trim(self._pointer), f"{self!r}: trim"))

    def limit(self, size: int) -> None:
        """Refuses messages of more bytes (MessageTooLong); 2^30 at first. To be set before anything is sent."""
        check(lib.cwasi_channel_limit(self.pointer, size), f"{self!r}: limit of {size} bytes")

    def try_send(self, data: Data) -> bool:
        """As send with timeout=0, but false where that would raise WouldWait: for loops that poll."""
        buffer = data if type(data) is bytes else ffi.from_buffer(data)
        rc = lib.cwasi_channel_send(self._pointer or self.pointer, buffer, len(buffer), 0)
        if rc == -errno.EAGAIN:
            return False
        check(rc, "send")
        return True

    def forward(self, data: bytes, stamp: int, timeout: float | None = None) -> None:
        """Sends on a message that was first sent at `stamp` (CLOCK_MONOTONIC ns; 0: it was not timed), so that its
        latency counts whole. Else as send.
        """
        rc = _patiently(lambda ns: lib.cwasi_channel_forward(self.pointer, data, len(data), stamp, ns), timeout)
        check(rc, f"{self!r}: send of {len(data)} bytes")


class Receiver(Endpoint):
    """The end that receives. As an iterator it gives the messages until the sender closes."""

    role = RECEIVER
    _SMALL = 4096

    def __init__(self, pointer: Any, name: str, mode: Mode = Mode.LOCAL) -> None:
        super().__init__(pointer, name, mode)
        self._small = ffi.new("char[]", self._SMALL)
        self._leave: Callable[[], None] | None = None
        """Sends the task that waits for us on its way."""
        self._final_sources: tuple[EndMetrics, ...] = ()

    def recv(self, timeout: float | None = None) -> bytes:
        """Receives one message.

        timeout: seconds to wait for one (None: for ever).
        Raises Timeout, WouldWait (timeout=0), ChannelClosed, PeerDied, Busy, Cancelled, Corrupted.
        """
        rc = lib.cwasi_channel_recv(self._pointer or self.pointer, self._small, self._SMALL, _first_ns(timeout))
        if rc < 0:
            return self._recv_late(rc, timeout)
        message: bytes = ffi.unpack(self._small, rc)
        return message

    def try_recv(self) -> bytes | None:
        """As recv with timeout=0, but None where that would raise WouldWait: for loops that poll."""
        rc = lib.cwasi_channel_recv(self._pointer or self.pointer, self._small, self._SMALL, 0)
        if rc >= 0:
            message: bytes = ffi.unpack(self._small, rc)
            return message
        try:
            return None if rc == -errno.EAGAIN else self._recv_late(rc, 0)
        except errors.WouldWait:   # the sender has died inside its message
            return None

    def _recv_late(self, rc: int, timeout: float | None) -> bytes:
        """What was not there soon, or did not fit."""
        if _goes_on(rc, timeout):
            left = None if timeout is None else max(0.0, timeout - _PATIENCE)
            rc = self._recv_to(self._small, left)
        target = self._small
        while rc == -errno.EMSGSIZE:
            # Of several senders one may die inside its message: the next one, of any length, comes in its place.
            target = ffi.from_buffer(bytearray(self.peek()[0]))
            rc = self._recv_to(target, timeout)
        return bytes(ffi.buffer(target, check(rc, f"{self!r}: recv")))

    def _recv_to(self, target: Any, timeout: float | None) -> int:
        return _patiently(lambda ns: lib.cwasi_channel_recv(self.pointer, target, len(target), ns), timeout)

    def recv_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Receives one message into `buffer`; its length in bytes.

        Raises MessageTooLong when the buffer is short, and keeps the message; else what recv raises.
        """
        return check(self._recv_to(ffi.from_buffer(buffer, require_writable=True), timeout), f"{self!r}: recv")

    def peek(self, timeout: float | None = None) -> tuple[int, int]:
        """(length in bytes, time stamp in CLOCK_MONOTONIC ns or 0) of the next message, which stays."""
        frame = ffi.new("cwasi_frame *")
        rc = _patiently(lambda ns: lib.cwasi_channel_peek(self.pointer, frame, ns), timeout)
        return check(rc, f"{self!r}: peek"), frame.stamp

    def __iter__(self) -> Iterator[bytes]:
        """The messages, until the senders have closed. Raises PeerDied, Busy, Cancelled, Corrupted."""
        while True:
            try:
                yield self.recv()
            except errors.ChannelClosed:
                if self._pointer is None:
                    raise
                return

    async def arecv(self, timeout: float | None = None) -> bytes:
        """As recv, for asyncio: other tasks run while it waits, and no thread is used for it. One task at a time."""
        while True:
            message = self.try_recv()
            if message is not None:
                return message
            if timeout == 0:
                raise errors.WouldWait(f"{self!r}: recv: no message is there")
            begin = time.monotonic()
            await self._arrival(timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - begin))

    async def _arrival(self, timeout: float | None) -> None:
        """Waits until recv may go on."""
        import asyncio

        if self._leave is not None:
            raise errors.Busy(f"{self!r}: another task waits for it; each end takes one at a time")
        descriptors = ffi.new("int[]", _DESCRIPTORS_MAX)
        count = check(lib.cwasi_channel_arm(self.pointer, descriptors, _DESCRIPTORS_MAX), f"{self!r}: recv")
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        watched = [fd for fd in descriptors[0:count] if fd >= 0]

        def leave() -> None:
            for fd in watched:
                loop.remove_reader(fd)
            arrived.set()

        def leave_safely() -> None:
            if asyncio._get_running_loop() is loop:
                leave()
            else:
                loop.call_soon_threadsafe(leave)

        self._leave = leave_safely
        try:
            for fd in watched:
                loop.add_reader(fd, arrived.set)
            if count:
                async with asyncio.timeout(timeout):
                    await arrived.wait()
        except TimeoutError as error:
            raise errors.Timeout(f"{self!r}: recv: timed out") from error
        finally:
            self._leave = None
            leave()
            if self._pointer is not None:
                lib.cwasi_channel_disarm(self._pointer)

    def finish(self, *, failed: bool = False, linger: float | None = 5.0) -> None:
        """As every end. A task that waits in arecv() gets ChannelClosed."""
        if self._leave is not None:
            self._leave()   # as long as the descriptors that it watches are open
        super().finish(failed=failed, linger=linger)

    def sources(self) -> tuple[EndMetrics, ...]:
        """What came from each sender, in their order, without latencies; empty where there is only one."""
        if self._pointer is None:
            return self._final_sources
        stats = ffi.new("cwasi_stats *")
        found: list[EndMetrics] = []
        while lib.cwasi_channel_source_stats(self._pointer, len(found), stats) == 0:
            found.append(_metrics(stats, ()))
        return tuple(found)

    def _keep_last_words(self) -> None:
        super()._keep_last_words()
        self._final_sources = self.sources()


def gathered(pointers: Sequence[Any]) -> Any:
    """The C end that receives what these C ends receive, each in its order; they are its own from now on."""
    if len(pointers) == 1:
        return pointers[0]
    out = ffi.new("cwasi_channel **")
    check(lib.cwasi_channel_gather(list(pointers), len(pointers), out), "several senders")
    return out[0]


def wait(receivers: Sequence[Receiver], timeout: float | None = None) -> Receiver:
    """Waits in several receivers at once; returns the first of them in which recv would not wait.

    Raises Timeout, WouldWait (timeout=0), Busy, ChannelClosed for one that is closed here, ValueError for none.
    """
    if not receivers:
        raise ValueError("wait needs at least one receiver")
    ends = [end.pointer for end in receivers]
    rc = _patiently(lambda ns: lib.cwasi_channel_wait(ends, len(ends), 0, ns), timeout)
    return receivers[check(rc, "wait: " + ", ".join(repr(end) for end in receivers))]
