"""What guests print, when several share an output: whole lines, in place of pieces that mix.

A C library hands a line over in several pieces, and WASI takes only one of them a call. So each guest writes into a
pipe of its own, and one thread of the host moves whole lines from there to the output.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .errors import OutputFailed

_LONGEST = 1 << 16
"""Bytes of a line that are kept until it ends; a longer one goes on in pieces."""


@dataclass(slots=True)
class _Source:
    """The pipe of one guest."""

    read: int
    kept: bytearray = field(default_factory=bytearray)
    """The begin of a line."""
    failure: OSError | None = None
    """Why the output took no more of it."""


class Output:
    """A descriptor that several guests write to; it stays the caller's. Not for terminals, of which guests ask whether
    they are one: people want to see the begin of a line as well.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        """Held by whoever moves lines, so that these stay whole and in order."""
        self._sources: dict[int, _Source] = {}
        self._mover: _Mover | None = None
        """At work while there are sources."""

    @contextmanager
    def source(self) -> Iterator[Path]:
        """A file to write to; at the end of the block all of it is in the output.

        Raises OutputFailed where the output did not take everything, unless nobody reads it any more; OSError.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        source = _Source(read)
        try:
            with self._lock:
                self._begin(source)
        except BaseException:
            os.close(read)
            os.close(write)
            raise
        try:
            yield Path(f"/proc/self/fd/{write}")
        finally:
            with self._lock:
                mover = self._mover
                self._move(source)
                self._put(source, len(source.kept))
                self._end(source)
            if mover is not None and mover is not self._mover:
                mover.join()   # we were the last
            os.close(write)
        if source.failure is not None and source.failure.errno != errno.EPIPE:
            raise OutputFailed(f"standard output took no more: {source.failure.strerror}") from source.failure

    def _begin(self, source: _Source) -> None:
        if self._mover is None:
            mover = _Mover(self._move_from)
            mover.start()
            self._mover = mover
        self._mover.watch(source.read)
        self._sources[source.read] = source

    def _end(self, source: _Source) -> None:
        if self._sources.pop(source.read, None) is None:
            return   # it failed before
        assert self._mover is not None   # it is there as long as there are sources
        self._mover.forget(source.read)
        os.close(source.read)
        if not self._sources:
            self._mover.stop()
            self._mover = None

    def _move_from(self, read: int) -> None:
        with self._lock:
            if read in self._sources:
                self._move(self._sources[read])

    def _move(self, source: _Source) -> None:
        """What is in the pipe goes to the output, up to the end of the last line."""
        with suppress(BlockingIOError):
            while source.failure is None and (data := os.read(source.read, _LONGEST)):
                source.kept += data
                whole = source.kept.rfind(b"\n") + 1
                self._put(source, whole if len(source.kept) - whole < _LONGEST else len(source.kept))

    def _put(self, source: _Source, length: int) -> None:
        """Writes the first `length` bytes that are kept. After a failure the guest can write no more."""
        data = memoryview(bytes(source.kept[:length]))
        del source.kept[:length]
        try:
            while data and source.failure is None:
                data = data[self._write(data) :]
        except OSError as error:
            source.failure = error
            self._end(source)

    def _write(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:   # who shares it with us made it so
                select.select([], [self._descriptor], [])


class _Mover(threading.Thread):
    """Calls `move` with each pipe in which there is something."""

    def __init__(self, move: Callable[[int], None]) -> None:
        super().__init__(name="cwasi output", daemon=True)
        self._move = move
        self._enough = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._epoll = select.epoll()
        except OSError:
            os.close(self._enough)
            raise
        self._epoll.register(self._enough, select.EPOLLIN)

    def watch(self, read: int) -> None:
        self._epoll.register(read, select.EPOLLIN)

    def forget(self, read: int) -> None:
        self._epoll.unregister(read)

    def stop(self) -> None:
        os.eventfd_write(self._enough, 1)

    def run(self) -> None:
        while self._enough not in (ready := [read for read, _ in self._epoll.poll()]):
            for read in ready:
                self._move(read)
        self._epoll.close()
        os.close(self._enough)
