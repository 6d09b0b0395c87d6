"""The import module as a guest sees it: every function, its results and its errors, one call at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

import cwasi_fastpath as cwasi

# WASI's numbers, which are not Linux's.
EAGAIN, EBADF, EBUSY, ECANCELED, ECONNRESET, EFAULT, EINVAL = -6, -8, -10, -11, -15, -21, -28
EIO, EMSGSIZE, EPIPE, ETIMEDOUT, ENOTCAPABLE = -29, -35, -64, -73, -76
SEND, RECEIVE = 1, 2
PAGE = 65536
HEADER = Path(__file__).parent.parent / "cwasi_fastpath/include/cwasi.h"


class Driver:
    """A guest whose every call is made here. `out` it sends to us, `in` it receives from us."""

    def __init__(self, transport: str) -> None:
        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        self.tx, self.granted_rx = cwasi.open_channel("in", transport)
        self.granted_tx, self.rx = cwasi.open_channel("out", transport)
        self.ends = (self.granted_tx, self.granted_rx, self.tx, self.rx)
        cwasi.install(linker, self.store, {"in": self.granted_rx, "out": self.granted_tx})
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


def test_the_header_says_the_same() -> None:
    """The numbers in cwasi.h are those that this file has tested."""
    header = HEADER.read_text()
    for name, number in {
        "EAGAIN": EAGAIN, "EBADF": EBADF, "EBUSY": EBUSY, "ECANCELED": ECANCELED, "ECONNRESET": ECONNRESET,
        "EFAULT": EFAULT, "EINVAL": EINVAL, "EIO": EIO, "EMSGSIZE": EMSGSIZE, "EPIPE": EPIPE,
        "ETIMEDOUT": ETIMEDOUT, "ENOTCAPABLE": ENOTCAPABLE,
    }.items():  # fmt: skip
        assert f"CWASI_{name} = {-number}" in header
    for name in ("open", "send", "recv", "peek", "mode", "close"):
        assert f"CWASI_IMPORT(channel_{name}) int32_t cwasi_{name}(" in header
