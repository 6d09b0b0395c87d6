"""The one door to the C data plane: ownership of pointers, and -errno turned into exceptions."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

from . import errors
from ._cwasi import ffi, lib

_ERRORS: dict[int, tuple[type[errors.Error], str]] = {
    errno.EAGAIN: (errors.WouldWait, "it would have to wait (the channel is full or empty)"),
    errno.ETIMEDOUT: (errors.Timeout, "timed out"),
    errno.EPIPE: (errors.ChannelClosed, "the other side has closed"),
    errno.EBADF: (errors.ChannelClosed, "this end is closed"),
    errno.ECONNRESET: (errors.PeerDied, "the other side failed or died"),
    errno.EMSGSIZE: (
        errors.MessageTooLong,
        "the message is longer than the limit (1 GiB; from several senders to several receivers 4 MiB on rings, "
        "4 KiB on pipes and 64 MiB over tcp) or the buffer",
    ),
    errno.EBUSY: (errors.Busy, "another thread or process uses this end; each end takes one at a time"),
    errno.ECANCELED: (errors.Cancelled, "cancelled: the host is closing"),
    errno.EREMCHG: (errors.Moved, "the sender goes on by another transport, of which this end was not told"),
    errno.EBADMSG: (errors.Corrupted, "corrupted: the shared memory or the stream is not what an honest peer writes"),
}


def fail(rc: int, what: str) -> NoReturn:
    """Raises the exception that stands for -errno. what: names the thing, for the message."""
    kind, text = _ERRORS.get(-rc, (None, ""))
    if kind is None:
        raise OSError(-rc, f"{what}: {os.strerror(-rc)}")
    raise kind(f"{what}: {text}")


def check(rc: int, what: str) -> int:
    """Returns rc, a length or 0; raises on -errno."""
    if rc < 0:
        fail(rc, what)
    return rc


def timeout_ns(timeout: float | None) -> int:
    """Seconds as Python has them, or None for ever, in the data plane's nanoseconds. Raises ValueError."""
    if timeout is None:
        return -1
    if not timeout >= 0:
        raise ValueError(f"timeout is {timeout!r}: give seconds from 0 on, or None to wait for ever")
    return int(min(timeout * 1e9, 1 << 62))


def owned(pointer: Any, free: Callable[[Any], None]) -> Any:
    """`pointer`, which is freed when the last who holds it lets go: a thread inside a call, a guest, ...

    Not in a forked child: what it stands for still belongs to the parent.
    """
    owner, process_id = os.getpid(), os.getpid
    return ffi.gc(pointer, lambda unused: free(unused) if process_id() == owner else None)


class Managed:
    """The one owner of a C pointer. Closing twice is safe; use after close is a clear error."""

    _pointer: Any = None

    def _delete(self, pointer: Any) -> None:
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._pointer is None

    @property
    def pointer(self) -> Any:
        """The live C pointer. Raises ChannelClosed after close()."""
        if self._pointer is None:
            raise errors.ChannelClosed(f"{self!r} is closed")
        return self._pointer

    def close(self) -> None:
        """Frees what the pointer holds."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._delete(pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def opened(function: Any, *args: Any, what: str) -> Any:
    """Calls a C function whose last parameter is an out pointer; returns the pointer it made."""
    out = ffi.new(ffi.typeof(function).args[-1])
    check(function(*args, out), what)
    return out[0]


__all__ = ["Managed", "check", "fail", "ffi", "lib", "opened", "owned", "timeout_ns"]
