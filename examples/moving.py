"""A function moves while messages stream to it: from the process of its sender to another one, on to a third, and home.

    python examples/moving.py [SECONDS]

The sender goes on all the time, and every message is checked. Printed is, for each place, what carried the channel, how
much came there, and the longest time between two messages in the second around the move (the gap).
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from os import environ

import cwasi_fastpath as cwasi

SIZE = 16384
PLACES = ("local", "proximal", "proximal, a third process", "local again")


def message(number: int) -> bytes:
    return number.to_bytes(8, "little") * (SIZE // 8)


def stay(place: int, first: int, last_at: float, seconds: float, rx: cwasi.Receiver) -> tuple[int, float]:
    """Receives for some seconds, and until all that was under way to the last place has come; says how it went. The
    number of the next message, and when the last one came.
    """
    begin, number, gap = time.monotonic(), first, 0.0
    while (now := time.monotonic()) < begin + seconds or rx.epoch != place:
        data = rx.recv(30)
        now = time.monotonic()
        gap = max(gap, now - last_at) if now < begin + 1 and last_at else gap
        last_at = now
        assert data == message(number), f"message {number} is wrong"
        number += 1
    rate = (number - first) * SIZE / (now - begin) / 1e6
    moved = f"gap {gap * 1e3:6.1f} ms" if place else "              "
    print(f"{PLACES[place]:26} {rx.mode.name.lower():9} epoch {rx.epoch}  {rate:7.0f} MB/s  {moved}  "
          f"messages {first:,} to {number - 1:,}", flush=True)   # fmt: skip
    return number, last_at


def function(place: int, seconds: float, before: Connection, after: Connection) -> None:
    """The function in a process of its own, which it leaves when its time is over. Its state is the number that it has
    come to.
    """
    rx = cwasi.open_receiver("frames", timeout=30, successor=True)
    state = stay(place, *before.recv(), seconds, rx)
    after.send(state)
    rx.hand_over(30)


def run(seconds: float) -> None:
    spawning, done = multiprocessing.get_context("spawn"), threading.Event()
    states = [spawning.Pipe(duplex=False) for _ in range(3)]
    others = [
        spawning.Process(target=function, args=(place, seconds, states[place - 1][0], states[place][1]))
        for place in (1, 2)
    ]

    def send() -> None:
        with cwasi.open_sender("frames", timeout=30) as tx:
            number = 0
            while not done.is_set():
                tx.send(message(number))
                number += 1

    sender = threading.Thread(target=send)
    sender.start()
    others[0].start()   # it waits until the function is handed over
    rx = cwasi.open_receiver("frames", timeout=30)
    state = stay(0, 0, 0.0, seconds, rx)
    states[0][1].send(state)
    rx.hand_over(30)
    others[1].start()
    state = states[2][0].recv()
    with cwasi.open_receiver("frames", timeout=30, successor=True) as home:
        number, _ = stay(3, *state, seconds, home)
        done.set()
        for data in home:
            assert data == message(number), f"message {number} is wrong"
            number += 1
    sender.join()
    for other in others:
        other.join()
    print(f"all {number:,} messages came, once and in order")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="cwasi-moving-") as directory:
        environ["CWASI_RUNTIME_DIR"] = directory
        run(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
