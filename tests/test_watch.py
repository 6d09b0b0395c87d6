"""The death of a peer's process, after a fork of one's own: noticed, whoever dies, and by nobody else."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from channels import HANG, Start, fill, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import watch
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.receiver import gathered
from cwasi_fastpath.transport.pipe import PipeLink
from cwasi_fastpath.transport.ring import RingLink

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

Fork = Callable[..., int]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Forks a child that gives up some ends, does something, and then waits to be killed."""
    children: list[int] = []

    def make(body: Callable[[], object], abandon: list[cwasi.Sender] | list[cwasi.Receiver]) -> int:
        def child() -> None:
            for end in abandon:
                end.abandon()
            body()
            while True:
                signal.pause()

        children.append(in_child(child))
        return children[-1]

    yield make
    for pid in children:
        kill(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
    except (ProcessLookupError, ChildProcessError):
        pass   # a test has


def test_a_sender_that_is_killed(transport: str, fork: Fork) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    read, write = os.pipe()

    def send_all() -> None:
        for number in range(10):
            tx.send(b"%d" % number)
        os.write(write, b"sent")

    with rx:
        child = fork(send_all, [rx])
        tx.abandon()
        assert rx.recv(timeout=HANG) == b"0"
        assert os.read(read, 4) == b"sent"
        kill(child)
        assert [rx.recv(timeout=HANG) for _ in range(9)] == [b"%d" % number for number in range(1, 10)]
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)
    os.close(read)
    os.close(write)


def test_a_sender_that_is_killed_while_the_receiver_waits(transport: str, fork: Fork, start: Start) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    with rx:
        child = fork(lambda: tx.send(b"x"), [rx])
        tx.abandon()
        assert rx.recv(timeout=HANG) == b"x"
        receiving = start(rx.recv)
        while rx.metrics().parks == 0:
            time.sleep(0.001)
        kill(child)
        with pytest.raises(cwasi.PeerDied):
            receiving.result(HANG)


def test_a_receiver_that_is_killed(transport: str, fork: Fork, start: Start) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    with tx:
        child = fork(lambda: rx.recv(), [tx])
        rx.abandon()
        count = fill(tx, b"x" * 4000)
        sending = start(lambda: [tx.send(b"x" * 4000) for _ in range(1 << 20)])
        while tx.metrics().waits == 0:
            time.sleep(0.001)
        kill(child)
        with pytest.raises((cwasi.PeerDied, cwasi.ChannelClosed)):
            sending.result(HANG)
        if transport == "ring":
            assert tx.unread >= count - 2, "what was not received can be learnt"


def test_one_of_several_receivers_is_killed(fork: Fork) -> None:
    """It held up the sender; the other one gets all."""
    (tx,), (mine, theirs) = cwasi.open_ends("lab", receivers=2)
    with tx, mine:
        child = fork(lambda: None, [tx, mine])   # type: ignore[list-item]
        theirs.abandon()
        count = fill(tx, b"x" * 100_000)
        for _ in range(count):
            mine.recv()
        kill(child)
        tx.send(b"x" * 100_000, timeout=HANG)
        assert mine.recv(timeout=HANG) == b"x" * 100_000
        assert tx.metrics().lost_peers == 1


def test_one_of_several_senders_is_killed(transport: str, fork: Fork) -> None:
    (mine, theirs), (rx,) = cwasi.open_ends("lab", senders=2, transport=transport)
    with mine, rx:
        child = fork(lambda: theirs.send(b"theirs"), [mine, rx])   # type: ignore[list-item]
        theirs.abandon()
        assert rx.recv(timeout=HANG) == b"theirs"
        kill(child)
        mine.send(b"mine")
        assert rx.recv(timeout=HANG) == b"mine"
        mine.close()
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)
        assert rx.metrics().lost_peers == 1


def test_the_parent_is_killed(transport: str, fork: Fork) -> None:
    """A grandchild notices that the child, who made it, dies."""
    tx, rx = cwasi.open_channel("lab", transport)
    result, said = cwasi.open_channel("result")
    with said:

        def middle() -> None:
            grandchild = os.fork()
            if grandchild == 0:
                tx.abandon()
                with result:
                    try:
                        while True:
                            result.send(rx.recv(timeout=HANG))
                    except cwasi.PeerDied:
                        result.send(b"it died")
                os._exit(0)
            rx.abandon()
            result.abandon()
            tx.send(b"x")

        child = fork(middle, [said])
        for end in (tx, rx, result):
            end.abandon()
        assert said.recv(timeout=HANG) == b"x"
        kill(child)
        assert list(said) == [b"it died"]


def test_wait_and_asyncio_notice_it(transport: str, fork: Fork) -> None:
    for noticed_by_wait in (True, False):
        tx, rx = cwasi.open_channel("lab", transport)
        quiet_tx, quiet = cwasi.open_channel("quiet", transport)
        with rx, quiet, quiet_tx:
            child = fork(lambda: None, [rx, quiet, quiet_tx])   # type: ignore[list-item]
            tx.abandon()
            timer = threading.Timer(0.1, kill, (child,))
            timer.start()
            if noticed_by_wait:
                assert cwasi.wait([quiet, rx], timeout=HANG) is rx
                with pytest.raises(cwasi.PeerDied):
                    rx.recv(timeout=HANG)
            else:
                with pytest.raises(cwasi.PeerDied):
                    asyncio.run(rx.arecv(timeout=HANG))
            timer.join()


def test_who_ends_well_has_not_died(transport: str) -> None:
    """Its bell hangs up, too, but it has said that it is done."""
    for _ in range(20):
        tx, rx = cwasi.open_channel("lab", transport)
        with rx:

            def child(tx: cwasi.Sender = tx, rx: cwasi.Receiver = rx) -> None:
                rx.abandon()
                tx.send(b"x")
                tx.close()

            pid = in_child(child)
            tx.abandon()
            assert list(rx) == [b"x"]
            assert status_of(pid) == 0


def test_channels_that_stay_in_this_process_are_left_alone(transport: str, fork: Fork) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    with tx, rx:
        kill(fork(lambda: None, [tx, rx]))   # type: ignore[list-item]
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"
        with pytest.raises(cwasi.Timeout):
            rx.recv(timeout=0.05)


def test_abandon(transport: str) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    rx.abandon()
    rx.abandon()
    rx.close()
    assert rx.closed
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv()
    tx.close()


def test_an_end_in_use_is_not_abandoned(transport: str, start: Start) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    with tx, rx:
        receiving = start(rx.recv)
        while rx.metrics().waits == 0:
            time.sleep(0.001)
        with pytest.raises(cwasi.Busy):
            rx.abandon()
        tx.send(b"x")
        assert receiving.result(HANG) == b"x"
        tx.send(b"y")
        assert rx.recv(timeout=HANG) == b"y"


def test_nothing_is_left(transport: str) -> None:
    def cycle() -> None:
        tx, rx = cwasi.open_channel("lab", transport)
        assert status_of(in_child(lambda: None)) == 0
        tx.send(b"x")
        tx.close()
        assert list(rx) == [b"x"]
        rx.close()

    cycle()
    gc.collect()
    before = psutil.Process().num_fds(), threading.active_count(), dict(watch._watched)
    for _ in range(30):
        cycle()
    assert (psutil.Process().num_fds(), threading.active_count(), dict(watch._watched)) == before


def test_ends_that_nobody_holds_go_also_after_a_fork() -> None:
    def cycle() -> None:
        cwasi.open_channel("lab")
        ends = cwasi.open_channel("lab")
        assert status_of(in_child(lambda: None)) == 0
        del ends

    cycle()
    gc.collect()
    before = psutil.Process().num_fds()
    for _ in range(20):
        cycle()
    gc.collect()
    assert psutil.Process().num_fds() == before


def test_closing_from_many_threads_after_a_fork(start: Start) -> None:
    for _ in range(50):
        tx, rx = cwasi.open_channel("lab")
        assert status_of(in_child(lambda: None)) == 0
        barrier = threading.Barrier(4)

        def close(end: cwasi.Sender, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(HANG)
            end.close()

        for done in [start(close, tx) for _ in range(4)]:
            done.result(HANG)
        rx.close()


def test_a_ring_beside_a_pipe(fork: Fork) -> None:
    """One receiver of two senders, of whom only the second has a bell."""
    links = [PipeLink.create(), RingLink.create()]
    piped, rung = (cwasi.Sender(link.open(SENDER), "lab") for link in links)
    rx = cwasi.Receiver(gathered([link.open(RECEIVER) for link in links]), "lab")
    pid = fork(lambda: rung.send(b"x"), abandon=[piped])
    rung.abandon()
    assert rx.recv(timeout=HANG) == b"x"
    piped.close()
    waiting = threading.Timer(0.2, kill, (pid,))
    waiting.start()
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    waiting.join()
    rx.close()


def test_an_end_that_has_the_descriptor_of_one_that_went_without_a_word() -> None:
    met = False
    for free in range(10):
        low = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
        tx, rx = cwasi.open_channel("lab")
        watch.watch(rx)
        (bell,) = rx.bells()
        del rx
        gc.collect()
        while (filler := os.open("/dev/null", os.O_RDONLY)) < bell:
            low.append(filler)
        os.close(filler)
        for descriptor in low[:free]:
            os.close(descriptor)
        ends = cwasi.open_channel("other")
        for end in ends:
            met |= bell in end.bells()
            end.close()
        for descriptor in low[free:]:
            os.close(descriptor)
        tx.close()
    assert met, "or it tests nothing"
