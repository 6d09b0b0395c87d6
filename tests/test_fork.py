"""An end of a channel in each of two processes, and what happens when one of them dies."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import struct
import threading
import time

import pytest
from channels import HANG, Ends, Start, content, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import tidy
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.transport.pipe import PipeLink
from cwasi_fastpath.transport.ring import RingLink

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def test_an_end_in_each_process(ends: Ends) -> None:
    tx, rx = ends

    def child() -> None:
        for i in range(200):
            tx.send(content(i, i * 997 % 50_000))
        tx.close()

    pid = in_child(child)
    for i in range(200):
        assert rx.recv(timeout=HANG) == content(i, i * 997 % 50_000)
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    assert status_of(pid) == 0


def test_the_other_way(ends: Ends) -> None:
    tx, rx = ends

    def child() -> None:
        for i in range(200):
            assert rx.recv(timeout=HANG) == content(i, i * 997 % 50_000)

    pid = in_child(child)
    for i in range(200):
        tx.send(content(i, i * 997 % 50_000), timeout=HANG)
    assert status_of(pid) == 0


def test_a_forked_child_that_ends_takes_nothing_of_its_parent_along(transport: str) -> None:
    """It has copies of all ends; those are not its own to close when its interpreter ends."""
    ends = list(cwasi.open_channel("lab", transport))

    def child() -> None:
        ends.clear()
        gc.collect()

    assert status_of(in_child(child)) == 0
    tx, rx = ends
    with tx, rx:
        tx.send(b"still open")
        assert rx.recv(timeout=HANG) == b"still open"


def test_two_processes_cannot_both_send_unnoticed() -> None:
    """A fork copies the end of a ring; the second who uses it finds that its words are not there any more."""
    tx, rx = cwasi.open_channel("lab", "ring")
    with rx:
        assert status_of(in_child(lambda: tx.send(b"from the child"))) == 0
        with pytest.raises(cwasi.Corrupted):
            tx.send(b"from the parent")
        assert rx.recv(timeout=HANG) == b"from the child"
        tx.close()


@pytest.mark.parametrize("size", [8, 3_000, 100_000, 6_000_000])
def test_a_sender_that_is_killed_in_mid_stream(transport: str, size: int) -> None:
    """What its sends had committed arrives, whole and in order; then PeerDied. A pipe knows of the death by itself."""
    link = RingLink.create() if transport == "ring" else PipeLink.create()
    with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page).cast("Q") as committed:

        def child() -> None:
            tx = cwasi.Sender(link.open(SENDER), "lab")
            link.close()
            for i in range(1 << 30):
                tx.send(struct.pack("<Q", i) * (size // 8))
                committed[0] = i + 1  # one store: pack_into() clears the bytes first, and the kill may come then

        pid = in_child(child)
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        link.close()
        received = [rx.recv(timeout=HANG) for _ in range(20)]
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) == -signal.SIGKILL
        if transport == "ring":
            rx.peer_died()
        with pytest.raises(cwasi.PeerDied):
            while True:
                received.append(rx.recv(timeout=HANG))
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)
        rx.close()
        count = committed[0]
    assert len(received) in (count, count + 1)
    for i, message in enumerate(received):
        assert message == struct.pack("<Q", i) * (size // 8), i


def test_a_receiver_that_is_killed_in_mid_stream(transport: str, start: Start) -> None:
    link = RingLink.create() if transport == "ring" else PipeLink.create()

    def child() -> None:
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        link.close()
        for _ in range(20):
            rx.recv()
        signal.pause()

    pid = in_child(child)
    tx = cwasi.Sender(link.open(SENDER), "lab")
    link.close()
    sending = start(lambda: [tx.send(bytes(10_000)) for _ in range(1 << 20)])
    while tx.metrics().waits == 0:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    if transport == "ring":
        tx.peer_died()
    with pytest.raises((cwasi.PeerDied, cwasi.ChannelClosed)):
        sending.result(HANG)
    tx.close()


def test_a_fork_while_another_thread_is_about_to_close() -> None:
    """What that thread holds, it holds in the parent only."""
    tx, rx = cwasi.open_channel("lab")
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tx._closing:
            inside.set()
            done.wait(HANG)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(HANG)

    def child() -> None:
        signal.alarm(int(HANG))
        tx.abandon()

    assert status_of(in_child(child)) == 0
    done.set()
    thread.join()
    tx.send(b"x")
    assert rx.recv() == b"x"
    tx.close()
    rx.close()


def test_a_fork_waits_for_who_tidies() -> None:
    """The child would find the end occupied by a thread that it does not have."""
    tx, rx = cwasi.open_channel("lab")
    inside = threading.Event()
    steps: list[str] = []

    def hold() -> None:
        with tidy._lock:
            inside.set()
            time.sleep(0.2)
            steps.append("tidied")

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(HANG)

    def child() -> None:
        assert steps == ["tidied"]
        tx.send(b"x")

    pid = in_child(child)
    assert status_of(pid) == 0 and rx.recv() == b"x"
    thread.join()
    rx.close()
    tx.close()


@pytest.mark.parametrize("transport", ["ring", "pipe"])
def test_a_copy_of_an_end_that_another_thread_was_inside(transport: str, start: Start) -> None:
    """That thread is in the parent only: the copy can be given up or closed, and does nothing else."""
    tx, rx = cwasi.open_channel("lab", transport)
    with tx, rx:
        waiting = start(rx.recv, HANG)
        until = time.monotonic() + HANG
        while True:
            try:
                rx.recv(0)
            except cwasi.Busy:
                break
            except cwasi.WouldWait:
                if waiting.done():   # it found us inside
                    assert isinstance(waiting.exception(), cwasi.Busy)
                    waiting = start(rx.recv, HANG)
                assert time.monotonic() < until

        def child() -> None:
            signal.alarm(int(HANG))
            with pytest.raises(cwasi.ChannelClosed):
                rx.recv(0)
            rx.abandon()
            tx.abandon()
            assert rx.closed and tx.closed

        def careless() -> None:
            signal.alarm(int(HANG))
            rx.close()

        assert status_of(in_child(child)) == 0
        assert status_of(in_child(careless)) == 0
        tx.send(b"on")
        assert waiting.result(HANG) == b"on"
