"""Who has connected to a unix socket of ours: its process then, which may pass the connection on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_SO_PEERPIDFD = 77


@dataclass(frozen=True, slots=True)
class Caller:
    """A process."""

    pid: int
    uid: int
    started: bytes
    """When, as it tells it from the next process of that pid; empty where /proc does not show it."""

    def descriptor(self, connection: socket.socket) -> int:
        """A pidfd of it: its pid may be another's by now. Raises ProcessLookupError if it has ended, or OSError."""
        try:
            return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno == errno.EINVAL:   # as some kernels say it
                raise _ended() from error
            if error.errno != errno.ENOPROTOOPT:
                raise
        with contextlib.ExitStack() as stack:
            pidfd = os.pidfd_open(self.pid)   # before Linux 6.5
            stack.callback(os.close, pidfd)
            if _started(self.pid) != self.started:
                raise _ended()
            stack.pop_all()
        return pidfd


def caller_of(connection: socket.socket) -> Caller:
    """Of a connection that has just been accepted."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Caller(pid, uid, _started(pid))


def _started(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
    except OSError:
        return b""


def _ended() -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
