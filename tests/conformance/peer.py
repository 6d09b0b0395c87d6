"""A process that joins a link and uses its end: peer.py SOCKET. The end and what to do come over the socket."""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from typing import Any

import cwasi_fastpath as cwasi
from cwasi_fastpath import transport, watch
from cwasi_fastpath.endpoint import SENDER

COUNT = 200
LARGE = 300_000
HANG = 60.0


def numbered(number: int) -> bytes:
    """The message of that number: small, of some pages, of some hundred pages."""
    size = (40, number * 997 % 50_000, LARGE)[number % 3]
    return random.Random(number).randbytes(size)


def _send(tx: cwasi.Sender, verb: str) -> int:
    number = 0
    with tx:
        while verb == "endless" or number < COUNT:
            tx.send(numbered(number))
            number += 1
            if verb == "idle":
                time.sleep(HANG)
        if verb == "fail":
            tx.finish(failed=True)
    return number


def _receive(rx: cwasi.Receiver, verb: str) -> int:
    number = 0
    if verb == "idle":
        time.sleep(HANG)
    with rx:
        for message in rx:
            if message != numbered(number):
                raise AssertionError(f"message {number} is not what was sent")
            number += 1
    return number


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as rendezvous:
        data, fds, _, _ = socket.recv_fds(rendezvous, 1 << 16, 250)
        task: dict[str, Any] = json.loads(data)
        link = transport.join(task["link"], fds)
        pointer = link.open(task["role"], reader=task["reader"])
        if task["role"] == SENDER:
            done = _send(cwasi.Sender(pointer, "lab"), task["verb"])
        else:
            rx = cwasi.Receiver(pointer, "lab")
            watch.watch(rx)
            done = _receive(rx, task["verb"])
        link.close()
        rendezvous.sendall(json.dumps(done).encode())


if __name__ == "__main__":
    main()
