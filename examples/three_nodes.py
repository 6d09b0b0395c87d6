"""A function moves from node to node while messages stream to it: local, proximal, remote, and back.

    sudo python examples/three_nodes.py [SECONDS] [--rate 400mbit] [--svg FILE]

Three network namespaces stand for the nodes, each behind a cable (veth) whose rate is limited (tbf); a fourth one has
the switch that joins them, and the registry's Redis server. The sender stays on the first node, and goes on all the
time; the function that receives begins in its process, goes to another process, to the second node, to the third, and
the same way home. Every message is checked. Printed is, for each place, what carried the channel, how much came, and
the gap: the longest time between two messages around the move. Needs root, ip, tc and redis-server.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cwasi_fastpath as cwasi
from cwasi_fastpath import meeting
from cwasi_fastpath.endpoint import RECEIVER

SIZE = 16384
NODES = ("a", "b", "c")
ROUTE = ("a", "a", "b", "c", "a", "a")
"""The node of each place; the first and the last are in the sender's process."""
PORT = 6379
SERVER = "10.84.9.100"
BUCKET = 0.02
"""Seconds of a point in the picture."""
DECADES = 4
"""Of its scale, from 1 MB/s on."""
COLOURS = {"local": "#2a9d4a", "proximal": "#2a6fb0", "remote": "#c0562a"}
HANG = 60


def message(number: int) -> bytes:
    return number.to_bytes(8, "little") * (SIZE // 8)


# ---- in the processes on the nodes: they are told what to do, and tell what was, a line of JSON each ----


def tell(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def stay(rx: cwasi.Receiver, epoch: int, number: int, last_at: float, seconds: float) -> dict[str, Any]:
    """Receives for some seconds, and until all that was under way to the last place has come; says how it went."""
    first, gap, begin = number, 0.0, time.monotonic()
    buckets: dict[int, int] = {}
    while (now := time.monotonic()) < begin + seconds or rx.epoch != epoch:
        data = rx.recv(HANG)
        now = time.monotonic()
        if last_at:
            gap = max(gap, now - last_at)
        last_at = now
        assert data == message(number), f"message {number} is wrong"
        number += 1
        bucket = int(now / BUCKET)
        buckets[bucket] = buckets.get(bucket, 0) + SIZE
    named = meeting.named_end("frames", RECEIVER)
    assert named is not None and named.meeting is not None
    return {"mode": str(rx.mode), "transport": str(named.meeting.decision.transport), "epoch": rx.epoch, "gap": gap,
            "first": first, "number": number, "last_at": last_at, "buckets": sorted(buckets.items()),
            "began": begin, "seconds": time.monotonic() - begin}   # fmt: skip


def visit(seconds: float) -> None:
    """A place of the function, which it leaves when its time is over."""
    tell(ready=True)
    state = json.loads(sys.stdin.readline())
    rx = cwasi.open_receiver("frames", timeout=HANG, successor=True)
    tell(**stay(rx, state["epoch"] + 1, state["number"], state["last_at"], seconds))
    rx.hand_over(HANG)


def home(seconds: float) -> None:
    """The sender, and the function at first and at last."""
    done = threading.Event()

    def send() -> None:
        with cwasi.open_sender("frames", timeout=HANG) as tx:
            number = 0
            while not done.is_set():
                tx.send(message(number))
                number += 1

    sender = threading.Thread(target=send)
    sender.start()
    rx = cwasi.open_receiver("frames", timeout=HANG)
    tell(**stay(rx, 0, 0, 0.0, seconds))
    rx.hand_over(HANG)
    state = json.loads(sys.stdin.readline())
    with cwasi.open_receiver("frames", timeout=HANG, successor=True) as back:
        found = stay(back, state["epoch"] + 1, state["number"], state["last_at"], seconds)
        done.set()
        number = found["number"]
        for data in back:
            assert data == message(number), f"message {number} is wrong"
            number += 1
        tell(**found, all=number)
    sender.join()


# ---- the nodes ----


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def nodes(rate: str) -> Iterator[str]:
    """The namespaces, until the end of it; what their names begin with."""
    mark = f"cw{os.getpid()}"
    names = [f"{mark}{letter}" for letter in (*NODES, "s")]
    switch = names[-1]
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "addr", "add", f"{SERVER}/24", "dev", "br0")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for number, name in enumerate(names[:-1], 1):
            port = f"port{number}"
            run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", name, "addr", "add", f"10.84.9.{number}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            for where, device in ((name, "eth0"), (switch, port)):
                run("tc", "-n", where, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "256kb",
                    "latency", "50ms")   # fmt: skip
        yield mark
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Place:
    """A process of this program on a node."""

    def __init__(self, mark: str, node: str, directory: str, what: str, seconds: float) -> None:
        environment = {**os.environ, "CWASI_RUNTIME_DIR": f"{directory}/{node}",
                       "CWASI_REGISTRY": f"redis://{SERVER}:{PORT}"}   # fmt: skip
        command = ["ip", "netns", "exec", f"{mark}{node}", sys.executable, __file__, str(seconds), "--as", what]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def say(self, said: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a process on a node has failed with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ended(self) -> None:
        if status := self._process.wait(HANG):
            sys.exit(f"a process on a node has failed with status {status}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def server(mark: str, directory: str) -> Iterator[None]:
    """The registry's."""
    options = ["--bind", SERVER, "--port", str(PORT), "--protected-mode", "no", "--save", "", "--dir", directory]
    process = subprocess.Popen(
        ["ip", "netns", "exec", f"{mark}s", "redis-server", *options], stdout=subprocess.DEVNULL
    )
    try:
        ask = ["ip", "netns", "exec", f"{mark}s", "redis-cli", "-h", SERVER, "ping"]
        until = time.monotonic() + HANG
        while b"PONG" not in subprocess.run(ask, capture_output=True).stdout:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit("redis-server does not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def journey(seconds: float, rate: str) -> list[dict[str, Any]]:
    """What was at each place."""
    directory = tempfile.mkdtemp(prefix="cwasi-nodes-")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        for node in NODES:
            Path(directory, node).mkdir(0o700)
        mark = stack.enter_context(nodes(rate))
        stack.enter_context(server(mark, directory))
        visits = [Place(mark, node, directory, "visit", seconds) for node in ROUTE[1:-1]]
        for place in visits:
            stack.callback(place.close)
            place.heard()
        first = Place(mark, ROUTE[0], directory, "home", seconds)
        stack.callback(first.close)
        found = []
        for number, place in enumerate([first, *visits, first]):
            if number:
                place.say({key: found[-1][key] for key in ("epoch", "number", "last_at")})
            found.append(place.heard())
            show(number, found[-1])
        for place in (*visits, first):
            place.ended()
    return found


def show(number: int, at: dict[str, Any]) -> None:
    rate = (at["number"] - at["first"]) * SIZE / at["seconds"] / 1e6
    gap = f"gap {at['gap'] * 1e3:6.1f} ms" if number else " " * 13
    print(f"node {ROUTE[number]}  {at['mode']:8}  {at['transport']:5}  epoch {at['epoch']}  {rate:7.1f} MB/s  {gap}  "
          f"messages {at['first']:,} to {at['number'] - 1:,}", flush=True)   # fmt: skip


# ---- the picture ----


def picture(places: list[dict[str, Any]], rate: str) -> str:
    """Throughput over time, on a logarithmic scale, as SVG."""
    width, height, left, top = 900, 260, 60, 40
    begin = places[0]["began"]
    span = places[-1]["began"] + places[-1]["seconds"] - begin

    def x(at: float) -> float:
        return left + (at - begin) / span * width

    def y(megabytes: float) -> float:
        return top + height - height * min(1.0, math.log10(max(megabytes, 1.0)) / DECADES)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 60}" '
             'font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="white"/>']   # fmt: skip
    for power in range(DECADES + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
                     f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10**power:,}</text>')   # fmt: skip
    for number, place in enumerate(places):
        since, until = x(place["began"]), x(place["began"] + place["seconds"])
        colour = COLOURS[place["mode"]]
        points = " ".join(
            f"{x((bucket + 0.5) * BUCKET):.1f},{y(count / BUCKET / 1e6):.1f}"
            for bucket, count in place["buckets"][1:-1]
        )
        gap = f"gap {place['gap'] * 1e3:.0f} ms" if number else ""
        middle = (since + until) / 2
        parts.append(
            f'<rect x="{since:.1f}" y="{top}" width="{until - since:.1f}" height="{height}" fill="{colour}" '
            f'opacity="0.08"/><polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{middle:.1f}" y="{top - 20}" text-anchor="middle" fill="{colour}">node {ROUTE[number]}: '
            f'{place["mode"]}</text><text x="{middle:.1f}" y="{top - 5}" text-anchor="middle" fill="#666">'
            f'{place["transport"]}</text>'
            f'<text x="{since + 3:.1f}" y="{top + height + 16}" fill="#666">{gap}</text>'
        )
    parts.append(f'<text x="{left}" y="{top + height + 40}">MB/s over {span:.1f} s; messages of {SIZE // 1024} KiB; '
                 f'cables of {rate}</text></svg>')   # fmt: skip
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="A function moves from node to node.")
    parser.add_argument("seconds", nargs="?", type=float, default=1.0)
    parser.add_argument("--rate", default="400mbit")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--as", dest="what", choices=["visit", "home"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what is not None:
        {"visit": visit, "home": home}[given.what](given.seconds)
        return
    places = journey(given.seconds, given.rate)
    print(f"all {places[-1]['all']:,} messages came, once and in order")
    if given.svg is not None:
        given.svg.write_text(picture(places, given.rate))


if __name__ == "__main__":
    main()
