"""Who meets in the middle of a switch: threads, forked copies, ends that close or are forgotten; and what is left."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from channels import HANG, Start, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import tidy

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


Footprint = tuple[int, int, int]


def footprint() -> Footprint:
    """Descriptors, mappings of rings, threads."""
    gc.collect()
    rings = Path("/proc/self/maps").read_text().count("cwasi-ring")
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("ThreadPool")]
    return len(list(Path("/proc/self/fd").iterdir())), rings, len(threads)


def settled(expected: Footprint) -> bool:
    """Whether it comes back to that; threads need a moment to end."""
    until = time.monotonic() + HANG
    while footprint() != expected and time.monotonic() < until:
        time.sleep(0.01)
    return footprint() == expected


@pytest.fixture
def before() -> Footprint:
    """The footprint, once there is what is made with the first channel and stays."""
    for end in cwasi.open_channel("first"):
        end.close()
    del end
    return footprint()


@pytest.mark.parametrize("transports", [["ring"], ["pipe"], ["ring", "pipe"]], ids="-".join)
def test_a_thousand_switches_leave_nothing(before: Footprint, transports: list[str]) -> None:
    tx, rx = cwasi.open_channel("lab", transports[0])
    during = footprint()
    for number in range(1000):
        tx.switch(transports[number % len(transports)], timeout=HANG)
        tx.send(b"x")
        assert rx.recv(HANG) == b"x"
    assert (tx.epoch, rx.epoch, tx.unread) == (1000, 1000, 0)
    tx.switch(transports[0], timeout=HANG)
    assert rx.try_recv() is None and tx.unread == 0
    tidy.look()   # as the thread does in time
    assert settled(during)
    tx.close()
    rx.close()
    del tx, rx
    assert settled(before)


def test_two_threads_switch_in_turn(start: Start) -> None:
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:

        def switch(target: str) -> None:
            for _ in range(30):
                tx.switch(target, timeout=HANG)

        switching = [start(switch, "ring"), start(switch, "pipe")]
        number = 0
        while not all(task.done() for task in switching):
            tx.send(number.to_bytes(8, "little"))
            assert int.from_bytes(rx.recv(HANG), "little") == number
            number += 1
        for task in switching:
            task.result(HANG)
        assert rx.try_recv() is None
        assert tx.epoch == rx.epoch == 60


def test_the_second_one_waits_no_longer_than_it_said(start: Start) -> None:
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        tx.switch("ring")   # which nobody follows
        first, told = start(tx.switch, "ring", HANG), ""
        while "another thread is just switching it" not in told:   # until then it has not begun
            with pytest.raises(cwasi.Timeout) as caught:
                tx.switch("ring", timeout=0.05)
            told = str(caught.value)
        tx.send(b"x")
        assert rx.recv(HANG) == b"x"
        first.result(HANG)


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_timeout_that_is_none(timeout: float) -> None:
    tx, rx = cwasi.open_channel("lab")
    with tx, rx, pytest.raises(ValueError, match="timeout is"):
        tx.switch("ring", timeout=timeout)


def test_a_closed_sender_does_not_switch(before: Footprint) -> None:
    tx, rx = cwasi.open_channel("lab")
    tx.close()
    with pytest.raises(cwasi.ChannelClosed):
        tx.switch("ring")
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(HANG)
    rx.close()
    del tx, rx
    assert settled(before)


@pytest.mark.parametrize("receivers", [1, 2])
def test_a_receiver_that_has_finished_is_taken_nowhere(before: Footprint, receivers: int) -> None:
    """Else its sender would wait for it there for ever."""
    (tx,), rxs = cwasi.open_ends("lab", 1, receivers)
    rxs[-1].finish()
    with pytest.raises(cwasi.ChannelClosed):
        tx.switch("pipe", timeout=1.0)
    if receivers > 1:
        for number in range(100):   # the other one goes on, on the old transport
            tx.send(bytes(100_000))
            assert len(rxs[0].recv(HANG)) == 100_000, number
    for end in (tx, *rxs):
        end.close()
    del tx, rxs, end
    assert settled(before)


@pytest.mark.parametrize("who", ["receiver", "sender"])
def test_an_end_closes_in_the_middle(before: Footprint, start: Start, who: str) -> None:
    """Whatever comes first: nobody hangs, and nothing is left."""
    for number in range(40):
        tx, rx = cwasi.open_channel("lab")

        def switch(tx: cwasi.Sender = tx) -> None:
            with suppress(cwasi.ChannelClosed, cwasi.PeerDied):
                for at in range(1000):
                    with suppress(cwasi.Timeout):
                        tx.switch("ring" if at % 2 else "pipe", timeout=0.05)

        def receive(rx: cwasi.Receiver = rx) -> None:
            with suppress(cwasi.ChannelClosed, cwasi.PeerDied, cwasi.Cancelled, cwasi.Busy):
                while True:
                    rx.recv(HANG)

        tasks = [start(switch), start(receive)]
        time.sleep(0.0005 * (number % 20))
        if who == "receiver":
            rx.stop()
            tasks[1].result(HANG)
            rx.close()
        else:
            tx.close()
        for task in tasks:
            task.result(HANG)
        tx.close()
        rx.close()
    del tx, rx, switch, receive, tasks, task
    assert settled(before)


def test_ends_are_forgotten_in_the_middle(before: Footprint, start: Start) -> None:
    """The last who holds the ends is the call that switches them."""
    for number in range(20):
        tx, rx = cwasi.open_channel("lab")
        tx.switch("ring" if number % 2 else "pipe")
        switching = start(tx.switch, "ring", 0.05)   # nobody follows to the first
        del tx, rx
        gc.collect()
        with pytest.raises((cwasi.Timeout, cwasi.ChannelClosed)):
            switching.result(HANG)
        del switching
    assert settled(before)


@FORKS
def test_a_forked_copy_does_not_switch() -> None:
    """Its own copy of the receiver would follow, and the real one would not."""
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:

        def child() -> None:
            with pytest.raises(cwasi.BadSpec, match="is a forked copy"):
                tx.switch("ring")
            tx.send(b"from the child")

        assert status_of(in_child(child)) == 0
        assert rx.recv(HANG) == b"from the child"
        rx.abandon()
        tx.abandon()


@FORKS
def test_a_fork_in_the_middle_of_a_switch(start: Start) -> None:
    """The child can give its copies up: who switched is not there."""
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        while tx.try_send(b""):
            pass
        switching = start(tx.switch, "ring", 1.0)
        time.sleep(0.1)

        def child() -> None:
            tx.abandon()
            rx.abandon()

        assert status_of(in_child(child)) == 0
        with pytest.raises(cwasi.Timeout):
            switching.result(HANG)
