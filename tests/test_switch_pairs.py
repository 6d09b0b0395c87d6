"""Switches from every transport to every other one, under load: each message once, in order, to the byte."""

from __future__ import annotations

import threading
import time
from itertools import permutations

import pytest
from channels import HANG, Start

import cwasi_fastpath as cwasi
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.redis_server import RedisServer

PAIRS = list(permutations(Transport, 2))
LENGTHS = (0, 1, 8, 100, 4095, 4097, 16_383, 16_385, 70_000, 300_000)
LAST = b"the last one"
PAUSE_EVERY = 50
"""Messages; then a sender that is given no pause would have filled a server before the next switch."""


def message(number: int) -> bytes:
    length = LENGTHS[number * 7 % len(LENGTHS)] if number % 11 == 0 else number % 90
    return (number.to_bytes(8, "little") * (length // 8 + 1))[:length]


def send_until(tx: cwasi.Sender, done: threading.Event, pause: float) -> int:
    number = 0
    while not done.is_set():
        tx.send(message(number), HANG)
        number += 1
        if pause and number % PAUSE_EVERY == 0:
            time.sleep(pause)
    tx.send(LAST, HANG)
    return number


def switch_to_and_fro(tx: cwasi.Sender, targets: list[str], times: int) -> None:
    for number in range(times):
        while True:
            try:
                tx.switch(targets[number % 2], timeout=1.0)
                break
            except cwasi.Timeout:   # the receiver is far behind
                continue


def check(start: Start, targets: list[str], times: int, pause: float) -> None:
    tx, rx = cwasi.open_channel("lab", targets[0])
    with tx, rx:
        done = threading.Event()
        sending = start(send_until, tx, done, pause)
        switching = start(switch_to_and_fro, tx, targets[::-1], times)
        switching.add_done_callback(lambda _: done.set())
        received = 0
        while (data := rx.recv(HANG)) != LAST:
            assert data == message(received)
            received += 1
        switching.result(HANG)
        assert sending.result(HANG) == received
        assert received + 1 == rx.metrics().messages == tx.metrics().messages
        assert tx.epoch == rx.epoch == times
        tx.close()
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(HANG)


def run(start: Start, redis_server: RedisServer, pair: tuple[Transport, Transport], times: int) -> None:
    remote = Transport.REDIS in pair
    targets = [redis_server.url if kind is Transport.REDIS else kind.value for kind in pair]
    check(start, targets, times, 0.005 if remote else 0)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_pair(start: Start, redis_server: RedisServer, pair: tuple[Transport, Transport]) -> None:
    run(start, redis_server, pair, 15)


@pytest.mark.stress
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_pair_a_thousand_times(
    start: Start, redis_server: RedisServer, pair: tuple[Transport, Transport]
) -> None:
    run(start, redis_server, pair, 1000)
