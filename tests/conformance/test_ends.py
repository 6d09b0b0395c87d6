"""Ends: who finishes, fails, leaves or closes, here and in another process, and who is killed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest
from channels import HANG, Ends, Start

import cwasi_fastpath as cwasi
from cwasi_fastpath import watch
from cwasi_fastpath.endpoint import RECEIVER, SENDER, Endpoint
from cwasi_fastpath.transport import Link

from .cases import Case
from .conftest import Elsewhere, Lab, gone
from .peer import numbered

BIG = 300_000


def send_until_it_ends(tx: cwasi.Sender, size: int) -> None:
    """The transport may take some more before it knows."""
    until = time.monotonic() + HANG
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        while time.monotonic() < until:
            tx.send(bytes(size), timeout=HANG)


def test_finish(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"one")
    tx.send(b"t" * BIG)
    tx.close()
    assert (rx.recv(timeout=HANG), rx.recv(timeout=HANG)) == (b"one", b"t" * BIG)
    for _ in range(2):
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
        with pytest.raises(cwasi.ChannelClosed):
            rx.peek()


def test_finish_of_what_was_never_used(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(cwasi.ChannelClosed):
        ends[1].recv(timeout=HANG)


def test_finish_while_the_receiver_waits(ends: Ends, start: Start) -> None:
    tx, rx = ends
    waiting = start(rx.recv)
    while rx.metrics().waits == 0:
        time.sleep(0.001)
    tx.close()
    with pytest.raises(cwasi.ChannelClosed):
        waiting.result(HANG)


def test_failure(ends: Ends) -> None:
    tx, rx = ends
    with pytest.raises(RuntimeError, match="mine"), tx:
        tx.send(b"one")
        tx.send(b"t" * BIG)
        raise RuntimeError("mine")
    assert (rx.recv(timeout=HANG), rx.recv(timeout=HANG)) == (b"one", b"t" * BIG)
    for _ in range(2):
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


def test_failure_is_what_nobody_holds_any_more(lab: Lab) -> None:
    link = lab.link()
    tx = cwasi.Sender(link.open(SENDER), "lab")
    rx = lab.receiver(link)
    tx.send(b"one")
    del tx
    gc.collect()
    assert rx.recv(timeout=HANG) == b"one"
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize("failed", [False, True])
def test_receiver_left(ends: Ends, caplog: pytest.LogCaptureFixture, size: int, failed: bool) -> None:
    tx, rx = ends
    tx.send(b"never read")
    rx.finish(failed=failed)
    for _ in range(2):
        send_until_it_ends(tx, size)
    assert not caplog.records, "nothing has gone wrong"


def test_receiver_left_while_the_sender_waits(ends: Ends, start: Start) -> None:
    tx, rx = ends
    sending = start(lambda: [tx.send(bytes(1_000_000)) for _ in range(1000)])
    while tx.metrics().waits == 0:
        time.sleep(0.001)
    rx.close()
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        sending.result(HANG)


def test_peer_died(lab: Lab) -> None:
    link = lab.link()
    tx, rx = lab.sender(link), lab.receiver(link)
    tx.send(b"one")
    tx.send(b"two")
    assert rx.recv(timeout=HANG) == b"one"
    link.peer_died(rx)
    assert rx.recv(timeout=HANG) == b"two"
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)


def test_peer_died_for_a_sender(lab: Lab) -> None:
    link = lab.link()
    tx, _ = lab.sender(link), lab.receiver(link)
    link.peer_died(tx)
    with pytest.raises(cwasi.PeerDied):
        tx.send(b"three")


# ---- closing ----

ORDERS: dict[str, Callable[[cwasi.Sender, cwasi.Receiver], tuple[Endpoint, Endpoint]]] = {
    "sender first": lambda tx, rx: (tx, rx),
    "receiver first": lambda tx, rx: (rx, tx),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [10, 50_000])
def test_close_under_way(ends: Ends, order: str, size: int) -> None:
    tx, rx = ends
    for _ in range(5):
        tx.send(bytes(size))
    rx.recv(timeout=HANG)
    for end in ORDERS[order](tx, rx):
        end.close()


@pytest.mark.parametrize("order", ORDERS)
def test_close_under_way_inside_a_message(ends: Ends, start: Start, order: str) -> None:
    tx, rx = ends
    sending = start(lambda: [tx.send(bytes(60 << 20)) for _ in range(100)])
    while tx.metrics().waits == 0:
        time.sleep(0.001)
    for end in ORDERS[order](tx, rx):
        end.finish(failed=True, linger=0.1)
    with pytest.raises(cwasi.ChannelError):
        sending.result(HANG)


def test_close_twice(lab: Lab) -> None:
    link = lab.link()
    tx, rx = lab.sender(link), lab.receiver(link)
    for end in (tx, rx):
        for _ in range(2):
            end.close()
            end.finish()
            end.stop()
    for call in (lambda: tx.send(b"x"), rx.recv):
        with pytest.raises(cwasi.ChannelClosed, match="closed"):
            call()
    link.close()
    link.close()


def test_close_twice_of_a_link_that_nobody_joined(lab: Lab) -> None:
    link = lab.link()
    link.close()
    link.close()


# ---- processes that are killed ----


def apart(lab: Lab, elsewhere: Elsewhere, role: int, verb: str) -> tuple[Link, Endpoint, Callable[[], None]]:
    """The link as it is here, our end, and what kills the process that has the other end."""
    made = lab.link()
    other = RECEIVER if role == SENDER else SENDER
    mine = lab.joined(made, role)
    child = elsewhere(made, other, verb)
    made.close()
    end = lab.sender(mine) if role == SENDER else lab.receiver(mine)
    watch.watch(end)
    return mine, end, child.kill


@pytest.mark.parametrize("read_before", [1, 20])
def test_sender_killed(case: Case, lab: Lab, elsewhere: Elsewhere, read_before: int) -> None:
    """In mid-stream: it is full when the receiver does not read."""
    link, rx, kill = apart(lab, elsewhere, RECEIVER, "endless")
    assert isinstance(rx, cwasi.Receiver)
    for number in range(read_before):
        assert rx.recv(timeout=HANG) == numbered(number)
    time.sleep(0.05)
    kill()
    gone(case, link, rx)
    number = read_before
    with pytest.raises(cwasi.PeerDied):
        while True:
            assert rx.recv(timeout=HANG) == numbered(number)
            number += 1
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)


def test_sender_killed_while_the_receiver_waits(
    case: Case, lab: Lab, elsewhere: Elsewhere, start: Start
) -> None:
    link, rx, kill = apart(lab, elsewhere, RECEIVER, "idle")
    assert isinstance(rx, cwasi.Receiver)
    assert rx.recv(timeout=HANG) == numbered(0)
    waits = rx.metrics().waits
    waiting = start(rx.recv)
    while rx.metrics().waits == waits:
        time.sleep(0.001)
    kill()
    gone(case, link, rx)
    with pytest.raises(cwasi.PeerDied):
        waiting.result(HANG)


@pytest.mark.parametrize("verb", ["idle", "all"])
def test_receiver_killed(case: Case, lab: Lab, elsewhere: Elsewhere, start: Start, verb: str) -> None:
    """One that does not read, so that the sender waits for room; and one that reads, in the middle of a message."""
    link, tx, kill = apart(lab, elsewhere, SENDER, verb)
    assert isinstance(tx, cwasi.Sender)
    sending = start(lambda: [tx.send(numbered(number)) for number in range(1 << 20)])
    while tx.metrics().messages < 2 or (verb == "idle" and tx.metrics().waits == 0):
        time.sleep(0.001)
    kill()
    gone(case, link, tx)
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        sending.result(HANG)
