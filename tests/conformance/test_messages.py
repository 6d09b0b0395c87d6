"""Messages: order, sizes, content."""

from __future__ import annotations

import struct
import time

import pytest
from channels import HANG, Ends, Start, content
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cwasi_fastpath.transport.ring import CAPACITY

from .conftest import Lab

FRAME = 24

# Around the bounds at which a transport changes its way: of a page, of a splice, of a pipe, of a whole ring.
SIZES = [
    *(0, 1, 7, 8, 9, 63, 64, 65, 3 * CAPACITY + 1),
    *(
        size + delta
        for size in (4096, 8192, 16384, 65536, 131072, 1 << 20, CAPACITY)
        for delta in (-FRAME - 1, -FRAME, -FRAME + 1, -1, 0, 1)
    ),
]


def test_in_order(ends: Ends, start: Start) -> None:
    tx, rx = ends
    count = 5_000
    sending = start(lambda: [tx.send(struct.pack("<I", i)) for i in range(count)])
    assert [struct.unpack("<I", rx.recv(timeout=HANG))[0] for i in range(count)] == list(range(count))
    sending.result(HANG)
    assert (tx.metrics().messages, tx.metrics().bytes) == (rx.metrics().messages, rx.metrics().bytes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 300) | st.integers(0, 70_000) | st.sampled_from([16384, 131048]), max_size=40),
    seed=st.integers(0, 2**32),
)
def test_in_order_for_any_sequence_of_sizes(lab: Lab, start: Start, sizes: list[int], seed: int) -> None:
    messages = [content(seed + i, size) for i, size in enumerate(sizes)]
    tx, rx = lab.ends()
    sending = start(lambda: [tx.send(message) for message in messages])
    received = [rx.recv(timeout=HANG) for _ in messages]
    sending.result(HANG)
    lab.close()
    assert received == messages


def test_any_size(ends: Ends, start: Start) -> None:
    tx, rx = ends
    sending = start(lambda: [tx.send(content(size, size)) for size in SIZES])
    for size in SIZES:
        assert rx.recv(timeout=HANG) == content(size, size), size
    sending.result(HANG)
    assert tx.metrics().messages == rx.metrics().messages == len(SIZES)
    assert tx.metrics().bytes == rx.metrics().bytes == sum(SIZES)


def test_any_size_also_a_hundred_megabytes(ends: Ends, start: Start) -> None:
    tx, rx = ends
    message = content(100, 100 * 1000 * 1000)
    sending = start(tx.send, message)
    assert rx.recv(timeout=HANG) == message
    sending.result(HANG)


@pytest.mark.parametrize("size", [1, 4095, 4097, 16383, 16385, 100_000, 700_000, 3_000_000])
def test_content_is_fixed(ends: Ends, start: Start, size: int) -> None:
    """The sender writes into its buffer at once, while the reader lags behind by as much as the transport takes."""
    tx, rx = ends
    rounds = 12

    def send_all() -> None:
        buffer = bytearray(size)
        for number in range(rounds):
            buffer[:] = bytes([number]) * size
            tx.send(buffer)
            buffer[:] = b"\xff" * size

    sending = start(send_all)
    for number in range(rounds):
        if number % 4 == 0:
            time.sleep(0.02)
        assert rx.recv(timeout=HANG) == bytes([number]) * size
    sending.result(HANG)
