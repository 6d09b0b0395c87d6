"""Kernel pipes: nothing is shared but the streams, so they may cross trust domains on one node."""

from __future__ import annotations

import fcntl
import os
from typing import Any, Self

from .._native import ffi, lib, opened
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..errors import BadSpec, Busy
from ..modes import Transport

READERS_MAX: int = lib.CWASI_READERS_MAX

_PAGE = 4096

LONGEST_WHOLE = _PAGE - 24
"""Bytes in a message that a pipe takes as a whole or not at all, behind its header."""


class PipeLink:
    """A pipe to each receiver. Keeps the contract of cwasi_fastpath.transport.

    Beside each there is a small one in the other direction, the back: by it a receiver says that it leaves, and it
    hangs up when the receiver's process ends.
    """

    transport = Transport.PIPE
    longest_whole = LONGEST_WHOLE

    def __init__(self, fds: dict[tuple[int, int], tuple[int, int]]) -> None:
        """fds: by role and receiver, the pipe and the back of the ends that this link can still give out."""
        self._fds = fds

    @classmethod
    def create(cls, readers: int = 1) -> Self:
        """readers: receivers, 1 to READERS_MAX. Raises BadSpec, OSError."""
        if not 0 < readers <= READERS_MAX:
            raise BadSpec(f"pipes to {readers} receivers: give 1 to {READERS_MAX}")
        link = cls({})
        try:
            for reader in range(readers):
                read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                link._fds[SENDER, reader], link._fds[RECEIVER, reader] = (write, -1), (read, -1)
                heard, said = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                link._fds[SENDER, reader], link._fds[RECEIVER, reader] = (write, heard), (read, said)
                fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, _PAGE)   # what a user may have in pipes is limited
        except OSError:
            link.close()
            raise
        return link

    @classmethod
    def joined(cls, fds: list[int], role: int, reader: int) -> Self:
        """One end that another process passed on."""
        pairs = list(zip(fds[::2], fds[1::2], strict=True))
        if role == RECEIVER and len(pairs) != 1:
            raise ValueError(f"{len(pairs)} pipes for a receiver")
        return cls({(role, reader if role == RECEIVER else number): pair for number, pair in enumerate(pairs)})

    def _keys(self, role: int, reader: int) -> list[tuple[int, int]]:
        """Those of one end: a sender has a pipe to each receiver."""
        return [key for key in sorted(self._fds) if key[0] == role and (role == SENDER or key[1] == reader)]

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        keys = self._keys(role, reader)
        if not keys:
            raise Busy("pipe: this end was given out before; each end is one's own")
        pairs = [self._fds.pop(key) for key in keys]
        pipes, backs = (ffi.new("int[]", fds) for fds in zip(*pairs, strict=True))
        try:
            return opened(lib.cwasi_channel_open_pipe, role, pipes, backs, len(pairs), what="pipe: join")
        finally:
            # The end keeps duplicates; while ours were open, the other side would not see this one's death.
            _close(pairs)

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        fds = [fd for key in self._keys(role, reader) for fd in self._fds[key]]
        return {"transport": self.transport.value, "role": role, "reader": reader}, fds

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        end.peer_died(peer)

    def close(self) -> None:
        pairs = list(self._fds.values())
        self._fds.clear()
        _close(pairs)


def _close(pairs: list[tuple[int, int]]) -> None:
    for fd in (fd for pair in pairs for fd in pair if fd >= 0):
        os.close(fd)
