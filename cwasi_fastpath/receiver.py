"""Receiver: the end of a channel that receives, from one sender or from several."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import errors, watch
from ._native import check, ffi, lib
from .endpoint import DESCRIPTORS_MAX, PATIENCE, RECEIVER, Endpoint, end_metrics, first_ns, goes_on, patiently
from .metrics import EndMetrics
from .modes import Mode
from .tidy import tidy_switches


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
        rc = lib.cwasi_channel_recv(self._pointer or self.pointer, self._small, self._SMALL, first_ns(timeout))
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
        if goes_on(rc, timeout):
            left = None if timeout is None else max(0.0, timeout - PATIENCE)
            rc = self._recv_to(self._small, left)
        target = self._small
        while rc == -errno.EMSGSIZE:
            # Of several senders one may die inside its message: the next one, of any length, comes in its place.
            target = ffi.from_buffer(bytearray(self.peek()[0]))
            rc = self._recv_to(target, timeout)
        return bytes(ffi.buffer(target, self._checked(rc, "recv")))

    def _recv_to(self, target: Any, timeout: float | None) -> int:
        return patiently(lambda ns: lib.cwasi_channel_recv(self.pointer, target, len(target), ns), timeout)

    def recv_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Receives one message into `buffer`; its length in bytes.

        Raises MessageTooLong when the buffer is short, and keeps the message; else what recv raises.
        """
        return self._checked(self._recv_to(ffi.from_buffer(buffer, require_writable=True), timeout), "recv")

    def peek(self, timeout: float | None = None) -> tuple[int, int]:
        """(length in bytes, time stamp in CLOCK_MONOTONIC ns or 0) of the next message, which stays."""
        frame = ffi.new("cwasi_frame *")
        rc = patiently(lambda ns: lib.cwasi_channel_peek(self.pointer, frame, ns), timeout)
        if rc == -errno.EREMCHG:
            raise errors.Moved(f"{self!r}: the sender goes on in epoch {frame.epoch}", frame.epoch)
        return self._checked(rc, "peek"), frame.stamp

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
        descriptors = ffi.new("int[]", DESCRIPTORS_MAX)
        count = check(lib.cwasi_channel_arm(self.pointer, descriptors, DESCRIPTORS_MAX), f"{self!r}: recv")
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

    def epoch_of(self, source: int) -> int:
        """As epoch, for one of several senders."""
        return int(lib.cwasi_channel_epoch(self.pointer, source))

    def attach(self, pointer: Any, epoch: int, mode: Mode, *, source: int = 0) -> None:
        """Gives this end the next transport: an end that a link has opened, and the epoch in which it will be used.

        It is used when the sender has gone there. source: which of several senders. Raises Busy, ValueError.
        """
        own = self._pointer_for(pointer)
        lib.cwasi_channel_set_mode(pointer, mode)
        rc = lib.cwasi_channel_attach(own, source, pointer, epoch)
        if rc == -errno.EBUSY:
            raise errors.Busy(f"{self!r}: it has not read to the last switch yet")
        check(rc, f"{self!r}: switch to epoch {epoch}")
        watch.watch_more(self)
        tidy_switches(self)

    def detach(self, epoch: int, *, source: int = 0) -> None:
        """Takes the next transport back. Raises OSError where the sender has gone there, or this end has finished."""
        check(lib.cwasi_channel_detach(self.pointer, source, epoch), f"{self!r}: withdrawal of a switch")

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
            found.append(end_metrics(stats, ()))
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
    rc = patiently(lambda ns: lib.cwasi_channel_wait(ends, len(ends), 0, ns), timeout)
    return receivers[check(rc, "wait: " + ", ".join(repr(end) for end in receivers))]
