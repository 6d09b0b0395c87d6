"""Shared memory: a sealed memfd that the sender and its receivers map. One trust domain only."""

from __future__ import annotations

import os
import socket
from typing import Any, Self

from .._native import check, ffi, lib, opened, owned
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..errors import Busy
from ..modes import Transport

CAPACITY = 4 << 20
"""Bytes: large enough that streams of 1 MiB messages run at full speed."""

LONGEST_WHOLE = CAPACITY - 24
"""Bytes in a message that is in the ring as a whole, behind its header; a longer one streams through."""

READERS_MAX: int = lib.CWASI_READERS_MAX


class RingLink:
    """A ring. Keeps the contract of cwasi_fastpath.transport.

    Between the sender and each receiver there is a socket pair beside it, the bell: it wakes who waits for several
    channels at once, and hangs up when a process ends.
    """

    transport = Transport.RING
    longest_whole = LONGEST_WHOLE

    def __init__(self, memfd: int, bells: dict[tuple[int, int], int]) -> None:
        """bells: by role and receiver, the bells of the ends that this link can still give out."""
        self._memfd = memfd
        self._bells = bells
        self._handover: Any = None
        """For large messages, as long as no end was given to another process."""

    @classmethod
    def create(cls, capacity: int = CAPACITY, readers: int = 1) -> Self:
        """capacity: bytes, a power of two from 4 KiB to 1 GiB. readers: receivers, 1 to READERS_MAX. Raises OSError."""
        memfd = check(lib.cwasi_ring_create(capacity, readers), f"ring of {capacity} bytes for {readers} receivers")
        link = cls(memfd, {})
        try:
            if readers == 1:
                link._handover = owned(opened(lib.cwasi_handover_new, what="ring"), lib.cwasi_handover_free)
            for reader in range(readers):
                for role, end in zip((SENDER, RECEIVER), socket.socketpair(), strict=True):
                    link._bells[role, reader] = end.detach()
        except OSError:
            link.close()
            raise
        return link

    @classmethod
    def joined(cls, fds: list[int], role: int, reader: int) -> Self:
        """One end that another process passed on."""
        memfd, *bells = fds
        if role == RECEIVER:
            [bell] = bells
            return cls(memfd, {(role, reader): bell})
        return cls(memfd, {(role, number): bell for number, bell in enumerate(bells)})

    def _keys(self, role: int, reader: int) -> list[tuple[int, int]]:
        """Those of one end: a sender has a bell for each receiver."""
        return [key for key in sorted(self._bells) if key[0] == role and (role == SENDER or key[1] == reader)]

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        if self._memfd < 0:
            raise Busy("ring: all ends were given out before; each end is one's own")
        keys = self._keys(role, reader)
        bells = ffi.new("int[]", [self._bells[key] for key in keys])
        end = opened(
            lib.cwasi_channel_open_ring, self._memfd, role, reader, bells if keys else ffi.NULL, what="ring: join"
        )
        if self._handover is not None:
            check(lib.cwasi_channel_hand_over(end, self._handover), "ring: join")
        for key in keys:
            # The end keeps a duplicate; while ours were open, the other side would not see this one's death.
            os.close(self._bells.pop(key))
        if not self._bells:
            self.close()
        return end

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        fds = [self._memfd, *(self._bells[key] for key in self._keys(role, reader))]
        return {"transport": self.transport.value, "role": role, "reader": reader}, fds

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        end.peer_died(peer)

    def close(self) -> None:
        self._handover = None
        memfd, self._memfd = self._memfd, -1
        if memfd >= 0:
            os.close(memfd)
        while self._bells:
            os.close(self._bells.popitem()[1])
