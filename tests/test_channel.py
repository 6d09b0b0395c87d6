"""Channels as Python uses them, over every transport that needs no server: one contract, one suite."""

from __future__ import annotations

import array
import gc
import mmap
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from channels import HANG, TRANSPORTS, Ends, Start, content, fill
from hypothesis import given, settings
from hypothesis import strategies as st

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import SENDER
from cwasi_fastpath.metrics import quantile
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.transport.ring import CAPACITY, RingLink

FRAME = 24


# ---- messages arrive whole, once, in order ----

SIZES = [
    *(0, 1, 7, 8, 9, 63, 64, 65),
    *(size + delta for size in (4096, 8192, 16384, 65536, 131072, 1 << 20, CAPACITY) for delta in (-FRAME, -1, 0, 1)),
    *(CAPACITY - FRAME - 1, CAPACITY - FRAME + 1, CAPACITY + 65536, 2 * CAPACITY + 1),
]


def test_every_size(ends: Ends, start: Start) -> None:
    """Also those around the bounds at which a transport changes its way: of a page, of a splice, of a whole ring."""
    tx, rx = ends
    sending = start(lambda: [tx.send(content(size, size)) for size in SIZES])
    for size in SIZES:
        assert rx.recv(timeout=HANG) == content(size, size), size
    sending.result(HANG)
    assert tx.metrics().messages == rx.metrics().messages == len(SIZES)
    assert tx.metrics().bytes == rx.metrics().bytes == sum(SIZES)


def test_thirty_megabytes_in_one_message(ends: Ends, start: Start) -> None:
    tx, rx = ends
    message = content(30, 30 << 20)
    sending = start(tx.send, message)
    assert rx.recv(timeout=HANG) == message
    sending.result(HANG)


@settings(max_examples=40, deadline=None)
@given(
    transport=st.sampled_from(TRANSPORTS),
    sizes=st.lists(st.integers(0, 300) | st.integers(0, 70_000) | st.sampled_from([16384, 131048]), max_size=60),
    seed=st.integers(0, 2**32),
)
def test_any_sequence_of_sizes(transport: str, sizes: list[int], seed: int) -> None:
    messages = [content(seed + i, size) for i, size in enumerate(sizes)]
    tx, rx = cwasi.open_channel("lab", transport)
    with ThreadPoolExecutor(1) as pool, tx, rx:
        sending = pool.submit(lambda: [tx.send(message) for message in messages])
        received = [rx.recv(timeout=HANG) for _ in messages]
        sending.result(HANG)
    assert received == messages


def test_many_small_ones_while_the_receiver_keeps_up(ends: Ends, start: Start) -> None:
    tx, rx = ends
    count = 20_000
    sending = start(lambda: [tx.send(struct.pack("<I", i)) for i in range(count)])
    assert [struct.unpack("<I", rx.recv(timeout=HANG))[0] for i in range(count)] == list(range(count))
    sending.result(HANG)


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


def test_the_sender_may_reuse_its_buffer_at_once(ends: Ends) -> None:
    """Large messages are lent to a pipe page by page: never pages that the caller can still write."""
    tx, rx = ends
    buffer = bytearray(b"a" * 100_000)
    tx.send(buffer)
    buffer[:] = b"b" * 100_000
    tx.send(buffer)
    buffer[:] = b"c" * 100_000
    assert (set(rx.recv()), set(rx.recv())) == (set(b"a"), set(b"b"))


# ---- waiting ----


def test_receive_times_out(ends: Ends) -> None:
    _, rx = ends
    begin = time.monotonic()
    with pytest.raises(cwasi.Timeout) as caught:
        rx.recv(timeout=0.05)
    assert time.monotonic() - begin >= 0.05
    assert isinstance(caught.value, TimeoutError) and "'lab'" in str(caught.value)


def test_without_a_message_a_receiver_would_wait(ends: Ends) -> None:
    _, rx = ends
    with pytest.raises(cwasi.WouldWait):
        rx.recv(timeout=0)
    with pytest.raises(cwasi.WouldWait):
        rx.peek(timeout=0)


@pytest.mark.parametrize(("transport", "size"), [("ring", 100), ("ring", 50_000), ("pipe", 100), ("pipe", 4_000)])
def test_without_room_a_sender_would_wait_and_nothing_is_half_sent(ends: Ends, size: int) -> None:
    """In a pipe only a page is taken whole or not at all."""
    tx, rx = ends
    sent = fill(tx, b"x" * size)
    assert sent > 0
    begin = time.monotonic()
    with pytest.raises(cwasi.Timeout):
        tx.send(b"y" * size, timeout=0.05)
    assert time.monotonic() - begin >= 0.05
    assert [rx.recv(timeout=HANG) for _ in range(sent)] == [b"x" * size] * sent
    with pytest.raises(cwasi.WouldWait):
        rx.recv(timeout=0)
    tx.send(b"z")
    assert rx.recv(timeout=HANG) == b"z"
    assert (tx.metrics().messages, rx.metrics().messages) == (sent + 1, sent + 1)


def test_what_is_longer_than_a_ring_cannot_go_without_waiting() -> None:
    tx, rx = cwasi.open_channel("lab", "ring")
    with tx, rx:
        with pytest.raises(cwasi.WouldWait):
            tx.send(b"x" * (CAPACITY + 1), timeout=0)
        with pytest.raises(cwasi.WouldWait):
            rx.recv(timeout=0)


def test_a_full_channel_goes_on_when_there_is_room(ends: Ends, start: Start) -> None:
    tx, rx = ends
    sent = fill(tx, b"x" * 4000)
    waiting = start(tx.send, b"the last")
    assert [rx.recv(timeout=HANG) for _ in range(sent)] == [b"x" * 4000] * sent
    assert rx.recv(timeout=HANG) == b"the last"
    waiting.result(HANG)


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


def test_after_the_sender_closed_the_rest_and_then_the_end(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"one")
    tx.send(b"t" * 20_000)
    tx.close()
    assert (rx.recv(timeout=HANG), rx.recv(timeout=HANG)) == (b"one", b"t" * 20_000)
    for _ in range(2):
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
        with pytest.raises(cwasi.ChannelClosed):
            rx.peek()


def test_after_the_sender_failed_the_rest_and_then_an_error(ends: Ends) -> None:
    tx, rx = ends
    with pytest.raises(RuntimeError, match="mine"), tx:
        tx.send(b"one")
        raise RuntimeError("mine")
    assert rx.recv(timeout=HANG) == b"one"
    for _ in range(2):
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


def test_a_sender_that_nobody_holds_any_more_has_failed(transport: str) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    tx.send(b"one")
    del tx
    gc.collect()
    with rx:
        assert rx.recv(timeout=HANG) == b"one"
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


def test_a_receiver_that_is_gone_is_told_to_the_sender(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"never read")
    rx.close()
    for size in (1, 100_000):
        with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
            tx.send(b"x" * size, timeout=HANG)


def test_a_receiver_that_goes_while_the_sender_waits_for_room(ends: Ends, start: Start) -> None:
    tx, rx = ends
    fill(tx, b"x" * 1000)
    waiting = start(tx.send, b"x" * 1000)
    time.sleep(0.05)
    rx.close()
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        waiting.result(HANG)


def test_a_sender_that_ends_while_the_receiver_waits(ends: Ends, start: Start) -> None:
    tx, rx = ends
    waiting = start(rx.recv)
    time.sleep(0.05)
    tx.close()
    with pytest.raises(cwasi.ChannelClosed):
        waiting.result(HANG)


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


def test_peer_died_leaves_what_was_sent(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"one")
    tx.send(b"two")
    rx.peer_died()
    assert (rx.recv(), rx.recv()) == (b"one", b"two")
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    tx.peer_died()
    with pytest.raises(cwasi.PeerDied):
        tx.send(b"three")


def test_stop_ends_waits_for_good(ends: Ends, start: Start) -> None:
    tx, rx = ends
    receiving = start(rx.recv)
    fill(tx, b"x" * 1000)
    receiving.result(HANG)
    sending = start(lambda: [tx.send(b"x" * 1000) for _ in range(1 << 20)])
    time.sleep(0.05)
    tx.stop()
    rx.stop()
    with pytest.raises(cwasi.Cancelled):
        sending.result(HANG)
    with pytest.raises(cwasi.Cancelled):
        rx.recv()
    rx.peer_died()   # does not overrule it
    with pytest.raises(cwasi.Cancelled):
        rx.recv()


@pytest.mark.parametrize("size", [CAPACITY + 100_000, 64 << 20])
def test_stop_in_the_middle_of_a_message(transport: str, start: Start, size: int) -> None:
    """Neither side hangs, and nothing that looks like a message comes after half of one."""
    tx, rx = cwasi.open_channel("lab", transport)
    sending = start(tx.send, bytes(size))
    while rx.metrics().bytes == 0 and tx.metrics().waits == 0:
        time.sleep(0.001)
    tx.stop()
    with pytest.raises(cwasi.Cancelled):
        sending.result(HANG)
    with pytest.raises(cwasi.ChannelError):
        tx.send(b"after half a message")
    tx.close()
    with pytest.raises((cwasi.PeerDied, cwasi.Corrupted)):
        rx.recv(timeout=HANG)
    with pytest.raises((cwasi.PeerDied, cwasi.Corrupted)):
        rx.recv(timeout=HANG)
    rx.close()


# ---- opening ----


@pytest.mark.parametrize("name", ["", "Upper", "../x", "a b", "x\n", "-x", "x" * 64, "\u00e9"])
def test_names_are_checked(transport: str, name: str) -> None:
    with pytest.raises(cwasi.BadName):
        cwasi.open_channel(name, transport)


@pytest.mark.parametrize("unknown", ["tcp", "", "RING", "http://x", "redis"])
def test_unknown_transports(unknown: str) -> None:
    with pytest.raises(cwasi.BadSpec, match="ring, pipe or a URL"):
        cwasi.open_channel("lab", unknown)


@pytest.mark.parametrize(("transport", "mode"), [("ring", Mode.LOCAL), ("pipe", Mode.PROXIMAL)])
def test_ends_know_their_mode(transport: str, mode: Mode) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    with tx, rx:
        assert (tx.mode, rx.mode) == (mode, mode)


def test_a_role_is_given_out_once() -> None:
    link = RingLink.create()
    tx = cwasi.Sender(link.open(SENDER), "lab")
    with pytest.raises(cwasi.Busy):
        link.open(SENDER)
    tx.close()
    link.close()
    link.close()


def test_a_name_is_no_address(transport: str) -> None:
    """Two channels of one name are two channels."""
    one, other = cwasi.open_channel("lab", transport), cwasi.open_channel("lab", transport)
    one[0].send(b"1")
    other[0].send(b"2")
    assert (one[1].recv(), other[1].recv()) == (b"1", b"2")
    for end in (*one, *other):
        end.close()
