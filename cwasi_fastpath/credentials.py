"""Who is at the other side of a unix socket, as the kernel knows it."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kernel says of a peer."""

    pid: int
    """0 for a process of a pid namespace that we do not see."""
    uid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Credentials:
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return cls(pid, uid & 0xFFFFFFFF)

    @property
    def trusted(self) -> bool:
        """Ours, or root's, whom nothing can be kept from."""
        return self.uid in (os.geteuid(), 0)

    def __str__(self) -> str:
        return f"process {self.pid}" if self.pid else "a process of another pid namespace"
