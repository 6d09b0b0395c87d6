"""Channels of several senders and receivers, and waiting for several channels: in threads and in asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from channels import HANG, TRANSPORTS, Ends, Start, content, fill, held

import cwasi_fastpath as cwasi
from cwasi_fastpath.transport import pipe, tcp
from cwasi_fastpath.transport.ring import LONGEST_WHOLE, READERS_MAX

LONGEST_OF = {"ring": LONGEST_WHOLE, "pipe": pipe.LONGEST_WHOLE, "tcp": tcp.LONGEST_WHOLE}

Several = tuple[tuple[cwasi.Sender, ...], tuple[cwasi.Receiver, ...]]
Open = Callable[..., Several]


@pytest.fixture
def open_ends() -> Iterator[Open]:
    """cwasi.open_ends, whose ends are closed afterwards."""
    opened: list[cwasi.Sender | cwasi.Receiver] = []

    def make(senders: int, receivers: int, transport: str = "ring") -> Several:
        txs, rxs = cwasi.open_ends("lab", senders, receivers, transport)
        opened.extend((*txs, *rxs))
        return txs, rxs

    yield make
    for end in opened:
        end.stop()
        end.close()


# ---- several receivers ----


def test_the_slowest_receiver_holds_up_the_sender(open_ends: Open) -> None:
    (tx,), (quick, slow) = open_ends(1, 2)
    count = fill(tx, b"x" * 100_000)
    assert tx.unread == count
    for _ in range(count):
        quick.recv(timeout=0)
    assert quick.try_recv() is None
    assert tx.unread == count, "as the slowest has it"
    with pytest.raises(cwasi.WouldWait):
        tx.send(b"x" * 100_000, timeout=0)
    slow.recv(timeout=0)
    assert tx.unread == count - 1
    tx.send(b"x" * 100_000, timeout=0)


def test_a_receiver_that_is_said_to_be_dead(open_ends: Open, transport: str) -> None:
    (tx,), rxs = open_ends(1, 2, transport)
    fill(tx, b"x" * 100_000)
    while rxs[1].try_recv() is not None:
        pass
    tx.peer_died(0)
    tx.send(b"goes on", timeout=HANG)
    assert rxs[1].recv() == b"goes on"
    assert tx.metrics().lost_peers == 1
    tx.peer_died(1)
    with pytest.raises(cwasi.PeerDied):
        tx.send(b"nobody")


# ---- several senders ----


@pytest.mark.parametrize("receivers", [1, 3])
@pytest.mark.parametrize("transport", [*TRANSPORTS, "tcp"])
def test_the_order_of_each_sender(open_ends: Open, start: Start, transport: str, receivers: int) -> None:
    longest = LONGEST_OF[transport] - 1 if receivers > 1 else 20_000
    txs, rxs = open_ends(3, receivers, transport)

    def send_all(number: int) -> None:
        for i in range(200):
            txs[number].send(bytes([number]) + content(i, i * 499 % min(longest, 20_000)), timeout=HANG)
        txs[number].close()

    def receive_all(rx: cwasi.Receiver) -> list[list[bytes]]:
        found: list[list[bytes]] = [[], [], []]
        for message in rx:
            found[message[0]].append(message[1:])
        return found

    receiving = [start(receive_all, rx) for rx in rxs]
    for sending in [start(send_all, number) for number in range(3)]:
        sending.result(HANG)
    expected = [content(i, i * 499 % min(longest, 20_000)) for i in range(200)]
    for received in receiving:
        assert received.result(HANG) == [expected] * 3
    for rx in rxs:
        sources = rx.sources()
        assert [source.messages for source in sources] == [200] * 3
        assert {source.bytes for source in sources} == {sum(map(len, expected)) + 200}
        assert rx.metrics().messages == 600 and rx.metrics().lost_peers == 0
        rx.close()
        assert rx.sources() == sources, "also after it is closed"


@pytest.mark.parametrize("transport", [*TRANSPORTS, "tcp"])
def test_senders_that_end(open_ends: Open, transport: str) -> None:
    txs, (rx,) = open_ends(3, 1, transport)
    for number, tx in enumerate(txs):
        tx.send(b"rest of %d" % number)
    txs[0].close()
    txs[1].finish(failed=True)
    assert {rx.recv(timeout=HANG) for _ in range(3)} == {b"rest of 0", b"rest of 1", b"rest of 2"}
    with pytest.raises(cwasi.Timeout):
        rx.recv(timeout=0.02)
    txs[2].send(b"goes on")
    assert rx.recv(timeout=HANG) == b"goes on"
    txs[2].close()
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    assert rx.metrics().lost_peers == 1


def test_one_sender_has_no_sources(ends: Ends) -> None:
    assert ends[1].sources() == ()


@pytest.mark.parametrize(
    ("senders", "receivers", "transport"),
    [
        (0, 1, "ring"),
        (1, 0, "ring"),
        (0, 2, "pipe"),
        (1, -1, "pipe"),
        (1, READERS_MAX + 1, "pipe"),
        (1, READERS_MAX + 1, "tcp"),
    ],
)
def test_what_cannot_be(senders: int, receivers: int, transport: str) -> None:
    before = held()
    with pytest.raises(cwasi.BadSpec):
        cwasi.open_ends("lab", senders, receivers, transport)
    with pytest.raises(OSError):
        cwasi.open_ends("lab", 2, READERS_MAX + 1)
    assert not held() - before


def test_as_many_receivers_as_there_may_be(open_ends: Open, transport: str) -> None:
    (tx,), rxs = open_ends(1, READERS_MAX, transport)
    tx.send(b"to all")
    assert [rx.recv(timeout=HANG) for rx in rxs] == [b"to all"] * READERS_MAX
    assert len(tx.bells()) == READERS_MAX


@pytest.mark.parametrize("how", [(3, 1), (1, 3), (2, 2)])
def test_several_ends_leave_nothing(how: tuple[int, int], transport: str) -> None:
    def cycle() -> None:
        txs, rxs = cwasi.open_ends("lab", *how, transport)
        for tx in txs:
            tx.send(b"x")
        for rx in rxs:
            for _ in txs:
                rx.recv()
        for end in (*txs, *rxs):
            end.close()

    cycle()
    before = held()
    for _ in range(50):
        cycle()
    assert not held() - before


# ---- a receiver as an iterator ----


def test_iteration_ends_with_the_sender(ends: Ends) -> None:
    tx, rx = ends
    for number in range(5):
        tx.send(b"%d" % number)
    tx.close()
    assert list(rx) == [b"0", b"1", b"2", b"3", b"4"]
    assert list(rx) == []


def test_iteration_tells_of_death_and_of_its_own_end(ends: Ends) -> None:
    tx, rx = ends
    tx.send(b"x")
    tx.finish(failed=True)
    messages = iter(rx)
    assert next(messages) == b"x"
    with pytest.raises(cwasi.PeerDied):
        next(messages)
    rx.close()
    with pytest.raises(cwasi.ChannelClosed):
        next(iter(rx))


# ---- waiting for several ----


@contextmanager
def several(transport: str, count: int = 3) -> Iterator[list[Ends]]:
    pairs = [cwasi.open_channel(f"lab{number}", transport) for number in range(count)]
    yield pairs
    for pair in pairs:
        for end in pair:
            end.stop()
            end.close()


def test_wait(transport: str, start: Start) -> None:
    with several(transport) as pairs:
        receivers = [rx for _, rx in pairs]
        with pytest.raises(cwasi.WouldWait):
            cwasi.wait(receivers, timeout=0)
        with pytest.raises(cwasi.Timeout):
            cwasi.wait(receivers, timeout=0.02)
        for tx, rx in pairs:
            waiting = start(cwasi.wait, receivers)
            time.sleep(0.01)
            tx.send(b"x")
            assert waiting.result(HANG) is rx
            assert cwasi.wait(receivers, timeout=0) is rx
            rx.recv(timeout=0)
        pairs[1][0].close()
        assert cwasi.wait(receivers) is receivers[1], "its end is news, too"


def test_what_cannot_be_waited_for(transport: str, start: Start) -> None:
    with several(transport) as pairs:
        receivers = [rx for _, rx in pairs]
        with pytest.raises(ValueError, match="at least one"):
            cwasi.wait([])
        with pytest.raises(cwasi.Busy):
            cwasi.wait([receivers[0], receivers[1], receivers[0]])
        waiting = start(receivers[0].recv)
        while receivers[0].metrics().waits == 0:
            time.sleep(0.001)
        with pytest.raises(cwasi.Busy):
            cwasi.wait(receivers)
        pairs[0][0].send(b"x")
        assert waiting.result(HANG) == b"x"
        receivers[2].close()
        with pytest.raises(cwasi.ChannelClosed):
            cwasi.wait(receivers)


# ---- asyncio ----


def test_tasks_take_turns(transport: str) -> None:
    """A ping-pong of two tasks in one thread: neither may hold up the other."""

    async def answer(rx: cwasi.Receiver, tx: cwasi.Sender) -> None:
        for _ in range(300):
            tx.send(await rx.arecv())

    async def ask(tx: cwasi.Sender, rx: cwasi.Receiver) -> None:
        for number in range(300):
            tx.send(b"%d" % number)
            assert await rx.arecv(timeout=HANG) == b"%d" % number

    async def main() -> None:
        await asyncio.wait_for(asyncio.gather(answer(there[1], back[0]), ask(there[0], back[1])), HANG)

    with several(transport, 2) as (there, back):
        asyncio.run(main())


def test_arecv_of_several_senders(open_ends: Open, transport: str, start: Start) -> None:
    txs, (rx,) = open_ends(3, 1, transport)

    def send_all(number: int) -> None:
        for i in range(100):
            txs[number].send(content(i, 5000), timeout=HANG)
            time.sleep(0.0001)
        txs[number].close()

    async def main() -> int:
        count = 0
        while True:
            try:
                await rx.arecv(timeout=HANG)
            except cwasi.ChannelClosed:
                return count
            count += 1

    sending = [start(send_all, number) for number in range(3)]
    assert asyncio.run(main()) == 300
    for done in sending:
        done.result(HANG)


def test_arecv_times_out(ends: Ends) -> None:
    tx, rx = ends

    async def main() -> None:
        with pytest.raises(cwasi.WouldWait):
            await rx.arecv(timeout=0)
        begin = time.monotonic()
        with pytest.raises(cwasi.Timeout, match="'lab'"):
            await rx.arecv(timeout=0.05)
        assert time.monotonic() - begin >= 0.04
        tx.send(b"x")
        assert await rx.arecv(timeout=0) == b"x"

    asyncio.run(main())
    tx.send(b"and as before")
    assert rx.recv(timeout=0) == b"and as before"


def test_one_task_at_a_time(ends: Ends) -> None:
    tx, rx = ends

    async def main() -> None:
        waiting = asyncio.create_task(rx.arecv())
        await asyncio.sleep(0.02)
        with pytest.raises(cwasi.Busy, match="another task"):
            await rx.arecv()
        tx.send(b"x")
        assert await waiting == b"x"

    asyncio.run(main())


def test_a_task_that_is_cancelled_spoils_nothing(ends: Ends) -> None:
    tx, rx = ends

    async def main() -> None:
        for _ in range(3):
            waiting = asyncio.create_task(rx.arecv())
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        tx.send(b"x")
        assert await rx.arecv() == b"x"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda tx, rx: tx.close(), cwasi.ChannelClosed),
        (lambda tx, rx: tx.finish(failed=True), cwasi.PeerDied),
        (lambda tx, rx: rx.peer_died(), cwasi.PeerDied),
        (lambda tx, rx: rx.stop(), cwasi.Cancelled),
        (lambda tx, rx: rx.close(), cwasi.ChannelClosed),
    ],
)
def test_arecv_ends(ends: Ends, end: Callable[..., None], error: type[Exception]) -> None:
    """While the task waits: by the other side, and by this one."""
    tx, rx = ends

    async def main() -> None:
        waiting = asyncio.create_task(rx.arecv())
        await asyncio.sleep(0.02)
        end(tx, rx)
        with pytest.raises(error):
            await asyncio.wait_for(waiting, HANG)

    asyncio.run(main())


# ---- Ctrl-C ----


def interrupted(call: Callable[[], object]) -> None:
    """Makes a call that waits for ever, in this thread, which must be the main one, and presses Ctrl-C."""
    assert threading.current_thread() is threading.main_thread()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):   # which may come as soon as the timer runs
        timer.start()
        call()
    timer.join()


def test_ctrl_c_ends_a_receive(ends: Ends) -> None:
    tx, rx = ends
    for call in (rx.recv, rx.peek, lambda: rx.recv(timeout=HANG), lambda: cwasi.wait([rx]), lambda: list(rx)):
        interrupted(call)
    tx.send(b"x")
    assert rx.recv(timeout=HANG) == b"x"


def test_ctrl_c_ends_a_send(ends: Ends) -> None:
    tx, rx = ends
    count = fill(tx, b"x" * 4000)
    interrupted(lambda: tx.send(b"y" * 4000))
    for _ in range(count):
        assert rx.recv(timeout=0) == b"x" * 4000
    with pytest.raises(cwasi.WouldWait):
        rx.recv(timeout=0)


def test_other_signals_do_not(ends: Ends, start: Start) -> None:
    tx, rx = ends
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:

        def disturb() -> None:
            for _ in range(20):
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.01)
            tx.send(b"x")

        disturbing = start(disturb)
        assert rx.recv(timeout=HANG) == b"x"
        disturbing.result(HANG)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen


def test_several_of_both_take_no_message_that_streams(open_ends: Open, start: Start, transport: str) -> None:
    """One receiver would wait for the rest of it from one sender, another from another, and nobody would go on."""
    txs, rxs = open_ends(2, 2, transport)
    longest = LONGEST_OF[transport]
    for tx in txs:
        with pytest.raises(cwasi.MessageTooLong):
            tx.send(bytes(longest + 1))
    sent = {content(seed, longest) for seed in (1, 2)}
    sending = [start(tx.send, message, HANG) for tx, message in zip(txs, sent, strict=True)]
    receiving = [start(lambda rx=rx: {rx.recv(HANG), rx.recv(HANG)}) for rx in rxs]
    assert all(received.result(HANG) == sent for received in receiving)
    assert [done.result(HANG) for done in sending] == [None, None]


def test_several_of_both_that_fill_up_go_on(open_ends: Open, start: Start, transport: str) -> None:
    """Each waits for the others, and nobody for ever: what is written and read by turns in every direction."""
    txs, rxs = open_ends(2, 2, transport)
    message, count = bytes(min(LONGEST_OF[transport], 100_000)), 1000
    sending = [start(lambda tx=tx: [tx.send(message, HANG) for _ in range(count)]) for tx in txs]
    receiving = [start(lambda rx=rx: [len(rx.recv(HANG)) for _ in range(2 * count)]) for rx in rxs]
    for done in (*sending, *receiving):
        assert len(done.result(HANG)) in (count, 2 * count)


@pytest.mark.parametrize(("senders", "receivers"), [(1, 2), (2, 1)])
def test_else_there_is_no_such_limit(
    open_ends: Open, start: Start, senders: int, receivers: int, transport: str
) -> None:
    txs, rxs = open_ends(senders, receivers, transport)
    message = content(3, LONGEST_WHOLE + 1)
    receiving = [start(rx.recv, HANG) for rx in rxs]
    txs[0].send(message, HANG)
    assert all(received.result(HANG) == message for received in receiving)
