"""The import module as a guest sees it: every function, its results and its errors, one call at a time."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

import cwasi_fastpath as cwasi
from cwasi_fastpath._wasmtime import GuestState, define_imports

# WASI's numbers, which are not Linux's.
EAGAIN, EBADF, EBUSY, ECANCELED, ECONNRESET, EFAULT, EINVAL = -6, -8, -10, -11, -15, -21, -28
EIO, EMSGSIZE, EPIPE, ETIMEDOUT, ENOTCAPABLE = -29, -35, -64, -73, -76
SEND, RECEIVE = 1, 2
PAGE = 65536
HEADER = Path(__file__).parent.parent / "cwasi_fastpath/include/cwasi.h"
HANG = 60.0


class Driver:
    """A guest whose every call is made here. `out` it sends to us, `in` it receives from us.

    `ask` it calls, and we answer; `serve` it answers, and we are two that call.
    """

    def __init__(self, transport: str) -> None:
        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        self.tx, self.granted_rx = cwasi.open_channel("in", transport)
        self.granted_tx, self.rx = cwasi.open_channel("out", transport)
        ask, self.asked = cwasi.open_channel("ask", transport)
        self.answer, answers = cwasi.open_channel("ask", transport)
        self.callers, (serve,) = cwasi.open_ends("serve", senders=2, transport=transport)
        backs = [cwasi.open_channel("serve", transport) for _ in self.callers]
        self.answered = [rx for _, rx in backs]
        self.granted = [ask, answers, serve, *(tx for tx, _ in backs)]
        self.ends = (
            *(self.granted_tx, self.granted_rx, self.tx, self.rx, self.asked, self.answer),
            *(*self.granted, *self.callers, *self.answered),
        )
        self.state = GuestState(self.store)
        self.state.grant("in", self.granted_rx)
        self.state.grant("out", self.granted_tx)
        self.state.grant("ask", ask, [answers])
        self.state.grant("serve", serve, [tx for tx, _ in backs])
        define_imports(linker, self.state)
        module = wasmtime.Module(engine, (Path(__file__).parent / "guests/driver.wat").read_text())
        self.exports = linker.instantiate(self.store, module).exports(self.store)
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self.memory = memory

    def call(self, name: str, *values: int) -> int:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        # i32 parameters: Python's side wants them signed
        result = function(self.store, *(value - (1 << 32) if value >= 1 << 31 else value for value in values))
        assert isinstance(result, int)
        return result

    def open(self, name: bytes, flags: int) -> int:
        self.memory.write(self.store, name, 1000)
        return self.call("open", 1000, len(name), flags)

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.memory.read(self.store, at, at + length))

    def request(self, handle: int, text: bytes, timeout: int = -1, capacity: int = 100) -> int:
        """A call whose answer goes to 3000."""
        self.memory.write(self.store, text, 2000)
        return self.call("call", handle, 2000, len(text), 3000, capacity, timeout)

    def reply(self, text: bytes) -> int:
        self.memory.write(self.store, text, 2000)
        return self.call("reply", 2000, len(text))

    def wait(self, *handles: int, timeout: int = -1) -> int:
        self.memory.write(self.store, struct.pack(f"<{len(handles)}i", *handles), 4000)
        return self.call("wait", 4000, len(handles), timeout)


@pytest.fixture(params=["ring", "pipe"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = Driver(request.param)
    yield driver
    for end in driver.ends:
        end.stop()
        end.close()


@pytest.fixture
def out(driver: Driver) -> int:
    return driver.open(b"out", SEND)


@pytest.fixture
def incoming(driver: Driver) -> int:
    return driver.open(b"in", RECEIVE)


def test_send_and_receive(driver: Driver, out: int, incoming: int) -> None:
    driver.memory.write(driver.store, b"hello", 5000)
    assert driver.call("send", out, 5000, 5, -1) == 0
    assert driver.rx.recv() == b"hello"
    driver.tx.send(b"world!")
    assert driver.call("peek", incoming, -1) == 6
    assert driver.call("recv", incoming, 6000, 100, -1) == 6
    assert driver.memory.read(driver.store, 6000, 6007) == b"world!\0"


def test_empty_messages(driver: Driver, out: int, incoming: int) -> None:
    """Also at the very end of the memory, where there is no byte any more."""
    assert driver.call("send", out, PAGE, 0, -1) == 0
    assert driver.rx.recv() == b""
    driver.tx.send(b"")
    assert driver.call("peek", incoming, 0) == 0
    assert driver.call("recv", incoming, PAGE, 0, 0) == 0


def test_up_to_the_last_byte_of_the_memory(driver: Driver, out: int, incoming: int) -> None:
    assert driver.call("send", out, 0, PAGE, -1) == 0
    assert len(driver.rx.recv()) == PAGE
    driver.tx.send(b"x" * PAGE)
    assert driver.call("recv", incoming, 0, PAGE, -1) == PAGE
    assert driver.memory.read(driver.store, PAGE - 1, PAGE) == b"x"


@pytest.mark.parametrize(
    ("at", "length"),
    [(PAGE, 1), (PAGE - 1, 2), (1, PAGE), (0, PAGE + 1), (1 << 31, 1), (2**32 - 1, 1), (2**32 - 1, 2), (16, 2**32 - 1)],
)
def test_pointers_outside_the_memory(driver: Driver, out: int, incoming: int, at: int, length: int) -> None:
    assert driver.call("send", out, at, length, -1) == EFAULT
    assert driver.call("recv", incoming, at, length, -1) == EFAULT
    assert driver.call("open", at, length, SEND) == EFAULT
    with pytest.raises(cwasi.WouldWait):
        driver.rx.recv(timeout=0)


def test_pointers_after_the_memory_grew(driver: Driver, out: int) -> None:
    assert driver.call("send", out, PAGE, 1, 0) == EFAULT
    assert driver.call("grow", 1) == 1
    assert driver.call("send", out, PAGE, 1, 0) == 0
    assert driver.call("send", out, 2 * PAGE, 1, 0) == EFAULT


def test_a_message_over_a_gibibyte(driver: Driver, out: int) -> None:
    assert driver.call("grow", 16384) == 1   # 1 GiB more, never touched
    assert driver.call("send", out, 0, (1 << 30) + 1, 0) == EMSGSIZE
    driver.memory.write(driver.store, b"next", 0)
    assert driver.call("send", out, 0, 4, 0) == 0
    assert driver.rx.recv() == b"next"


def test_a_short_buffer_keeps_the_message(driver: Driver, incoming: int) -> None:
    driver.tx.send(b"0123456789")
    for capacity in (0, 9):
        assert driver.call("recv", incoming, 0, capacity, 0) == EMSGSIZE
    assert driver.call("recv", incoming, 0, 10, 0) == 10


def test_times(driver: Driver, out: int, incoming: int) -> None:
    assert driver.call("recv", incoming, 0, 10, 0) == EAGAIN
    assert driver.call("peek", incoming, 0) == EAGAIN
    begin = time.monotonic()
    assert driver.call("recv", incoming, 0, 10, 50) == ETIMEDOUT
    assert driver.call("peek", incoming, 50) == ETIMEDOUT
    assert time.monotonic() - begin >= 0.1
    while (result := driver.call("send", out, 0, 4000, 0)) == 0:
        pass
    assert result == EAGAIN
    assert driver.call("send", out, 0, 4000, 20) == ETIMEDOUT
    for timeout in (-2, -(2**31)):
        assert driver.call("send", out, 0, 1, timeout) == EINVAL
        assert driver.call("recv", incoming, 0, 1, timeout) == EINVAL
        assert driver.call("peek", incoming, timeout) == EINVAL


def test_handles(driver: Driver) -> None:
    for handle in (0, 1, 2, -1, 2**31 - 1, -(2**31)):
        assert driver.call("send", handle, 0, 1, 0) == EBADF, "not opened yet"
        assert driver.call("recv", handle, 0, 1, 0) == EBADF
        assert driver.call("peek", handle, 0) == EBADF
        assert driver.call("mode", handle) == EBADF
        assert driver.call("close", handle) == EBADF
    out, incoming = driver.open(b"out", SEND), driver.open(b"in", RECEIVE)
    assert out >= 0 and incoming >= 0 and out != incoming
    assert driver.call("recv", out, 0, 1, 0) == EBADF, "the wrong direction"
    assert driver.call("peek", out, 0) == EBADF
    assert driver.call("send", incoming, 0, 1, 0) == EBADF
    assert driver.open(b"out", SEND) == out, "opened again, it is the same"


def test_names_and_flags(driver: Driver) -> None:
    assert driver.open(b"out", RECEIVE) == ENOTCAPABLE
    assert driver.open(b"in", SEND) == ENOTCAPABLE
    for name in (b"other", b"ou", b"outs", b"OUT", b"o\0t", b"out\0"):
        assert driver.open(name, SEND) == ENOTCAPABLE, name
    for name in (b"", b"x" * 64, b"x" * 1000):
        assert driver.open(name, SEND) == EINVAL, name
    for flags in (0, 3, 4, -1, 257):
        assert driver.open(b"out", flags) == EINVAL, flags


def test_close(driver: Driver, out: int, incoming: int) -> None:
    driver.memory.write(driver.store, b"last", 0)
    assert driver.call("send", out, 0, 4, -1) == 0
    assert driver.call("close", out) == 0
    assert driver.rx.recv() == b"last"
    with pytest.raises(cwasi.ChannelClosed):
        driver.rx.recv(timeout=60)
    assert driver.call("close", out) == EBADF
    assert driver.call("send", out, 0, 1, 0) == EBADF
    assert driver.open(b"out", SEND) == EPIPE, "closed for good"
    assert driver.call("close", incoming) == 0
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        driver.tx.send(b"x", timeout=60)


def test_the_sender_finished(driver: Driver, incoming: int) -> None:
    driver.tx.send(b"rest")
    driver.tx.close()
    assert driver.call("recv", incoming, 0, 10, -1) == 4
    assert driver.call("recv", incoming, 0, 10, -1) == EPIPE
    assert driver.call("peek", incoming, -1) == EPIPE


def test_the_sender_failed(driver: Driver, incoming: int) -> None:
    driver.tx.send(b"rest")
    driver.tx.finish(failed=True)
    assert driver.call("recv", incoming, 0, 10, -1) == 4
    assert driver.call("recv", incoming, 0, 10, -1) == ECONNRESET
    assert driver.call("peek", incoming, -1) == ECONNRESET


def test_the_receiver_is_gone(driver: Driver, out: int) -> None:
    driver.rx.close()
    assert driver.call("send", out, 0, 10, -1) in (EPIPE, ECONNRESET)


def test_the_host_is_closing(driver: Driver, out: int, incoming: int) -> None:
    timer = threading.Timer(0.1, driver.granted_rx.stop)
    timer.start()
    assert driver.call("recv", incoming, 0, 10, -1) == ECANCELED, "it was waiting"
    timer.join()
    driver.granted_tx.stop()
    assert driver.call("send", out, 0, 10, -1) == ECANCELED


def test_another_thread_uses_the_end(driver: Driver, incoming: int) -> None:
    waiting = threading.Thread(target=driver.granted_rx.recv)
    waiting.start()
    while driver.granted_rx.metrics().waits == 0:
        time.sleep(0.001)
    assert driver.call("recv", incoming, 0, 10, -1) == EBUSY
    driver.tx.send(b"x")
    waiting.join(60)


# ---- calls, by who asks ----


@pytest.fixture
def ask(driver: Driver) -> int:
    return driver.open(b"ask", SEND)


def test_call(driver: Driver, ask: int) -> None:
    def answer() -> None:
        for number in range(100):
            assert driver.asked.recv(timeout=HANG) == b"question %d" % number
            driver.answer.send(b"answer %d" % number)

    answering = threading.Thread(target=answer)
    answering.start()
    for number in range(100):
        expected = b"answer %d" % number
        assert driver.request(ask, b"question %d" % number) == len(expected)
        assert driver.read(3000, len(expected)) == expected
    answering.join(HANG)


def test_calls_and_answers_of_no_bytes(driver: Driver, ask: int) -> None:
    driver.answer.send(b"")
    assert driver.call("call", ask, PAGE, 0, PAGE, 0, -1) == 0
    assert driver.asked.recv(timeout=HANG) == b""


def test_a_call_that_may_not_wait_sends_nothing(driver: Driver, ask: int) -> None:
    driver.answer.send(b"too early")
    assert driver.request(ask, b"x", timeout=0) == EAGAIN
    with pytest.raises(cwasi.WouldWait):
        driver.asked.recv(timeout=0)


def test_an_answer_that_comes_late_can_be_received(driver: Driver, ask: int) -> None:
    assert driver.request(ask, b"x", timeout=20) == ETIMEDOUT
    assert driver.asked.recv(timeout=HANG) == b"x"
    assert driver.call("recv", ask, 3000, 100, 0) == EAGAIN
    driver.answer.send(b"late")
    assert driver.call("peek", ask, -1) == 4
    assert driver.call("recv", ask, 3000, 100, -1) == 4
    assert driver.read(3000, 4) == b"late"
    assert driver.call("recv", ask, 3000, 100, -1) == EINVAL, "no other answer is owed"


def test_an_answer_that_comes_late_is_dropped_by_the_next_call(driver: Driver, ask: int) -> None:
    for _ in range(3):
        assert driver.request(ask, b"x", timeout=5) in (ETIMEDOUT,)
    for number in range(3):
        # Answers to all that were sent, whether or not the next call got as far as to send its own.
        try:
            driver.asked.recv(timeout=0)
        except cwasi.WouldWait:
            break
        driver.answer.send(b"late %d" % number)
    driver.answer.send(b"mine")
    assert driver.request(ask, b"y") == 4
    assert driver.read(3000, 4) == b"mine"
    assert driver.call("recv", ask, 3000, 100, -1) == EINVAL


def test_an_answer_that_is_too_long_is_kept(driver: Driver, ask: int) -> None:
    driver.answer.send(b"0123456789")
    assert driver.request(ask, b"x", capacity=9) == EMSGSIZE
    assert driver.call("peek", ask, -1) == 10
    assert driver.call("recv", ask, 3000, 9, -1) == EMSGSIZE
    assert driver.call("recv", ask, 3000, 10, -1) == 10
    driver.answer.send(b"0123456789")
    assert driver.request(ask, b"x", capacity=9) == EMSGSIZE
    driver.answer.send(b"next")
    assert driver.request(ask, b"y") == 4, "or dropped by the next call"
    assert driver.read(3000, 4) == b"next"


def test_requests_whose_answers_are_received_later(driver: Driver, ask: int) -> None:
    assert driver.call("recv", ask, 3000, 100, -1) == EINVAL, "nobody would ever answer"
    assert driver.call("peek", ask, -1) == EINVAL
    for text in (b"one", b"two"):
        driver.memory.write(driver.store, text, 2000)
        assert driver.call("send", ask, 2000, 3, -1) == 0
    for text in (b"one", b"two"):
        assert driver.asked.recv(timeout=HANG) == text
        driver.answer.send(text + b"!")
    assert driver.wait(ask) == 0
    for text in (b"one!", b"two!"):
        assert driver.call("recv", ask, 3000, 100, -1) == 4
        assert driver.read(3000, 4) == text
    assert driver.call("recv", ask, 3000, 100, -1) == EINVAL


def test_what_a_call_refuses(driver: Driver, ask: int, out: int, incoming: int) -> None:
    for handle in (out, incoming, 99, -1):
        assert driver.call("call", handle, 0, 1, 0, 1, -1) == EBADF
    for at, length in ((PAGE, 1), (0, PAGE + 1), (2**32 - 1, 2), (16, 2**32 - 1)):
        assert driver.call("call", ask, at, length, 0, 1, -1) == EFAULT
        assert driver.call("call", ask, 0, 1, at, length, -1) == EFAULT
    assert driver.call("call", ask, 0, 1, 0, 1, -2) == EINVAL
    assert driver.call("grow", 16384) == 1
    assert driver.call("call", ask, 0, (1 << 30) + 1, 0, 1, -1) == EMSGSIZE
    with pytest.raises(cwasi.WouldWait):
        driver.asked.recv(timeout=0)
    assert driver.call("recv", ask, 0, 1, 0) == EINVAL, "none of these is owed an answer"


@pytest.mark.parametrize(("failed", "error"), [(False, EPIPE), (True, ECONNRESET)])
def test_who_answers_is_gone(driver: Driver, ask: int, failed: bool, error: int) -> None:
    """In the middle of a call, and before the next."""

    def leave() -> None:
        driver.asked.recv(timeout=HANG)
        driver.answer.finish(failed=failed)
        driver.asked.finish(failed=failed)

    leaving = threading.Thread(target=leave)
    leaving.start()
    assert driver.request(ask, b"x") == error
    leaving.join(HANG)
    assert driver.request(ask, b"x") in (EPIPE, ECONNRESET)


def test_close_ends_both_ways(driver: Driver, ask: int) -> None:
    assert driver.call("close", ask) == 0
    with pytest.raises(cwasi.ChannelClosed):
        driver.asked.recv(timeout=HANG)
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        driver.answer.send(b"x", timeout=HANG)
    assert driver.request(ask, b"x") == EBADF
    assert driver.open(b"ask", SEND) == EPIPE


def test_the_host_closes_during_a_call(driver: Driver, ask: int) -> None:
    timer = threading.Timer(0.1, lambda: [end.stop() for end in driver.granted])
    timer.start()
    assert driver.request(ask, b"x") == ECANCELED
    timer.join()


# ---- calls, by who answers ----


@pytest.fixture
def serve(driver: Driver) -> int:
    return driver.open(b"serve", RECEIVE)


def test_each_caller_gets_its_answers(driver: Driver, serve: int) -> None:
    for number in range(50):
        for which in ("left", "right"):
            driver.callers[which == "right"].send(f"{which} {number}".encode())
    for _ in range(100):
        length = driver.call("recv", serve, 3000, 100, -1)
        assert length > 0 and driver.reply(driver.read(3000, length) + b"!") == 0
    for number in range(50):
        assert driver.answered[0].recv(timeout=HANG) == b"left %d!" % number
        assert driver.answered[1].recv(timeout=HANG) == b"right %d!" % number


def test_one_request_at_a_time(driver: Driver, serve: int, incoming: int) -> None:
    assert driver.reply(b"to nobody") == EINVAL
    for text in (b"first", b"second"):
        driver.callers[0].send(text)
    assert driver.call("peek", serve, -1) == 5
    assert driver.reply(b"it was only looked at") == EINVAL
    assert driver.call("recv", serve, 3000, 100, -1) == 5
    assert driver.call("recv", serve, 3000, 100, -1) == EBUSY
    assert driver.call("peek", serve, -1) == EBUSY
    driver.tx.send(b"of another channel")
    assert driver.call("recv", incoming, 3000, 100, -1) == 18
    assert driver.reply(b"a") == 0
    assert driver.reply(b"b") == EINVAL
    assert driver.call("recv", serve, 3000, 100, -1) == 6
    assert driver.reply(b"b") == 0
    assert [driver.answered[0].recv(timeout=HANG) for _ in "ab"] == [b"a", b"b"]


def test_a_short_buffer_keeps_the_request(driver: Driver, serve: int) -> None:
    driver.callers[1].send(b"0123456789")
    assert driver.call("recv", serve, 3000, 9, -1) == EMSGSIZE
    assert driver.reply(b"x") == EINVAL
    assert driver.call("recv", serve, 3000, 10, -1) == 10
    assert driver.reply(b"x") == 0
    assert driver.answered[1].recv(timeout=HANG) == b"x"


def test_what_a_reply_refuses(driver: Driver, serve: int) -> None:
    driver.callers[0].send(b"x")
    assert driver.call("recv", serve, 3000, 100, -1) == 1
    for at, length in ((PAGE, 1), (0, PAGE + 1), (2**32 - 1, 2), (16, 2**32 - 1)):
        assert driver.call("reply", at, length) == EFAULT
    assert driver.call("grow", 16384) == 1
    assert driver.call("reply", 0, (1 << 30) + 1) == EMSGSIZE
    assert driver.reply(b"still to be answered") == 0
    assert driver.answered[0].recv(timeout=HANG) == b"still to be answered"


def test_a_caller_that_is_gone(driver: Driver, serve: int) -> None:
    driver.callers[0].send(b"x")
    driver.callers[1].send(b"y")
    assert driver.call("recv", serve, 3000, 100, -1) == 1
    first = driver.read(3000, 1) == b"y"
    driver.answered[first].close()
    assert driver.reply(b"to nobody") in (EPIPE, ECONNRESET)
    assert driver.call("recv", serve, 3000, 100, -1) == 1
    assert driver.reply(b"hello") == 0
    assert driver.answered[not first].recv(timeout=HANG) == b"hello"


def test_close_while_a_request_is_open(driver: Driver, serve: int) -> None:
    driver.callers[0].send(b"x")
    assert driver.call("recv", serve, 3000, 100, -1) == 1
    assert driver.call("close", serve) == 0
    assert driver.reply(b"x") == EINVAL
    for rx in driver.answered:
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)


def test_the_handles_of_calls(driver: Driver, ask: int, serve: int) -> None:
    assert driver.open(b"ask", RECEIVE) == driver.open(b"serve", SEND) == ENOTCAPABLE
    assert driver.call("send", serve, 0, 1, 0) == EBADF, "answers are no messages"
    assert driver.call("call", serve, 0, 1, 0, 1, 0) == EBADF
    assert driver.call("mode", ask) == driver.call("mode", serve)


# ---- waiting for several ----


def test_wait(driver: Driver, incoming: int, serve: int, ask: int) -> None:
    handles = (incoming, serve, ask)
    assert driver.wait(*handles, timeout=0) == EAGAIN
    assert driver.wait(*handles, timeout=20) == ETIMEDOUT
    for index, send in ((0, driver.tx.send), (1, driver.callers[1].send), (2, driver.answer.send)):
        timer = threading.Timer(0.02, send, (b"x",))
        timer.start()
        assert driver.wait(*handles) == index
        timer.join()
        assert driver.wait(*handles, timeout=0) == index, "it is still there"
        if index < 2:
            assert driver.call("recv", handles[index], 3000, 100, 0) == 1
    assert driver.reply(b"x") == 0


def test_wait_takes_turns(driver: Driver, incoming: int, serve: int) -> None:
    driver.tx.send(b"x")
    driver.callers[0].send(b"x")
    assert {driver.wait(incoming, serve) for _ in range(2)} == {0, 1}


def test_wait_tells_of_an_end(driver: Driver, incoming: int, serve: int) -> None:
    threading.Timer(0.02, driver.tx.close).start()
    assert driver.wait(serve, incoming) == 1
    assert driver.call("recv", incoming, 3000, 100, -1) == EPIPE


def test_what_wait_refuses(driver: Driver, incoming: int, serve: int, out: int) -> None:
    assert driver.call("wait", 4000, 0, -1) == EINVAL
    for count in (5, 2**31, 2**32 - 1, 2**30 + 1):
        assert driver.call("wait", 4000, count, -1) == EINVAL, "there are four channels"
    for at in (PAGE, PAGE - 3, 2**32 - 4, 2**31):
        assert driver.call("wait", at, 1, -1) == EFAULT
    for bad in (out, 99, -1, -(2**31)):
        assert driver.wait(incoming, bad) == EBADF
    assert driver.wait(incoming, serve, incoming) == EBUSY
    assert driver.wait(incoming, timeout=-2) == EINVAL
    driver.tx.send(b"x")
    assert driver.wait(serve, incoming) == 1, "and nothing is spoilt"
    assert driver.call("wait", PAGE - 4, 1, -1) in (0, EBADF), "up to the last byte"


def test_wait_for_an_end_that_another_thread_uses(driver: Driver, incoming: int, serve: int) -> None:
    waiting = threading.Thread(target=driver.granted_rx.recv)
    waiting.start()
    while driver.granted_rx.metrics().waits == 0:
        time.sleep(0.001)
    assert driver.wait(serve, incoming) == EBUSY
    driver.tx.send(b"x")
    waiting.join(HANG)


def test_wait_is_cancelled(driver: Driver, incoming: int, serve: int) -> None:
    """One of several ends that is stopped is ready to say so."""
    timer = threading.Timer(0.1, driver.granted_rx.stop)
    timer.start()
    assert driver.wait(serve, incoming) == 1
    assert driver.call("recv", incoming, 3000, 100, -1) == ECANCELED
    timer.join()


def test_the_header_says_the_same() -> None:
    """The numbers in cwasi.h are those that this file has tested."""
    header = HEADER.read_text()
    for name, number in {
        "EAGAIN": EAGAIN, "EBADF": EBADF, "EBUSY": EBUSY, "ECANCELED": ECANCELED, "ECONNRESET": ECONNRESET,
        "EFAULT": EFAULT, "EINVAL": EINVAL, "EIO": EIO, "EMSGSIZE": EMSGSIZE, "EPIPE": EPIPE,
        "ETIMEDOUT": ETIMEDOUT, "ENOTCAPABLE": ENOTCAPABLE,
    }.items():  # fmt: skip
        assert f"CWASI_{name} = {-number}" in header
    for name in ("open", "send", "recv", "peek", "call", "reply", "wait", "mode", "close"):
        assert f"CWASI_IMPORT(channel_{name}) int32_t cwasi_{name}(" in header
    for name in ("attach", "acquire", "commit", "take", "release"):
        assert f"CWASI_IMPORT(window_{name}) int32_t cwasi_window_{name}(" in header
