"""Waiting: the bound, what goes on when there is room, timeouts, and who is stopped."""

from __future__ import annotations

import time

import pytest
from channels import HANG, Ends, Start

import cwasi_fastpath as cwasi

from .cases import Case
from .conftest import Lab

HUGE, LARGE, SMALL = b"w" * 1_000_000, b"x" * 65536, b"y" * 4000


def stands_still(tx: cwasi.Sender) -> int:
    """Waits until no message goes any more; how many went."""
    before = -1
    while (now := tx.metrics().messages) != before:
        before = now
        time.sleep(0.1)
    return now


def fill(tx: cwasi.Sender) -> list[bytes]:
    """Sends until nothing goes, not even when it waits a little; what went."""
    sent = []
    while True:
        for message in (HUGE, LARGE):
            while tx.try_send(message):
                sent.append(message)
        try:
            tx.send(SMALL, timeout=0.5)
            sent.append(SMALL)
        except cwasi.Timeout:
            return sent


def assert_received(rx: cwasi.Receiver, expected: list[bytes]) -> None:
    """These, and no other."""
    for message in expected:
        assert rx.recv(timeout=HANG) == message
    with pytest.raises(cwasi.WouldWait):
        rx.recv(timeout=0)


@pytest.mark.parametrize("size", [100, 4072, 65536, 1_000_000])
def test_bound(case: Case, ends: Ends, start: Start, size: int) -> None:
    tx, rx = ends
    wanted = 2 * case.bound // size
    if size < 65536 and case.bound > 16 << 20:
        pytest.skip("a server takes too long for so many small ones")
    message = b"x" * size
    sending = start(lambda: [tx.send(message) for _ in range(wanted)])
    sent = stands_still(tx)
    assert not sending.done() and sent * size <= case.bound
    for _ in range(wanted):
        assert rx.recv(timeout=HANG) == message
    sending.result(HANG)


def test_goes_on(ends: Ends, start: Start) -> None:
    tx, rx = ends
    sent = fill(tx)
    waiting = start(tx.send, b"the last")
    for message in [*sent, b"the last"]:
        assert rx.recv(timeout=HANG) == message
    waiting.result(HANG)


def test_no_wait_for_a_receiver(ends: Ends) -> None:
    _, rx = ends
    for call in (rx.recv, rx.peek, lambda timeout: rx.recv_into(bytearray(9), timeout=timeout)):
        with pytest.raises(cwasi.WouldWait):
            call(timeout=0)


@pytest.mark.parametrize("size", [1, 50_000, 5_000_000])
def test_no_wait_for_a_sender(ends: Ends, size: int) -> None:
    """What is refused was not begun either."""
    tx, rx = ends
    sent = fill(tx)
    with pytest.raises(cwasi.WouldWait):
        while True:   # a byte may still find room
            tx.send(b"z" * size, timeout=0)
            sent.append(b"z" * size)
    assert_received(rx, sent)
    tx.send(b"again")
    assert rx.recv(timeout=HANG) == b"again"


def test_timeout_of_a_receiver(ends: Ends) -> None:
    tx, rx = ends
    begin = time.monotonic()
    with pytest.raises(cwasi.Timeout) as caught:
        rx.recv(timeout=0.05)
    assert time.monotonic() - begin >= 0.05
    assert isinstance(caught.value, TimeoutError) and "'lab'" in str(caught.value)
    tx.send(b"x")
    assert rx.recv(timeout=HANG) == b"x"


def test_timeout_of_a_sender(case: Case, ends: Ends) -> None:
    tx, rx = ends
    sent = fill(tx)
    with pytest.raises(cwasi.Timeout):
        while sum(map(len, sent)) <= case.bound:   # who moves messages on may have had no core for long
            begin = time.monotonic()
            tx.send(SMALL, timeout=0.05)
            sent.append(SMALL)
    assert time.monotonic() - begin >= 0.05
    assert_received(rx, sent)
    tx.send(b"z")
    assert rx.recv(timeout=HANG) == b"z"
    assert tx.metrics().messages == rx.metrics().messages == len(sent) + 1


def test_stop(ends: Ends, start: Start) -> None:
    tx, rx = ends
    receiving = start(rx.recv)
    tx.send(LARGE)
    assert receiving.result(HANG) == LARGE
    sending = start(lambda: [tx.send(LARGE) for _ in range(1 << 20)])
    stands_still(tx)
    tx.stop()
    rx.stop()
    with pytest.raises(cwasi.Cancelled):
        sending.result(HANG)
    for _ in range(2):
        with pytest.raises(cwasi.Cancelled):
            rx.recv()
        with pytest.raises(cwasi.Cancelled):
            tx.send(b"x")
    rx.peer_died()   # does not overrule it
    with pytest.raises(cwasi.Cancelled):
        rx.recv()


def test_stop_while_the_receiver_waits(ends: Ends, start: Start) -> None:
    _, rx = ends
    receiving = start(rx.recv)
    while rx.metrics().waits == 0:
        time.sleep(0.001)
    rx.stop()
    with pytest.raises(cwasi.Cancelled):
        receiving.result(HANG)


def test_stop_inside_a_message(lab: Lab, start: Start) -> None:
    """Neither side hangs, and nothing that looks like a message comes after a part of one."""
    tx, rx = lab.ends()
    sending = start(tx.send, bytes(100 << 20))
    while tx.metrics().waits == 0:
        time.sleep(0.001)
    tx.stop()
    try:
        sending.result(HANG)
        return   # it had gone out whole before
    except cwasi.Cancelled:
        pass
    with pytest.raises(cwasi.ChannelError):
        tx.send(b"after a part of a message")
    tx.close()
    for _ in range(2):
        with pytest.raises((cwasi.PeerDied, cwasi.Corrupted)):
            rx.recv(timeout=HANG)
