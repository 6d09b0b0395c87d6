"""A wire to another node, as the kernel sees it: what goes over it takes its time, and what is too much gets lost.

A namespace without a name, which is gone with us, however we end. It has one device, whose packets we are given: what
goes to the address THERE is given back as what comes from it, with both addresses exchanged, which leaves checksums as
they are. So who connects to THERE reaches who listens HERE, and to the kernel's TCP it is a network like any other.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from typing import TypeVar

from ..errors import Unavailable

HERE, THERE = "198.18.0.1", "198.18.0.2"
"""Addresses for measurements (RFC 2544), which nobody has."""

_MASK = "255.255.255.252"
_DEVICE = b"wire"
_NEW_NETWORK = 0x40000000   # CLONE_NEWNET
_TUNSETIFF, _TUN, _NO_HEADER = 0x400454CA, 0x1, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _UP = 0x8914, 0x8916, 0x891C, 0x1
_LARGEST_PACKET = 1 << 16
_WAITING_MAX = 1024
"""Packets; one more, and it is lost."""
_ADDRESSES, _IPV4 = slice(12, 20), 4

_Made = TypeVar("_Made")


class Wire:
    """Carries packets both ways, one after the other."""

    def __init__(self, inside: ThreadPoolExecutor, device: int, over: int) -> None:
        """inside: a thread in its namespace. over: can be read when it is to end."""
        self._inside, self._device, self._over = inside, device, over
        self._delay, self._rate = 0.0, inf
        self._waiting: deque[tuple[float, bytes]] = deque()
        """What is on its way, and when it arrives."""

    def becomes(self, delay: float = 0.0, rate: float = inf) -> None:
        """From now on a packet takes that many seconds more, and that many bytes go by in a second."""
        self._delay, self._rate = delay, rate

    def inside(self, make: Callable[[], _Made]) -> _Made:
        """What that makes where the wire is: sockets, and threads."""
        return self._inside.submit(make).result()

    def carry(self) -> None:
        """Until it is over."""
        sent = 0.0   # when the last one is
        while True:
            pause = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready, _, _ = select.select([self._device, self._over], [], [], pause)
            if self._over in ready:
                return
            now = time.monotonic()
            if self._device in ready:
                packet = os.read(self._device, _LARGEST_PACKET)
                if packet[0] >> 4 == _IPV4 and len(self._waiting) < _WAITING_MAX:
                    sent = max(sent, now) + len(packet) / self._rate
                    self._waiting.append((sent + self._delay, _answered(packet)))
            while self._waiting and self._waiting[0][0] <= now:
                with suppress(OSError):   # it is lost, as on any network
                    os.write(self._device, self._waiting.popleft()[1])


def _answered(packet: bytes) -> bytes:
    """It comes from where it was to go."""
    first, second = packet[_ADDRESSES][:4], packet[_ADDRESSES][4:]
    return packet[: _ADDRESSES.start] + second + first + packet[_ADDRESSES.stop :]


@contextmanager
def a_wire() -> Iterator[Wire]:
    """Raises Unavailable where we may not make one."""
    with ExitStack() as stack:
        inside = stack.enter_context(ThreadPoolExecutor(1, "cwasi recording wire"))
        try:
            device = inside.submit(_made).result()
        except OSError as error:
            raise Unavailable(
                f"a network with delays cannot be made here: {error.strerror}. "
                "Remedy: run it as root, or by: unshare --user --map-root-user"
            ) from error
        stack.callback(os.close, device)
        over, end = os.pipe()
        stack.callback(os.close, over)
        wire = Wire(inside, device, over)
        carrier = threading.Thread(target=wire.carry, name="cwasi recording carrier")
        stack.callback(carrier.join)
        stack.callback(os.close, end)   # which can be read over there
        carrier.start()
        yield wire


def _made() -> int:
    """The device, in a namespace in which this thread is from now on. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE, _TUN | _NO_HEADER))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, address in ((_SIOCSIFADDR, HERE), (_SIOCSIFNETMASK, _MASK)):
                where = struct.pack("16sH2x4s16x", _DEVICE, socket.AF_INET, socket.inet_aton(address))
                fcntl.ioctl(control, request, where)
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _DEVICE, _UP))
    except BaseException:
        os.close(device)
        raise
    return device
