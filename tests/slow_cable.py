"""A cable between two network namespaces by which packets take as long as a test wants: a device (tun) at each end, and
a thread that hands what goes into the one to the other.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from nodes import Namespace, ip

NEAR, FAR = "10.85.7.1", "10.85.7.2"

_DEVICE = "slow"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUN, _NO_HEADER = 0x400454CA, 0x1, 0x1000
_LARGEST_PACKET = 1 << 16


class SlowCable:
    """The seconds that a packet takes may be changed meanwhile."""

    def __init__(self, devices: tuple[int, int], over: int) -> None:
        """over: can be read when it is to end."""
        self.delay = 0.0
        self._devices, self._over = devices, over
        self._waiting: deque[tuple[float, int, bytes]] = deque()
        """What is on its way: when it arrives, at which device."""

    def carry(self) -> None:
        other = dict(zip(self._devices, reversed(self._devices), strict=True))
        while True:
            pause = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready, _, _ = select.select([*self._devices, self._over], [], [], pause)
            if self._over in ready:
                return
            for device in self._devices:
                if device in ready:
                    packet = os.read(device, _LARGEST_PACKET)
                    self._waiting.append((time.monotonic() + self.delay, other[device], packet))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, device, packet = self._waiting.popleft()
                with suppress(OSError):   # it is lost, as on any network
                    os.write(device, packet)


@contextmanager
def slow_cable(near: Namespace, far: Namespace) -> Iterator[SlowCable]:
    """Beside those that they have."""
    with ExitStack() as stack:
        devices = []
        for node, here, there in ((near, NEAR, FAR), (far, FAR, NEAR)):
            with ThreadPoolExecutor(1) as inside:
                try:
                    devices.append(inside.submit(_made_in, node).result())
                except OSError as error:
                    pytest.skip(f"no device of that kind: {error}")
            stack.callback(os.close, devices[-1])
            ip("-n", node.name, "addr", "add", here, "peer", there, "dev", _DEVICE)
            ip("-n", node.name, "link", "set", _DEVICE, "up")
        over, end = os.pipe()
        stack.callback(os.close, over)
        cable = SlowCable((devices[0], devices[1]), over)
        carrier = threading.Thread(target=cable.carry)
        stack.callback(carrier.join)
        stack.callback(os.close, end)   # which can be read over there
        carrier.start()
        yield cable


def _made_in(node: Namespace) -> int:
    """The device, in a namespace in which this thread is from now on. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", node.name).open() as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _TUN | _NO_HEADER))
    return device
