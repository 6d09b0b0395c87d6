"""Shared memory: a sealed memfd that both ends map. One trust domain only."""

from __future__ import annotations

import os
from typing import Any, Self

from .._native import check, lib, opened
from ..endpoint import Endpoint
from ..modes import Transport

CAPACITY = 4 << 20
"""Bytes: large enough that streams of 1 MiB messages run at full speed."""


class RingLink:
    """A ring. Keeps the contract of cwasi_fastpath.transport."""

    transport = Transport.RING

    def __init__(self, memfd: int) -> None:
        self._memfd = memfd

    @classmethod
    def create(cls, capacity: int = CAPACITY) -> Self:
        """capacity: bytes, a power of two from 4 KiB to 1 GiB. Raises OSError."""
        return cls(check(lib.cwasi_ring_create(capacity), f"ring of {capacity} bytes"))

    def open(self, role: int, function: str | None = None) -> Any:
        return opened(lib.cwasi_channel_open_ring, self._memfd, role, what="ring: join")

    def export(self, role: int) -> tuple[dict[str, Any], list[int]]:
        return {"transport": self.transport.value}, [self._memfd]

    def peer_died(self, end: Endpoint) -> None:
        end.stop(peer_died=True)

    def close(self) -> None:
        memfd, self._memfd = self._memfd, -1
        if memfd >= 0:
            os.close(memfd)
