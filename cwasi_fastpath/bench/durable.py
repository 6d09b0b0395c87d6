"""What durability costs: channels over private servers that keep nothing, or a log, with and without waiting for it.

Run it by `python -m cwasi_fastpath.bench.durable [ROUNDS]`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from statistics import median

from ..channel import open_channel
from ..durable import durable_receiver, durable_sender
from ..receiver import Receiver
from ..redis_server import RedisServer
from ..sender import Sender

_LOG = ("--appendonly", "yes", "--appendfsync")
SETTINGS: dict[str, tuple[str, ...]] = {
    "not durable": (),
    "appendonly no": (),
    "appendfsync no": (*_LOG, "no"),
    "appendfsync everysec": (*_LOG, "everysec"),
    "appendfsync always": (*_LOG, "always"),
}
_MEASURES: dict[str, tuple[int, int]] = {"1 KiB": (1 << 10, 4000), "64 KiB": (1 << 16, 500)}
"""Bytes in a message, and how many of them are a stream."""
_SINGLE = 200


def _ends(setting: str, url: str) -> tuple[Sender, Receiver]:
    if setting == "not durable":
        return open_channel("cost", url)
    return durable_sender("cost", url), durable_receiver("cost", url)


def _stream(tx: Sender, rx: Receiver, size: int, count: int) -> float:
    """Messages a second, all sent as fast as they are taken."""
    message = bytes(size)

    def send() -> None:
        for _ in range(count):
            tx.send(message)

    sending = threading.Thread(target=send)
    start = time.perf_counter()
    sending.start()
    for _ in range(count):
        rx.recv()
    seconds = time.perf_counter() - start
    sending.join()
    return count / seconds


def _single(tx: Sender, rx: Receiver, size: int) -> float:
    """Microseconds from send to receipt, one at a time: the median."""
    message, took = bytes(size), []
    for _ in range(_SINGLE):
        start = time.perf_counter()
        tx.send(message)
        rx.recv()
        took.append(1e6 * (time.perf_counter() - start))
    return median(took)


def measure(setting: str) -> dict[str, float]:
    """One round, with a server of its own. Raises RedisUnavailable."""
    with RedisServer(settings=SETTINGS[setting]) as server:
        tx, rx = _ends(setting, server.url)
        found: dict[str, float] = {}
        with tx, rx:
            for name, (size, count) in _MEASURES.items():
                found[f"one way, {name}, us"] = _single(tx, rx, size)
                found[f"stream of {name}, messages/s"] = _stream(tx, rx, size, count)
    return found


def table(rounds: int, say: Callable[[str], None] = print) -> None:
    """Measures in interleaved rounds and prints the medians."""
    found: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(rounds):
        for setting, results in found.items():
            results.append(measure(setting))
    columns = list(found["not durable"][0])
    say(" | ".join(["", *columns]))
    for setting, results in found.items():
        say(" | ".join([setting, *(f"{median(result[column] for result in results):,.0f}" for column in columns)]))


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)   # that most of these settings promise less is the point
    table(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
