"""A kernel pipe: nothing is shared but the stream, so it may cross trust domains on one node."""

from __future__ import annotations

import os
from typing import Any, Self

from .._native import lib, opened
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..errors import Busy
from ..modes import Transport


class PipeLink:
    """A pipe. Keeps the contract of cwasi_fastpath.transport."""

    transport = Transport.PIPE

    def __init__(self, fds: dict[int, int]) -> None:
        self._fds = fds

    @classmethod
    def create(cls) -> Self:
        """Raises OSError."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return cls({SENDER: write, RECEIVER: read})

    @classmethod
    def joined(cls, fd: int, role: int) -> Self:
        """One end that another process passed on."""
        return cls({role: fd})

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        if role not in self._fds:
            raise Busy("pipe: this end was given out before; each end is one's own")
        fd = self._fds.pop(role)
        try:
            return opened(lib.cwasi_channel_open_pipe, fd, role, what="pipe: join")
        finally:
            # The end keeps a duplicate; while ours were open, the other side would not see this one's death.
            os.close(fd)

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        return {"transport": self.transport.value, "role": role}, [self._fds[role]]

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        end.peer_died()

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])
