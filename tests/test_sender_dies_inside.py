"""One of several senders dies inside a message that its receiver has begun to take: the next message, of another
length, comes in its place, whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from channels import HANG, Start

import cwasi_fastpath as cwasi

LONG = 6 << 20   # longer than a ring


def by_recv(rx: cwasi.Receiver) -> bytes:
    return rx.recv(HANG)


def by_try_recv(rx: cwasi.Receiver) -> bytes:
    until = time.monotonic() + HANG
    while (message := rx.try_recv()) is None:
        assert time.monotonic() < until
    return message


def by_recv_into(rx: cwasi.Receiver) -> bytes:
    buffer = bytearray(2 * LONG)
    return bytes(buffer[: rx.recv_into(buffer, HANG)])


@pytest.mark.parametrize("receive", [by_recv, by_try_recv, by_recv_into])
@pytest.mark.parametrize("length", [5, 5000, LONG + 4096])
def test_the_next_message_comes(start: Start, receive: Callable[[cwasi.Receiver], bytes], length: int) -> None:
    (dying, other), (rx,) = cwasi.open_ends("lab", 2, 1)
    sending = start(dying.send, bytes(LONG))
    assert rx.peek(HANG)[0] == LONG
    dying.stop()
    with pytest.raises(cwasi.Cancelled):
        sending.result(HANG)
    dying.finish(failed=True)
    threading.Timer(0.05, lambda: start(other.send, b"y" * length)).start()
    try:
        assert receive(rx) == b"y" * length
    finally:
        for end in (rx, dying, other):
            end.stop()
            end.close()
