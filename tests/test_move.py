"""An end goes to another process, and on to the next: every message once, in order; and when somebody is killed."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from channels import HANG, Fork, Start, eventually, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import control, meeting, registry
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.redis_server import RedisServer

STAGES = 4
LARGE = 6 << 20   # more than a ring holds


pytestmark = pytest.mark.usefixtures("swept_directory")


def message(number: int) -> bytes:
    return number.to_bytes(8, "little") * (1 + (5000 if number % 499 == 0 else number % 40))


class Gates:
    """Stages that run one after another, each in a process of its own that exists from the beginning."""

    def __init__(self) -> None:
        self._pipes = [os.pipe() for _ in range(STAGES)]

    def open(self, stage: int) -> None:
        os.write(self._pipes[stage][1], b"x")

    def wait(self, stage: int) -> None:
        assert os.read(self._pipes[stage][0], 1)

    def close(self) -> None:
        for fd in sum(self._pipes, ()):
            os.close(fd)


@pytest.fixture
def gates() -> Iterator[Gates]:
    made = Gates()
    made.open(0)
    yield made
    made.close()


def receives(gates: Gates, stage: int, each: int, there: Gates | None = None) -> None:
    """Some of the messages; then hands over, or expects the end."""
    gates.wait(stage)
    with cwasi.open_receiver("lab", timeout=HANG, successor=stage > 0) as rx:
        if there is not None:
            there.open(stage)
        for number in range(stage * each, (stage + 1) * each):
            assert rx.recv(HANG) == message(number)
        if stage == STAGES - 1:
            assert list(rx) == []
            return
        gates.open(stage + 1)
        rx.hand_over(HANG)
        assert rx.closed


def sends(gates: Gates, stage: int, each: int, target: str | None = None) -> None:
    gates.wait(stage)
    with cwasi.open_sender("lab", timeout=HANG, successor=stage > 0) as tx:
        if target is not None:
            tx.switch(target, HANG)
        for number in range(stage * each, (stage + 1) * each):
            tx.send(message(number), HANG)
        if stage < STAGES - 1:
            gates.open(stage + 1)
            tx.hand_over(HANG)
            assert tx.closed


def stages(fork: Fork, body: Callable[[int], None]) -> list[int]:
    return [fork(partial(body, stage)) for stage in range(STAGES)]


def target_of(transport: str, redis: RedisServer) -> str:
    return redis.url if transport == "redis" else transport


ALL = pytest.mark.parametrize("transport", ["ring", "pipe", "tcp", "redis"])


@ALL
def test_a_receiver_moves(fork: Fork, gates: Gates, redis_server: RedisServer, transport: str) -> None:
    """While the sender is ahead of it by some messages."""
    each = 500 if transport == "redis" else 3000
    there = Gates()
    pids = stages(fork, lambda stage: receives(gates, stage, each, there))
    redis = redis_server.url if transport == "redis" else None
    with cwasi.open_sender("lab", timeout=HANG, transport=transport, redis=redis) as tx:
        for number in range(STAGES * each):
            if number % each == each // 2:
                there.wait(number // each)
            tx.send(message(number), HANG)
    there.close()
    assert [status_of(pid) for pid in pids] == [0] * STAGES


def test_a_receiver_moves_when_all_was_sent(fork: Fork, gates: Gates) -> None:
    """The sender has gone before."""
    pids = stages(fork, lambda stage: receives(gates, stage, 200))
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        for number in range(STAGES * 200):
            tx.send(message(number), HANG)
    assert [status_of(pid) for pid in pids] == [0] * STAGES


@ALL
def test_a_sender_moves(fork: Fork, gates: Gates, redis_server: RedisServer, transport: str) -> None:
    each, target = 1000, target_of(transport, redis_server)
    pids = stages(fork, lambda stage: sends(gates, stage, each, target))
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert list(rx) == [message(number) for number in range(STAGES * each)]
    assert [status_of(pid) for pid in pids] == [0] * STAGES


def test_both_ends_move_at_once(fork: Fork, gates: Gates) -> None:
    others, each = Gates(), 2000
    others.open(0)
    pids = stages(fork, lambda stage: sends(gates, stage, each)) + stages(
        fork, lambda stage: receives(others, stage, each)
    )
    assert [status_of(pid) for pid in pids] == [0] * len(pids)
    others.close()


def test_it_comes_back(fork: Fork, gates: Gates, start: Start) -> None:
    """To the process that the sender is in: what was local is proximal, and then local again."""

    def child() -> None:
        gates.wait(1)
        with cwasi.open_receiver("lab", timeout=HANG, successor=True) as theirs:
            assert theirs.recv(HANG) == b"left" and theirs.recv(HANG) == b"sent"
            assert theirs.mode is cwasi.Mode.PROXIMAL
            theirs.hand_over(HANG)

    pid = fork(child)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    rx = cwasi.open_receiver("lab", timeout=HANG)
    with opening.result(HANG) as tx:   # type: ignore[attr-defined]
        assert tx.mode is cwasi.Mode.LOCAL
        tx.send(b"left")
        gates.open(1)
        rx.hand_over(HANG)
        tx.send(b"sent")
        with cwasi.open_receiver("lab", timeout=HANG, successor=True) as back:
            while tx.epoch < 2:
                time.sleep(0.001)   # until then the one before passes on what comes
            tx.send(b"home", HANG)
            assert back.recv(HANG) == b"home"
            assert status_of(pid) == 0
            assert tx.mode is back.mode is cwasi.Mode.LOCAL
            assert tx.epoch == back.epoch == 2
            tx.close()
            assert list(back) == []


def test_what_was_peeked_and_what_no_ring_holds(fork: Fork, gates: Gates, start: Start) -> None:
    def send() -> None:
        with cwasi.open_sender("lab", timeout=HANG) as tx:
            for message in (b"first", b"x" * LARGE, b"", b"y" * LARGE, b"last"):
                tx.send(message, HANG)

    def child() -> None:
        gates.wait(1)
        with cwasi.open_receiver("lab", timeout=HANG, successor=True) as rx:
            assert rx.recv(HANG) == b"x" * LARGE and rx.recv(HANG) == b""
            assert list(rx) == [b"y" * LARGE, b"last"]

    pid = fork(child)
    sending = start(send)
    rx = cwasi.open_receiver("lab", timeout=HANG)
    assert rx.recv(HANG) == b"first"
    assert rx.peek(HANG)[0] == LARGE
    gates.open(1)
    rx.hand_over(HANG)
    sending.result(HANG)
    assert status_of(pid) == 0


def test_a_sender_that_goes_on_until_its_successor_is_there(fork: Fork, gates: Gates, start: Start) -> None:
    """A message that was sent comes; one that was refused does not."""

    def behind() -> None:
        gates.wait(1)
        with cwasi.open_sender("lab", timeout=HANG, successor=True) as tx:
            tx.send(b"behind")

    pid = fork(behind)
    receiving = start(lambda: list(cwasi.open_receiver("lab", timeout=HANG)))
    tx = cwasi.open_sender("lab", timeout=HANG)
    moving = start(tx.hand_over, HANG)
    gates.open(1)
    number = 0
    with pytest.raises((cwasi.ChannelClosed, cwasi.Busy)):
        while True:
            tx.send(message(number), HANG)
            number += 1
    moving.result(HANG)
    assert receiving.result(HANG) == [*map(message, range(number)), b"behind"]
    assert status_of(pid) == 0


def test_a_switch_afterwards(fork: Fork, gates: Gates, start: Start) -> None:
    def child() -> None:
        gates.wait(1)
        with cwasi.open_receiver("lab", timeout=HANG, successor=True) as rx:
            assert list(rx) == [b"0", b"1", b"2", b"3"]

    pid = fork(child)
    opening = start(cwasi.open_receiver, "lab", timeout=HANG)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        rx = opening.result(HANG)
        tx.send(b"0")
        gates.open(1)
        rx.hand_over(HANG)   # type: ignore[attr-defined]
        for number, target in enumerate(("pipe", "tcp", "ring"), 1):
            tx.switch(target, HANG)
            tx.send(b"%d" % number)
    assert status_of(pid) == 0


# ---- where nobody goes on ----


def test_nobody_comes(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        for end in (rx, tx):
            with pytest.raises(cwasi.Timeout, match="no other process has gone on with it in time"):
                end.hand_over(0.05)
        tx.send(b"x")
        assert rx.recv(HANG) == b"x"
        named = meeting.named_end("lab", SENDER)
        assert named is not None and named.state == meeting.OPEN


def test_without_a_name() -> None:
    tx, rx = cwasi.open_channel("lab")
    with tx, rx, pytest.raises(cwasi.BadSpec, match="was not opened by name"):
        rx.hand_over(0)


def test_a_name_that_is_kept_is_busy(fork: Fork, gates: Gates, start: Start) -> None:
    def child() -> None:
        gates.wait(1)
        for role in ("sender", "receiver"):
            opened = getattr(cwasi, f"open_{role}")
            with pytest.raises(cwasi.Busy, match=f"has a {role} already"):
                opened("lab", timeout=HANG)
            with pytest.raises(cwasi.Timeout, match=f"nobody has handed its {role} over in time"):
                opened("lab", timeout=0.05, successor=True)

    pid = fork(child)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG), opening.result(HANG):   # type: ignore[attr-defined]
        gates.open(1)
        assert status_of(pid) == 0


def test_another_trust_domain(fork: Fork, gates: Gates, start: Start) -> None:
    """It is refused, and one of the same goes on with it all the same."""

    def child() -> None:
        gates.wait(1)
        with pytest.raises(cwasi.BadSpec, match="the receiver of channel 'lab' is of trust domain 'default'"):
            cwasi.open_receiver("lab", timeout=HANG, trust="other", successor=True)
        with cwasi.open_receiver("lab", timeout=HANG, successor=True) as rx:
            assert rx.recv(HANG) == b"x"

    pid = fork(child)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        moving = start(rx.hand_over, HANG)
        tx.send(b"x")
        gates.open(1)
        assert status_of(pid) == 0
        moving.result(HANG)


def test_the_receiver_is_gone(fork: Fork, start: Start) -> None:
    pid = fork(lambda: (cwasi.open_receiver("lab", timeout=HANG), signal.pause()))
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        moving = start(tx.hand_over, HANG)
        time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        for failing in (moving.result, tx.hand_over):
            with pytest.raises(cwasi.PeerDied, match="the other side is gone"):
                failing(HANG)
    assert status_of(pid) == -signal.SIGKILL


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_strangers_that_ask_what_they_may_not(start: Start, fork: Fork, gates: Gates, role: str) -> None:
    """They are refused, nothing of theirs stays, and an honest successor comes all the same."""

    def ask(kind: str, body: dict[str, object], error: type[Exception]) -> None:
        address = registry.holder("lab", RECEIVER if kind.endswith("receiver") or kind == "introduce" else SENDER)
        assert address is not None
        with pytest.raises(error):
            registry.ask(address.address, kind, body, channel="lab", timeout=HANG)

    def child() -> None:
        gates.wait(1)
        for kind in ("inherit", "succeeded"):
            ask(f"{kind}-{role}", {"link": {"transport": "ring"}, "decision": 3}, cwasi.Busy)
        ask(f"succeed-{role}", {"placement": {"trust": "\x1b"}}, cwasi.Error)
        ask("prepare", {"token": None}, cwasi.Busy)
        ask("prepare", {"token": "x", "placement": []}, cwasi.Busy)
        ask("successor-receiver", {"token": "x"}, cwasi.Busy)
        ask("go", {}, cwasi.Busy)
        ask("introduce", {"placement": {"trust": 7}}, cwasi.BadName)
        held = registry.holder("lab", SENDER if role == "sender" else RECEIVER)
        assert held is not None
        registry.ask(held.address, f"succeed-{role}", {}, channel="lab", timeout=HANG)   # and then hangs up
        with getattr(cwasi, f"open_{role}")("lab", timeout=HANG, successor=True):
            pass

    pid = fork(child)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        moving = start((tx if role == "sender" else rx).hand_over, HANG)
        while not control.rivals(f"succeeded-{role}", "lab"):
            time.sleep(0.001)   # until then it would say that it knows no such questions
        gates.open(1)
        moving.result(HANG)
        assert status_of(pid) == 0


# ---- kills ----


def dies(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(where: str, after: bool = False) -> None:
    """From now on this process, a child, is killed when it comes to that method, or has done it."""
    module, kind, name = where.split(".")
    owner = getattr(importlib.import_module(f"cwasi_fastpath.{module}"), kind)
    method = getattr(owner, name)

    def done(*given: object, **named: object) -> None:
        method(*given, **named)
        dies()

    setattr(owner, name, done if after else dies)


BEFORE = ["successor.Successor._way", "successor.Successor._sender_on", "successor.Successor._take_name"]
IN_VAIN = {"sender": BEFORE[1:], "receiver": [BEFORE[0], BEFORE[2]]}


@pytest.mark.parametrize(("role", "step"), [(role, step) for role, steps in IN_VAIN.items() for step in steps])
def test_a_successor_that_is_killed_before_it_takes_over(
    fork: Fork, gates: Gates, start: Start, role: str, step: str
) -> None:
    """It has never been, and the next one does it."""

    def killed() -> None:
        gates.wait(1)
        dies_at(step)
        getattr(cwasi, f"open_{role}")("lab", timeout=HANG, successor=True)

    def second() -> None:
        gates.wait(2)
        with getattr(cwasi, f"open_{role}")("lab", timeout=HANG, successor=True) as end:
            if role == "receiver":
                assert list(end) == [message(number) for number in range(1, 4)]
            else:
                for number in range(2, 4):
                    end.send(message(number))

    pids = fork(killed), fork(second)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    rx = cwasi.open_receiver("lab", timeout=HANG)
    tx = opening.result(HANG)
    assert isinstance(tx, cwasi.Sender)
    end: cwasi.Sender | cwasi.Receiver = tx if role == "sender" else rx
    tx.send(message(0))
    assert rx.recv(HANG) == message(0)
    moving = start(end.hand_over, HANG)
    gates.open(1)
    assert status_of(pids[0]) == -signal.SIGKILL
    tx.send(message(1))   # goes on as before
    gates.open(2)
    moving.result(HANG)
    if role == "sender":
        assert list(rx) == [message(number) for number in range(1, 4)]
    else:
        while tx.epoch == 0:
            time.sleep(0.001)
        tx.send(message(2))
        tx.send(message(3))
        tx.close()
    assert status_of(pids[1]) == 0
    for left in (tx, rx):
        left.close()


@pytest.mark.parametrize(
    ("step", "after"),
    [
        ("handover._SenderMove._offer", False), ("handover._SenderMove._offer", True),
        ("sender.Sender.depart", True), ("handover._SenderMove._give_name", True),
    ],
)   # fmt: skip
def test_a_sender_that_is_killed_while_it_hands_over(
    fork: Fork, gates: Gates, step: str, after: bool
) -> None:
    """What it had sent comes; then the end of it all, or what its successor sends if that knows that it is one."""
    goes_on = step.endswith("_give_name")

    def first() -> None:
        tx = cwasi.open_sender("lab", timeout=HANG)
        for number in range(3):
            tx.send(message(number))
        dies_at(step, after)
        gates.open(1)
        tx.hand_over(HANG)

    def second() -> None:
        gates.wait(1)
        with cwasi.open_sender("lab", timeout=HANG if goes_on else 5, successor=True) as tx:
            tx.send(message(3))

    pids = fork(first), fork(second)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        for number in range(3):
            assert rx.recv(HANG) == message(number)
        assert status_of(pids[0]) == -signal.SIGKILL
        if goes_on:
            assert list(rx) == [message(3)]
            assert status_of(pids[1]) == 0
        else:
            with pytest.raises(cwasi.PeerDied):
                rx.recv(HANG)
            assert status_of(pids[1]) == 1


@pytest.mark.parametrize("passes_on", [False, True])
def test_a_receiver_that_is_killed_while_it_hands_over(
    fork: Fork, gates: Gates, start: Start, passes_on: bool
) -> None:
    """Its successor gets a part from the beginning, without a gap, and both sides learn of it."""

    def first() -> None:
        rx = cwasi.open_receiver("lab", timeout=HANG)
        assert rx.recv(HANG) == message(0)
        if passes_on:
            forward, left = cwasi.Sender.forward, iter(range(20))

            def some(tx: cwasi.Sender, data: bytes, stamp: int, timeout: float | None = None) -> None:
                forward(tx, data, stamp, timeout)
                if next(left, None) is None:
                    dies()

            cwasi.Sender.forward = some   # type: ignore[method-assign]
        else:
            dies_at("handover._ReceiverMove._give_name", after=True)
        rx.hand_over(HANG)

    def second() -> None:
        gates.wait(1)
        with cwasi.open_receiver("lab", timeout=HANG, successor=True) as rx:
            number = 1
            with pytest.raises(cwasi.PeerDied):
                while True:
                    assert rx.recv(HANG) == message(number)
                    number += 1
            assert number == (22 if passes_on else 1)

    pids = fork(first), fork(second)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        with pytest.raises((cwasi.PeerDied, cwasi.ChannelClosed)):
            for number in range(1_000_000):
                tx.send(message(number), HANG)
                if number == 100:
                    gates.open(1)   # now there are more than it comes to pass on
        assert status_of(pids[0]) == -signal.SIGKILL
        assert status_of(pids[1]) == 0


@pytest.mark.parametrize("step", ["switch_moved.NamedMove._serve", "switch_moved.NamedMove._switch"])
def test_a_sender_that_is_killed_while_its_receiver_moves(fork: Fork, gates: Gates, start: Start, step: str) -> None:
    """All that it had sent comes, to the old one or the new one; then it is told."""

    def send() -> None:
        tx = cwasi.open_sender("lab", timeout=HANG)
        for number in range(100):
            tx.send(message(number))
        dies_at(step)
        gates.open(1)
        signal.pause()

    def second() -> None:
        gates.wait(2)
        rx = cwasi.open_receiver("lab", timeout=HANG, successor=True)
        for number in range(1, 100):
            assert rx.recv(HANG) == message(number)
        with pytest.raises(cwasi.PeerDied):
            rx.recv(HANG)
        rx.close()

    pids = fork(send), fork(second)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert rx.recv(HANG) == message(0)
        gates.wait(1)
        gates.open(2)
        rx.hand_over(HANG)
        assert status_of(pids[0]) == -signal.SIGKILL
        assert status_of(pids[1]) == 0


def test_a_successor_that_is_killed_afterwards(fork: Fork, gates: Gates, start: Start) -> None:
    """The sender learns of it, and so does who has not passed on all yet."""

    def second() -> None:
        gates.wait(1)
        rx = cwasi.open_receiver("lab", timeout=HANG, successor=True)
        assert rx.recv(HANG) == message(1)
        dies()

    def send() -> None:
        with cwasi.open_sender("lab", timeout=HANG) as tx:
            for number in range(1_000_000):
                tx.send(message(number), HANG)

    pid = fork(second)
    sending = start(send)
    rx = cwasi.open_receiver("lab", timeout=HANG)
    assert rx.recv(HANG) == message(0)
    gates.open(1)
    with suppress(cwasi.PeerDied):   # unless it had passed on all by then
        rx.hand_over(HANG)
    assert rx.closed
    with pytest.raises(cwasi.PeerDied):
        sending.result(HANG)
    assert status_of(pid) == -signal.SIGKILL


def test_nothing_is_left(fork: Fork, start: Start) -> None:
    """In a process to which an end comes back again and again."""

    def child() -> None:
        for _ in range(12):
            with cwasi.open_receiver("lab", timeout=HANG, successor=True) as rx:
                rx.hand_over(HANG)

    pid = fork(child)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    rx = cwasi.open_receiver("lab", timeout=HANG)
    before: tuple[int, int] | None = None
    with opening.result(HANG) as tx:   # type: ignore[attr-defined]
        for number in range(12):
            tx.send(message(number))
            rx.hand_over(HANG)
            rx = cwasi.open_receiver("lab", timeout=HANG, successor=True)
            assert rx.recv(HANG) == message(number)
            while tx.epoch < 2 * number + 2:
                time.sleep(0.001)
            if number == 3:
                before = psutil.Process().num_fds(), threading.active_count()
        assert before is not None
        descriptors, threads = before[0] + 4, before[1] + 1   # what is on its way out takes a moment
        eventually(lambda: psutil.Process().num_fds() <= descriptors and threading.active_count() <= threads)
        assert status_of(pid) == 0
        rx.close()


# ---- guests ----


def test_a_guest_moves(fork: Fork, gates: Gates, guests: Path) -> None:
    """From host to host, in the middle of a pipeline; what it has received it passes on before."""

    def hosts(stage: int) -> None:
        gates.wait(stage)
        later = stage > 0
        into = cwasi.open_receiver("to-echo", timeout=HANG, successor=later)
        out = cwasi.open_sender("from-echo", timeout=HANG, successor=later)
        with cwasi.Host() as host:
            echo = host.load(guests / "echo.wasm", stderr=os.devnull)
            host.attach(echo, into, port="in")
            host.attach(echo, out, port="out")
            running = threading.Thread(target=host.run)
            running.start()
            if stage < STAGES - 1:
                while into.metrics().messages < 100:
                    time.sleep(0.001)
                gates.open(stage + 1)
                host.move_out(echo, HANG)
                assert into.closed and out.closed
            running.join()

    pids = stages(fork, hosts)
    done, sent = threading.Event(), 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        opening = pool.submit(cwasi.open_sender, "to-echo", timeout=HANG)
        rx = cwasi.open_receiver("from-echo", timeout=HANG)
        tx = opening.result(HANG)

        def send() -> int:
            number = 0
            while not done.is_set():
                tx.send(message(number), HANG)
                number += 1
            tx.close()
            return number

        sending = pool.submit(send)
        with rx:
            while (tx.epoch, rx.epoch) != (STAGES - 1, STAGES - 1) or sent < 10_000:
                assert rx.recv(HANG) == message(sent)
                sent += 1
            done.set()
            for data in rx:
                assert data == message(sent)
                sent += 1
        assert sent == sending.result(HANG)
    assert [status_of(pid) for pid in pids] == [0] * STAGES


COMPUTES = """
(module
  (import "cwasi_v1" "channel_mode" (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (loop (br 0))))
"""


def test_a_guest_that_cannot_move(start: Start, module: Callable[..., Path], guests: Path) -> None:
    """It goes on as if nothing had been."""
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    rx = cwasi.open_receiver("lab", timeout=HANG)
    with opening.result(HANG), cwasi.Host(timeout=HANG) as host:   # type: ignore[attr-defined]
        spin, computes = host.load(guests / "spin.wasm"), host.load(module(COMPUTES), "computes")
        with pytest.raises(cwasi.BadSpec, match="cannot use channel 'lab'"):
            host.attach(spin, rx)
        with pytest.raises(cwasi.BadSpec, match="ends that others cannot find by name"):
            host.move_out(spin, 0.1)
        host.attach(computes, rx)
        running = start(host.run, computes)
        while not host.running():
            time.sleep(0.001)
        with pytest.raises(cwasi.Timeout, match="function computes computes on"):
            host.move_out(computes, 0.1)
        assert not computes.stopped and not running.done()
        host.close()
        with pytest.raises(cwasi.GuestTimeout):
            running.result(HANG)
