"""Channels as Python uses them. What a transport promises is tested in tests/conformance."""

from __future__ import annotations

import array
import mmap
import time

import pytest
from channels import HANG, Ends, Start, content, fill

import cwasi_fastpath as cwasi
from cwasi_fastpath.metrics import quantile
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.transport.ring import CAPACITY

# ---- what can be sent ----


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview"),
        memoryview(b"a slice of it")[2:7],
        array.array("I", [1, 2, 3]),
        memoryview(array.array("d", [1.5, 2.5])),
        bytearray(),
    ],
)
def test_what_can_be_sent(ends: Ends, data: bytes | bytearray | memoryview) -> None:
    tx, rx = ends
    tx.send(data)
    assert rx.recv(timeout=HANG) == bytes(data)


@pytest.mark.parametrize("data", ["text", 7, None, [1, 2], memoryview(b"every other")[::2]])
def test_what_cannot_be_sent(ends: Ends, data: bytes) -> None:
    tx, rx = ends
    with pytest.raises((TypeError, ValueError, BufferError)):
        tx.send(data)
    tx.send(b"and the channel is whole")
    assert rx.recv(timeout=HANG) == b"and the channel is whole"


# ---- waiting ----


def test_what_is_longer_than_a_ring_cannot_go_without_waiting() -> None:
    tx, rx = cwasi.open_channel("lab", "ring")
    with tx, rx:
        with pytest.raises(cwasi.WouldWait):
            tx.send(b"x" * (CAPACITY + 1), timeout=0)
        with pytest.raises(cwasi.WouldWait):
            rx.recv(timeout=0)


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), -1e-9])
def test_no_time_is_negative(ends: Ends, timeout: float) -> None:
    tx, rx = ends
    with pytest.raises(ValueError, match="timeout"):
        tx.send(b"x", timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        rx.recv(timeout=timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e9])
def test_a_very_long_time(ends: Ends, timeout: float) -> None:
    tx, rx = ends
    tx.send(b"x", timeout=timeout)
    assert rx.recv(timeout=timeout) == b"x"


# ---- sizes that do not fit, and looking before receiving ----


def test_over_a_gibibyte(ends: Ends) -> None:
    tx, rx = ends
    memory = memoryview(mmap.mmap(-1, (1 << 30) + 1))
    with pytest.raises(cwasi.MessageTooLong, match="1 GiB"):
        tx.send(memory)
    tx.send(b"the next")
    assert rx.recv(timeout=HANG) == b"the next"


@pytest.mark.parametrize("size", [10, 5_000, 200_000])
def test_a_short_buffer_keeps_the_message(ends: Ends, size: int) -> None:
    tx, rx = ends
    message = content(size, size)
    tx.send(message)
    tx.send(b"the next")
    for _ in range(3):
        with pytest.raises(cwasi.MessageTooLong):
            rx.recv_into(bytearray(size - 1), timeout=0)
    buffer = bytearray(size + 5)
    assert rx.recv_into(buffer, timeout=0) == size
    assert buffer == message + bytes(5)
    assert rx.recv(timeout=0) == b"the next"


def test_receive_into_a_part_of_a_buffer(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"xyz")
    tx.send(b"")
    buffer = bytearray(b"........")
    assert rx.recv_into(memoryview(buffer)[2:6]) == 3
    assert buffer == b"..xyz..."
    assert rx.recv_into(bytearray()) == 0


def test_receive_into_what_cannot_be_written(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"xyz")
    with pytest.raises((TypeError, BufferError)):
        rx.recv_into(memoryview(b"constant"))
    assert rx.recv(timeout=0) == b"xyz"


def test_peek_leaves_the_message(ends: Ends) -> None:
    tx, rx = ends
    tx.sample(1)
    before = time.monotonic_ns()
    tx.send(b"12345")
    tx.send(b"")
    for _ in range(2):
        length, stamp = rx.peek(timeout=0)
        assert length == 5 and before <= stamp <= time.monotonic_ns()
    assert rx.metrics().messages == 0
    assert rx.recv(timeout=0) == b"12345"
    assert rx.peek(timeout=0)[0] == 0
    assert rx.recv(timeout=0) == b""


def test_forward_keeps_the_stamp(ends: Ends) -> None:
    tx, rx = ends
    stamp = time.monotonic_ns() - 3_000_000_000
    tx.forward(b"old", stamp)
    tx.forward(b"untimed", 0)
    assert rx.peek() == (3, stamp)
    assert rx.recv() == b"old" and rx.peek() == (7, 0)
    p50 = quantile(rx.metrics().latency, 0.5)
    assert p50 is not None and 2.8e9 < p50 < 60e9


# ---- how it ends ----


def test_the_last_word_waits_for_room(start: Start) -> None:
    """A receiver that reads late still learns that the sender finished, and did not die."""
    tx, rx = cwasi.open_channel("lab", "pipe")
    sent = fill(tx, b"x" * 4000) + fill(tx, b"x")
    ending = start(tx.finish, linger=None)
    time.sleep(0.05)
    for _ in range(sent):
        rx.recv(timeout=HANG)
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    ending.result(HANG)
    rx.close()
    tx.close()


def test_a_sender_that_cannot_say_goodbye_says_so() -> None:
    tx, rx = cwasi.open_channel("lab", "pipe")
    sent = fill(tx, b"x" * 4000) + fill(tx, b"x")
    with pytest.raises(cwasi.Timeout, match="could not be told"):
        tx.finish(linger=0.02)
    for _ in range(sent):
        rx.recv(timeout=HANG)
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    rx.close()
    tx.close()


# ---- opening ----


@pytest.mark.parametrize("name", ["", "Upper", "../x", "a b", "x\n", "-x", "x" * 64, "\u00e9"])
def test_names_are_checked(transport: str, name: str) -> None:
    with pytest.raises(cwasi.BadName):
        cwasi.open_channel(name, transport)


@pytest.mark.parametrize("unknown", ["udp", "", "RING", "http://x", "redis"])
def test_unknown_transports(unknown: str) -> None:
    with pytest.raises(cwasi.BadSpec, match="ring, pipe, tcp or a URL"):
        cwasi.open_channel("lab", unknown)


@pytest.mark.parametrize(("transport", "mode"), [("ring", Mode.LOCAL), ("pipe", Mode.PROXIMAL)])
def test_ends_know_their_mode(transport: str, mode: Mode) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    with tx, rx:
        assert (tx.mode, rx.mode) == (mode, mode)
