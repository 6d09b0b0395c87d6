"""An end goes to another process, and on to the next: every message once, in order; and when somebody is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from channels import HANG, Fork, Start, control_ended, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import control, meeting, registry, runtime
from cwasi_fastpath.connection import Connection
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.redis_server import RedisServer

STAGES = 4
LARGE = 6 << 20   # more than a ring holds


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Iterator[Path]:
    """Nothing is left in it; what was killed leaves what the next one sweeps away."""
    yield runtime_directory
    control_ended()
    runtime.sweep(runtime_directory)
    assert not list(runtime_directory.iterdir())


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
    def child() -> None:
        gates.wait(1)
        with pytest.raises(cwasi.BadSpec, match="the receiver of channel 'lab' is of trust domain 'default'"):
            cwasi.open_receiver("lab", timeout=HANG, trust="other", successor=True)

    pid = fork(child)
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        moving = start(rx.hand_over, 2.0)
        gates.open(1)
        assert status_of(pid) == 0
        with pytest.raises(cwasi.Timeout):
            moving.result(HANG)
        tx.send(b"x")
        assert rx.recv(HANG) == b"x"


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_the_other_side_is_gone(fork: Fork, start: Start, role: str) -> None:
    other = "receiver" if role == "sender" else "sender"
    pid = fork(lambda: (getattr(cwasi, f"open_{other}")("lab", timeout=HANG), signal.pause()))
    with getattr(cwasi, f"open_{role}")("lab", timeout=HANG) as end:
        moving = start(end.hand_over, HANG)
        time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(cwasi.PeerDied, match="the other side is gone"):
            moving.result(HANG)
        with pytest.raises(cwasi.PeerDied, match="the other side is gone"):
            end.hand_over(HANG)
    assert status_of(pid) == -signal.SIGKILL
