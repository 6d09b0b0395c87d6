"""One end of a channel: who may use it, what it counts, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from channels import HANG, Ends, Start, eventually, fill, held, shared_memory

import cwasi_fastpath as cwasi
from cwasi_fastpath.channel import Channel
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Locality, Mode, Transport
from cwasi_fastpath.policy import Decision
from cwasi_fastpath.transport.pipe import PipeLink
from cwasi_fastpath.transport.ring import RingLink

# ---- one thread at a time ----


def test_a_second_thread_is_told_that_the_end_is_busy(ends: Ends, start: Start) -> None:
    tx, rx = ends
    receiving = start(rx.recv)
    while rx.metrics().waits == 0:
        time.sleep(0.001)
    for call in (rx.recv, rx.peek, lambda: rx.recv_into(bytearray(9))):
        with pytest.raises(cwasi.Busy, match="another thread"):
            call()
    tx.send(b"for the first")
    assert receiving.result(HANG) == b"for the first"

    fill(tx, b"x" * 1000)
    before = tx.metrics().waits
    sending = start(tx.send, b"x" * 1000)
    while tx.metrics().waits == before:
        time.sleep(0.001)   # the other thread is not inside yet, and would find us there
    with pytest.raises(cwasi.Busy, match="another thread"):
        tx.send(b"x" * 1000, timeout=0)
    rx.close()
    with pytest.raises(cwasi.ChannelError):
        sending.result(HANG)


def test_close_while_a_thread_waits_inside(ends: Ends, start: Start) -> None:
    tx, rx = ends
    receiving = start(rx.recv)
    while rx.metrics().waits == 0:
        time.sleep(0.001)
    rx.finish(linger=0.05)
    with pytest.raises(cwasi.Cancelled):
        receiving.result(HANG)
    rx.close()
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        tx.send(b"x")


def test_close_from_many_threads(transport: str, start: Start) -> None:
    for _ in range(50):
        tx, rx = cwasi.open_channel("lab", transport)
        closed: list[str] = []
        tx.on_close = lambda end: closed.append(end.name)   # noqa: B023
        barrier = threading.Barrier(4)

        def use(call: Callable[[], object], barrier: threading.Barrier = barrier) -> None:
            barrier.wait(HANG)
            with suppress(cwasi.ChannelError):
                call()

        calls = (tx.close, tx.close, lambda: tx.send(b"x"), tx.metrics)   # noqa: B023
        for done in [start(use, call) for call in calls]:
            done.result(HANG)
        rx.close()
        assert closed == ["lab"]


def test_close_twice_and_use_after_it(ends: Ends) -> None:
    tx, rx = ends
    for end in ends:
        end.close()
        end.close()
        end.stop()
        end.finish()
    uses: list[Callable[[], object]] = [lambda: tx.send(b"x"), rx.recv, rx.peek, lambda: tx.sample(2)]
    for use in uses:
        with pytest.raises(cwasi.ChannelClosed, match="closed"):
            use()


# ---- what is counted ----


def test_metrics_outlive_the_ends(ends: Ends) -> None:
    tx, rx = ends
    tx.sample(1)
    for size in (0, 10, 20_000):
        tx.send(bytes(size))
        rx.recv()
    before = tx.metrics(), rx.metrics()
    tx.close()
    rx.close()
    assert (tx.metrics(), rx.metrics()) == before
    sent, received = before
    assert (sent.messages, sent.bytes) == (received.messages, received.bytes) == (3, 20_010)
    assert sent.copied_bytes >= 20_010 and received.copied_bytes >= 20_010
    assert sum(received.latency) == 3 and sum(sent.latency) == 0


@pytest.mark.parametrize(("every", "timed"), [(1, 40), (2, 20), (8, 5), (64, 1), (1 << 31, 1)])
def test_one_message_in_so_many_is_timed(ends: Ends, every: int, timed: int) -> None:
    tx, rx = ends
    tx.sample(every)
    for _ in range(40):
        tx.send(b"x")
        rx.recv()
    assert sum(rx.metrics().latency) == timed


@pytest.mark.parametrize("every", [0, -1, 3, 6, 1 << 32, 1 << 64])
def test_samples_are_powers_of_two(ends: Ends, every: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ends[0].sample(every)


def sleeps(thread: int) -> bool:
    """In the kernel's words."""
    return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_waits_are_counted(ends: Ends, start: Start) -> None:
    tx, rx = ends
    thread: list[int] = []
    receiving = start(lambda: (thread.append(threading.get_native_id()), rx.recv()))
    while rx.metrics().waits == 0 or not sleeps(thread[0]):
        time.sleep(0.001)
    tx.send(b"x")
    receiving.result(HANG)
    assert rx.metrics().waits == 1 and rx.metrics().parks >= 1
    for _ in range(10):
        tx.send(b"y")
    for _ in range(10):
        rx.recv()
    assert rx.metrics().waits == 1, "what is there already is received without waiting"


def test_the_metrics_of_a_channel(transport: str) -> None:
    link = RingLink.create() if transport == "ring" else PipeLink.create()
    decision = Decision(Mode.LOCAL, Transport(transport), "for the test", ("a line",))
    channel = Channel("lab", {("a", "b"): decision})
    tx, rx = channel.join(SENDER, "a", [link]), channel.join(RECEIVER, "b", [link])
    assert isinstance(tx, cwasi.Sender) and isinstance(rx, cwasi.Receiver)
    tx.sample(1)
    tx.send(b"12345")
    assert (channel.metrics().sent, channel.metrics().received) == (1, 0)
    assert channel.metrics().p50_ns is None
    rx.recv()
    channel.close()
    channel.close()
    metrics = channel.metrics()
    assert (metrics.sent, metrics.received, metrics.bytes) == (1, 1, 5)
    assert metrics.p50_ns is not None and metrics.p99_ns is not None
    assert "for the test" in channel.explain() and "a line" in channel.explain()
    assert repr(channel) == f"<Channel 'lab': local, {transport}>"


# ---- nothing is left ----


def test_two_hundred_channels_leave_nothing(transport: str) -> None:
    def cycle() -> None:
        tx, rx = cwasi.open_channel("lab", transport)
        tx.send(b"x" * 20_000)
        rx.recv()
        tx.close()
        rx.close()

    def rings() -> set[str]:
        """Those that are mapped, by their inodes."""
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[4] for line in lines if "cwasi-ring" in line}

    cycle()
    gc.collect()
    shared, before = shared_memory(), held() | rings()
    for _ in range(200):
        cycle()
    assert not (held() | rings()) - before
    eventually(lambda: not shared_memory() - shared)   # that of other sessions comes and goes


def test_what_cannot_be_opened_leaves_nothing() -> None:
    before = held()
    for _ in range(20):
        for transport in ("ring", "pipe"):
            with pytest.raises(cwasi.BadName):
                cwasi.open_channel("NO", transport)
        with pytest.raises(OSError):
            RingLink.create(12345)
    assert not held() - before


def test_locality_and_mode_words() -> None:
    """They are what guests and reports see."""
    assert [str(mode) for mode in Mode] == ["local", "proximal", "remote"]
    assert [int(mode) for mode in Mode] == [int(locality) for locality in Locality] == [0, 1, 2]
