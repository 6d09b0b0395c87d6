"""Messages in place, between real guests: whatever is mixed, the content is that of the message."""

from __future__ import annotations

import ctypes
import gc
import os
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import wasmtime
from channels import HANG, content

import cwasi_fastpath as cwasi
from cwasi_fastpath.deployment import Options, run
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow

EBUSY, EFAULT, EINVAL, EMSGSIZE, EPIPE = -10, -21, -28, -35, -64
PAGE = 65536
AT, WINDOW, BUFFER = PAGE, 4 * PAGE, 5 * PAGE
PAGES = 9
DRIVER = (Path(__file__).parent / "guests/driver.wat").read_text()
QUIET = Path(os.devnull)


# ---- guests that send and check numbers ----


def moved(guests: Path, count: int, size: int, how: tuple[str, str], window: int = WINDOW, *more: str) -> None:
    """Runs filler and summer in this process; summer ends with an error where a message is wrong."""
    arguments = (str(count), str(size))
    with cwasi.Host(timeout=HANG) as host:
        filler = host.load(guests / "filler.wasm", arguments=(*arguments, how[0], str(window)), stdout=QUIET)
        summer = host.load(guests / "summer.wasm", arguments=(*arguments, how[1], str(window), *more), stdout=QUIET)
        host.connect("lab", filler, summer, ports=("out", "in"))
        host.run()


MIXES = [("window", "window"), ("window", "copy"), ("copy", "window")]


@pytest.mark.parametrize("how", MIXES, ids="-".join)
@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 30_011, WINDOW // 2 + 1, WINDOW])
def test_sizes(guests: Path, how: tuple[str, str], size: int) -> None:
    moved(guests, 50, size, how)


@pytest.mark.parametrize("size", [4096, 30_011, 100_003, WINDOW])
def test_a_receiver_that_writes_over_what_it_holds(guests: Path, size: int) -> None:
    moved(guests, 200, size, ("window", "window"), WINDOW, "scribble")


def test_a_receiver_that_seldom_writes_over_what_it_holds(guests: Path) -> None:
    """And has WASI do it: what wrote to the memory is not the guest's own code."""
    arguments = ("2000", "30011", "window", str(WINDOW))
    with cwasi.Host(timeout=HANG) as host:
        filler = host.load(guests / "filler.wasm", arguments=arguments, stdout=QUIET)
        summer = host.load(guests / "summer.wasm", arguments=(*arguments, "read"), stdin="/dev/zero", stdout=QUIET)
        host.connect("lab", filler, summer, ports=("out", "in"))
        host.run()


def test_messages_longer_than_the_ring(guests: Path) -> None:
    for how in MIXES:
        moved(guests, 8, 9_000_001, how, 160 * PAGE)


@pytest.mark.parametrize("how", MIXES, ids="-".join)
def test_windows_in_huge_pages(guests: Path, how: tuple[str, str]) -> None:
    """Where the kernel has them; from 2 MiB on, the guests place their windows so that these fit."""
    moved(guests, 12, 3_000_001, how, 64 * PAGE, "scribble")


def apart(
    guests: Path,
    how: tuple[str, str],
    receivers: int,
    options: Options,
    size: int = 50_001,
    window: int = WINDOW,
    count: int = 150,
) -> None:
    """In processes of their own."""
    arguments = (str(count), str(size))
    fillers = [FunctionSpec("filler", guests / "filler.wasm", (*arguments, how[0], str(window)), stdout=QUIET)]
    summers = [
        FunctionSpec(f"summer{number}", guests / "summer.wasm", (*arguments, how[1], str(window), "s"), stdout=QUIET)
        for number in range(receivers)
    ]
    edges = tuple(EdgeSpec("lab", "filler", summer.name, "out", "in") for summer in summers)
    (edge, *_) = run(Workflow((*fillers, *summers), edges), options).edges
    assert edge.decision.mode is Mode.PROXIMAL


@pytest.mark.parametrize("how", MIXES, ids="-".join)
def test_two_processes(guests: Path, how: tuple[str, str]) -> None:
    apart(guests, how, 1, Options(mode=Mode.PROXIMAL, transport=Transport.RING, timeout=HANG))


@pytest.mark.parametrize("how", MIXES, ids="-".join)
def test_two_processes_and_a_pipe(guests: Path, how: tuple[str, str]) -> None:
    """Where there is no area, the same guests copy."""
    apart(guests, how, 1, Options(mode=Mode.PROXIMAL, transport=Transport.PIPE, timeout=HANG))


def test_two_processes_and_huge_pages(guests: Path) -> None:
    options = Options(mode=Mode.PROXIMAL, transport=Transport.RING, timeout=HANG)
    apart(guests, ("window", "window"), 2, options, size=2_500_000, window=64 * PAGE, count=20)


def test_receivers_in_several_processes(guests: Path) -> None:
    """What one of them writes over its messages, the others do not see."""
    apart(guests, ("window", "window"), 3, Options(mode=Mode.PROXIMAL, timeout=HANG))


def test_several_receivers(guests: Path) -> None:
    """Each in its own way."""
    arguments = ("200", "20003")
    with cwasi.Host(timeout=HANG) as host:
        filler = host.load(guests / "filler.wasm", arguments=(*arguments, "window", str(WINDOW)), stdout=QUIET)
        summers = [
            host.load(
                guests / "summer.wasm",
                name=f"summer{number}",
                arguments=(*arguments, ("window", "copy")[number % 2], str(WINDOW), "scribble"),
                stdout=QUIET,
            )
            for number in range(3)
        ]
        host.connect("lab", filler, summers, ports=("out", "in"))
        host.run()


def test_a_sender_that_traps_with_a_window(guests: Path, module: Callable[..., Path]) -> None:
    """What it has sent can be taken; then its end is told."""
    path = module(
        """(module
          (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "window_attach" (func $attach (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "window_acquire" (func $acquire (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "window_commit" (func $commit (param i32 i32 i32) (result i32)))
          (memory (export "memory") 8)
          (data (i32.const 0) "out")
          (func (export "_start") (local $h i32) (local $at i32)
            (local.set $h (call $open (i32.const 0) (i32.const 3) (i32.const 1)))
            (if (call $attach (local.get $h) (i32.const 65536) (i32.const 262144)) (then unreachable))
            (local.set $at (call $acquire (local.get $h) (i32.const 8) (i32.const -1)))
            (i64.store (i32.add (local.get $at) (i32.const 65536)) (i64.const 0))
            (drop (call $commit (local.get $h) (local.get $at) (i32.const 8)))
            (drop (call $acquire (local.get $h) (i32.const 8) (i32.const -1)))
            unreachable))""",
        name="trapping",
    )
    with cwasi.Host(timeout=HANG) as host:
        trapping = host.load(path)
        summer = host.load(guests / "summer.wasm", arguments=("2", "8", "window", str(WINDOW)), stdout=QUIET)
        channel = host.connect("lab", trapping, summer, ports=("out", "in"))
        with pytest.raises(cwasi.GuestTrap, match="trapping"):
            host.run()
        assert channel.metrics().received == 1


# ---- one call at a time ----


def engine_whose_memories_move() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.memory_may_move = True
    config.memory_reservation = 0
    config.memory_reservation_for_growth = 0
    config.memory_guard_size = PAGE
    return wasmtime.Engine(config)


class Guest:
    """A program of its own with one end of a channel, and a memory of PAGES pages with room for a window at AT."""

    def __init__(self, end: cwasi.Sender | cwasi.Receiver, engine: wasmtime.Engine | None = None) -> None:
        engine = engine or wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        self.linker = wasmtime.Linker(engine)
        cwasi.install(self.linker, self.store, {"lab": end})
        self.module = wasmtime.Module(engine, DRIVER)
        self.use(self.linker.instantiate(self.store, self.module))
        self.call("grow", PAGES - 1)
        self.memory.write(self.store, b"lab", 100)
        self.handle = self.call("open", 100, 3, end.role)
        assert self.handle == 0

    def use(self, instance: wasmtime.Instance) -> None:
        """Makes the calls from this one from now on."""
        self.exports = instance.exports(self.store)
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self.memory = memory

    def call(self, name: str, *values: int) -> int:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        result = function(self.store, *values)
        assert isinstance(result, int)
        return result

    def send(self, message: bytes) -> None:
        """In place."""
        at = self.call("acquire", 0, len(message), 60_000)
        assert at >= 0
        self.memory.write(self.store, message, AT + at)
        assert self.call("commit", 0, at, len(message)) == 0

    def take(self) -> tuple[int, bytes]:
        assert self.call("take", 0, 200, 60_000) == 0
        at, length = struct.unpack("<2I", self.memory.read(self.store, 200, 208))
        return at, self.read(at, length)

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.memory.read(self.store, AT + at, AT + at + length))

    def receive(self) -> bytes:
        """Takes one, writes over it, and gives it back."""
        at, message = self.take()
        self.memory.write(self.store, b"\xff" * len(message), AT + at)
        assert self.call("release", 0, at) == 0
        return message


@pytest.fixture(params=["ring", "pipe"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[cwasi.Sender, cwasi.Receiver]]:
    tx, rx = cwasi.open_channel("lab", request.param)
    yield tx, rx
    for end in (rx, tx):
        end.stop()
        end.close()


@pytest.fixture(params=["still", "moving"])
def both(request: pytest.FixtureRequest, ends: tuple[cwasi.Sender, cwasi.Receiver]) -> tuple[Guest, Guest]:
    """A sender and a receiver, with their windows; those of the one kind have memories that move when they grow."""
    engine = engine_whose_memories_move() if request.param == "moving" else wasmtime.Engine()
    sender, receiver = (Guest(end, engine) for end in ends)
    for guest in (sender, receiver):
        assert guest.call("attach", 0, AT, WINDOW) == 0
    return sender, receiver


def test_memories_that_grow(both: tuple[Guest, Guest]) -> None:
    """Between any two calls, on both sides."""
    sender, receiver = both
    for number, size in enumerate((5_000, 40_003, 1, 30_000, 0, 4_096)):
        message = content(number, size)
        at = sender.call("acquire", 0, size, 60_000)
        assert at >= 0
        sender.memory.write(sender.store, message[: size // 2], AT + at)
        assert sender.call("grow", 1) > 0
        sender.memory.write(sender.store, message[size // 2 :], AT + at + size // 2)
        assert sender.call("commit", 0, at, size) == 0
        assert sender.call("grow", 1) > 0
        where, found = receiver.take()
        assert found == message
        assert receiver.call("grow", 1) > 0
        assert receiver.read(where, size) == message, "what is held stays"
        assert receiver.call("release", 0, where) == 0
        sender.send(message)
        assert receiver.receive() == message


def test_a_memory_that_moves_takes_its_window_with_it() -> None:
    """And the place where it was is no business of ours any more."""
    tx, rx = cwasi.open_channel("lab")
    with rx, tx:
        guest = Guest(rx, engine_whose_memories_move())
        assert guest.call("attach", 0, AT, WINDOW) == 0
        sender = Guest(tx)
        assert sender.call("attach", 0, AT, WINDOW) == 0
        places = set()
        for number in range(20):
            places.add(ctypes.addressof(guest.memory.data_ptr(guest.store).contents))
            sender.send(content(number, 9_000))
            where, _ = guest.take()
            guest.memory.write(guest.store, b"\xff" * 9_000, AT + where)
            assert guest.call("grow", 1) > 0
            assert guest.read(where, 9_000) == b"\xff" * 9_000, "also what the guest has written there"
            assert guest.call("release", 0, where) == 0
            assert len(windows()) <= 2
        assert len(places) > 1, "or it tests nothing"


def windows() -> list[str]:
    """The mappings of window areas: what is not at the start of a ring."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return [line[0] for line in lines if len(line) == 6 and "cwasi-ring" in line[5] and int(line[2], 16) > 4 << 20]


def test_another_instance_of_the_store() -> None:
    """The imports are called by one whose memory has no room for the window."""
    tx, rx = cwasi.open_channel("lab")
    with rx, tx:
        sender = Guest(tx, engine_whose_memories_move())
        assert sender.call("attach", 0, AT, WINDOW) == 0
        sender.use(sender.linker.instantiate(sender.store, sender.module))
        assert sender.call("acquire", 0, 100, 0) == EFAULT
        assert sender.call("commit", 0, 0, 100) == EFAULT
        assert sender.call("close", 0) == 0
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)


def test_both_kinds_of_messages(both: tuple[Guest, Guest]) -> None:
    sender, receiver = both
    for number in range(60):
        message = content(number, number * 1_237 % 50_000)
        if number % 3:
            sender.send(message)
        else:
            sender.memory.write(sender.store, message, BUFFER)
            assert sender.call("send", 0, BUFFER, len(message), -1) == 0
        if number % 5:
            assert receiver.receive() == message
        else:
            assert receiver.call("peek", 0, -1) == len(message)
            assert receiver.call("recv", 0, BUFFER, 50_000, -1) == len(message)
            assert receiver.read(BUFFER - AT, len(message)) == message


def test_the_kinds_do_not_mix_while_one_is_held() -> None:
    tx, rx = cwasi.open_channel("lab")
    with rx, tx:
        sender, receiver = Guest(tx), Guest(rx)
        for guest in (sender, receiver):
            assert guest.call("attach", 0, AT, WINDOW) == 0
        for first, second in pairwise(("place", "copy", "place")):
            for kind in (first, second):
                if kind == "place":
                    sender.send(kind.encode())
                else:
                    tx_copy(sender, kind.encode())
            at, message = receiver.take()
            assert message == first.encode()
            assert receiver.call("take", 0, 200, -1) == EBUSY
            assert receiver.read(at, len(message)) == message
            assert receiver.call("release", 0, at) == 0
            assert receiver.receive() == second.encode()


def tx_copy(sender: Guest, message: bytes) -> None:
    sender.memory.write(sender.store, message, BUFFER)
    assert sender.call("send", 0, BUFFER, len(message), -1) == 0


def test_python_receives(ends: tuple[cwasi.Sender, cwasi.Receiver]) -> None:
    """From a guest that sends in place; and where the guest has no window any more, what it had sent."""
    tx, rx = ends
    sender = Guest(tx)
    assert sender.call("attach", 0, AT, WINDOW) == 0
    for number in range(40):
        message = content(number, number * 997)
        sender.send(message)
        assert rx.peek(timeout=HANG)[0] == len(message)
        assert rx.recv(timeout=HANG) == message
    sender.send(b"last")
    assert sender.call("close", 0) == 0
    assert list(rx) == [b"last"]


def test_python_sends(ends: tuple[cwasi.Sender, cwasi.Receiver]) -> None:
    tx, rx = ends
    receiver = Guest(rx)
    assert receiver.call("attach", 0, AT, WINDOW) == 0
    for number in range(40):
        message = content(number, number * 997)
        tx.send(message)
        assert receiver.receive() == message
    tx.send(bytes(WINDOW // 2))
    tx.close()
    assert receiver.receive() == bytes(WINDOW // 2)
    assert receiver.call("take", 0, 200, -1) == EPIPE


def test_several_senders() -> None:
    """Their messages are copied."""
    txs, (rx,) = cwasi.open_ends("lab", senders=3)
    senders, receiver = [Guest(tx) for tx in txs], Guest(rx)
    for guest in (*senders, receiver):
        assert guest.call("attach", 0, AT, WINDOW) == 0
    for number in range(20):
        messages = {content(3 * number + n, 9_001) for n in range(3)}
        for sender, message in zip(senders, messages, strict=True):
            sender.send(message)
        assert {receiver.receive() for _ in senders} == messages
    for end in (*txs, rx):
        end.close()


def test_a_copy_that_is_longer_than_the_window() -> None:
    tx, rx = cwasi.open_channel("lab")
    with rx, tx:
        receiver = Guest(rx)
        assert receiver.call("attach", 0, AT, PAGE) == 0
        tx.send(content(1, PAGE + 1))
        assert receiver.call("take", 0, 200, -1) == EMSGSIZE
        assert receiver.call("recv", 0, BUFFER, 2 * PAGE, -1) == PAGE + 1
        assert receiver.read(BUFFER - AT, PAGE + 1) == content(1, PAGE + 1)


def test_a_window_longer_than_any_message(ends: tuple[cwasi.Sender, cwasi.Receiver]) -> None:
    for end in ends:
        guest = Guest(end)
        assert guest.call("grow", (1 << 30) // PAGE + 1) > 0
        assert guest.call("attach", 0, AT, (1 << 30) + PAGE) == EINVAL
        assert guest.call("attach", 0, AT, 1 << 30) == 0


def test_a_guest_and_its_window_go() -> None:
    """In whatever order; no mapping and no descriptor stays."""

    def cycle(number: int) -> None:
        tx, rx = cwasi.open_channel("lab")
        sender, receiver = Guest(tx), Guest(rx)
        for guest in (sender, receiver):
            assert guest.call("attach", 0, AT, WINDOW) == 0
        sender.send(b"x" * 5_000)
        sender.send(b"y" * 5_000)
        receiver.take()
        if number % 2:
            tx.close()
            rx.close()
        if number % 3:
            sender.store.close()
            receiver.store.close()
        if number % 2 == 0:
            tx.close()
            rx.close()

    cycle(0)
    gc.collect()
    before = psutil.Process().num_fds()
    for number in range(24):
        cycle(number)
    gc.collect()
    assert psutil.Process().num_fds() == before
    assert "cwasi-ring" not in Path("/proc/self/maps").read_text()
