"""A switch to and from a durable stream while its server is killed and started again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from channels import HANG, Fork, Start, control_ended, eventually, status_of
from redis_servers import SAFE, Server

import cwasi_fastpath as cwasi
from cwasi_fastpath.transport.redis_stream import Stream

COUNT = 3000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """It keeps what it has said it has."""
    with Server(tmp_path / "redis", *SAFE) as server:
        yield server


def message(number: int) -> bytes:
    return number.to_bytes(4, "little") * (1 + (20_000 if number % 100 == 0 else number % 300))


def receive_all(rx: cwasi.Receiver, count: int) -> None:
    for number in range(count):
        assert rx.recv(HANG) == message(number), number
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(HANG)


@pytest.mark.parametrize("way", ["to", "from"])
def test_a_server_that_is_killed_with_messages_in_it(server: Server, start: Start, way: str) -> None:
    """The switch comes while it is away."""
    durable = f"{server.url}?durable=1"
    tx, rx = cwasi.open_channel("lab", durable if way == "from" else "ring")
    for number in range(1000):
        tx.send(message(number), HANG)
        if way == "to" and number == 500:
            receiving = start(receive_all, rx, 1000)
            tx.switch(durable, HANG)
    server.kill()
    if way == "from":
        tx.switch("ring", HANG)
        receiving = start(receive_all, rx, 1010)
        for number in range(1000, 1010):
            tx.send(message(number), HANG)
    time.sleep(0.5)
    server.start()
    tx.close()
    receiving.result(HANG)
    rx.close()


def test_there_and_back_at_once(server: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read by the first one is not read again by the second, also where the server hears of it late."""
    acknowledge = Stream.acknowledge

    def late(stream: Stream, ids: Sequence[bytes]) -> None:
        time.sleep(0.05)
        acknowledge(stream, ids)

    monkeypatch.setattr(Stream, "acknowledge", late)
    tx, rx = cwasi.open_channel("lab")
    receiving, number = start(receive_all, rx, 400), 0
    for _ in range(20):
        for target in (f"{server.url}?durable=1", "ring"):
            tx.switch(target, HANG)
            for _ in range(10):
                tx.send(message(number), HANG)
                number += 1
    tx.close()
    receiving.result(HANG)
    rx.close()


def test_a_server_that_is_killed_again_and_again(server: Server, start: Start) -> None:
    targets = [f"{server.url}?durable=1", "ring", f"{server.url}?durable=1", "tcp"]
    tx, rx = cwasi.open_channel("lab")
    receiving, done = start(receive_all, rx, COUNT), threading.Event()

    switched: list[str] = []

    def switch_on() -> None:
        while not done.is_set():
            target = targets[len(switched) % len(targets)]
            with suppress(cwasi.Timeout, cwasi.RedisUnavailable):
                tx.switch(target, timeout=2.0)
                switched.append(target)

    def kill() -> None:
        for _ in range(3):
            time.sleep(0.3)
            server.kill()
            time.sleep(0.2)
            server.start()

    switching, killing = start(switch_on), start(kill)
    for number in range(COUNT):
        tx.send(message(number), HANG)
        if not killing.done():
            time.sleep(0.001)
    killing.result(HANG)
    try:
        eventually(lambda: len(switched) > 2)
    finally:
        done.set()
    switching.result(HANG)
    tx.close()
    receiving.result(HANG)
    rx.close()


def test_in_two_processes(server: Server, fork: Fork, start: Start, runtime_directory: Path) -> None:
    counts, counted = os.pipe()

    def receive() -> None:
        number = 0
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            for data in rx:
                assert data == message(number), number
                number += 1
        os.write(counted, number.to_bytes(8, "little"))

    targets = [f"{server.url}?durable=1", "pipe"]
    pid = fork(receive)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        done = threading.Event()

        def kill() -> None:
            while not done.is_set():
                time.sleep(0.3)
                server.kill()
                time.sleep(0.2)
                server.start()

        killing, number, switched, until = start(kill), 0, 0, time.monotonic() + HANG
        try:
            while (number < COUNT or switched < 3) and time.monotonic() < until:
                tx.send(message(number), HANG)
                if number % 300 == 0:
                    with suppress(cwasi.Timeout, cwasi.RedisUnavailable):
                        tx.switch(targets[switched % 2], timeout=2.0)
                        switched += 1
                number += 1
        finally:
            done.set()
        killing.result(HANG)
    assert status_of(pid) == 0 and switched > 2
    assert int.from_bytes(os.read(counts, 8), "little") == number
    for descriptor in (counts, counted):
        os.close(descriptor)
    control_ended()
