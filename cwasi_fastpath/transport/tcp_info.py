"""What the kernel knows of the network behind a connection (TCP_INFO), for who looks now and then."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

_LIMITED, _BIT = 7, 1 if sys.byteorder == "little" else 0x80
"""The byte whose first bit says that the rate is what was sent, and the network might have given more."""
_RTT, _RETRANSMITS, _LEAST_RTT, _RATE = 68, 100, 148, 160
"""Where they are in the kernel's struct tcp_info, which only grows."""
_BYTES = 168
_UNKNOWN = 0xFFFFFFFF
"""What the least round trip is before there was one."""
_LONGEST_US, _MOST = 10_000_000_000, 1e13


@dataclass(frozen=True, slots=True)
class Network:
    """Between two ends over TCP."""

    rtt_ns: float | None
    """There and back, smoothed; None before there was an answer."""
    least_rtt_ns: float | None
    """The shortest in the last minutes."""
    bytes_per_second: float | None
    """What the network gives; None where less was sent than it would."""
    retransmits: int
    """Segments that were sent again, since the connection was made."""

    @property
    def srtt_ns(self) -> float | None:
        """Without our own queue: who sends as fast as the network takes it waits behind what was sent before."""
        return self.rtt_ns if self.bytes_per_second is None else self.least_rtt_ns or self.rtt_ns

    def __str__(self) -> str:
        told = []
        if self.rtt_ns is not None:
            least = f" (at least {self.least_rtt_ns / 1e6:,.2f})" if self.least_rtt_ns is not None else ""
            told.append(f"{self.rtt_ns / 1e6:,.2f} ms there and back{least}")
        if self.bytes_per_second is not None:
            told.append(f"{self.bytes_per_second / 1e6:,.1f} MB/s")
        return ", ".join([*told, f"{self.retransmits:,} segments sent again"])


def network_of(connection: socket.socket) -> Network | None:
    """None where it is no TCP, or closed by now."""
    try:
        return parsed(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
    except OSError:
        return None


def parsed(info: bytes) -> Network | None:
    """A struct tcp_info; None where the kernel's is too old. What cannot be is not known."""
    if len(info) < _BYTES:
        return None
    rtt, least = (struct.unpack_from("=I", info, at)[0] for at in (_RTT, _LEAST_RTT))
    rate: int = struct.unpack_from("=Q", info, _RATE)[0]
    return Network(
        rtt_ns=_ns(rtt),
        least_rtt_ns=_ns(least),
        bytes_per_second=float(rate) if not info[_LIMITED] & _BIT and 0 < rate <= _MOST else None,
        retransmits=struct.unpack_from("=I", info, _RETRANSMITS)[0],
    )


def _ns(us: int) -> float | None:
    return us * 1e3 if 0 < us < min(_UNKNOWN, _LONGEST_US) else None
