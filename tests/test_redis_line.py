"""The line to a Redis server is cut, and comes back: a server in a network namespace of its own, over a veth pair."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis_servers import HANG, SAFE, Server

import cwasi_fastpath as cwasi

PORT = 6379


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@dataclass(frozen=True)
class Line:
    """To a namespace, by the interface there that has this address."""

    namespace: str
    interface: str
    address: str

    def set(self, state: str) -> None:
        assert ip("-n", self.namespace, "link", "set", self.interface, state).returncode == 0

    def server(self, directory: Path) -> Server:
        options = ("--port", str(PORT), "--bind", self.address, "--protected-mode", "no", *SAFE)
        return Server(directory, *options, inside=("ip", "netns", "exec", self.namespace))


@pytest.fixture
def line() -> Iterator[Line]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    name, ours, theirs = f"cwasi{os.getpid()}", f"ca{os.getpid()}", f"cb{os.getpid()}"
    network = f"10.{os.getpid() % 200 + 20}.77"
    with contextlib.ExitStack() as stack:
        if (made := ip("netns", "add", name)).returncode != 0:
            pytest.skip(f"no network namespaces: {made.stderr}")
        stack.callback(ip, "netns", "del", name)
        if (made := ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)).returncode != 0:
            pytest.skip(f"no veth: {made.stderr}")
        stack.callback(ip, "link", "del", ours)
        ip("addr", "add", f"{network}.1/24", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "addr", "add", f"{network}.2/24", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        # Whatever happens to ours, what is for that address goes nowhere else.
        ip("route", "add", "unreachable", f"{network}.0/24", "metric", "4000")
        stack.callback(ip, "route", "del", "unreachable", f"{network}.0/24", "metric", "4000")
        yield Line(name, theirs, f"{network}.2")


def test_a_line_that_is_cut_and_comes_back(tmp_path: Path, line: Line) -> None:
    count = 1500
    with line.server(tmp_path / "redis"), ThreadPoolExecutor(2) as pool:
        url = f"redis://{line.address}:{PORT}?socket_timeout=1&socket_connect_timeout=1"
        tx, rx = cwasi.durable_sender("lab", url), cwasi.durable_receiver("lab", url)

        def send() -> None:
            for i in range(count):
                tx.send(b"%d" % i + bytes(500))
                time.sleep(0.001)
            tx.close()

        sending = pool.submit(send)
        receiving = pool.submit(lambda: [message.rstrip(b"\0") for message in rx])
        for _ in range(2):
            time.sleep(0.3)
            line.set("down")
            time.sleep(1.5)
            line.set("up")
        assert receiving.result(HANG) == [b"%d" % i for i in range(count)]
        sending.result(HANG)
        rx.close()


def test_a_line_that_stays_cut(tmp_path: Path, line: Line) -> None:
    with line.server(tmp_path / "redis") as server, server.client() as client:
        url = f"redis://{line.address}:{PORT}?socket_timeout=0.5&socket_connect_timeout=0.5&patience=1"
        tx, rx = cwasi.durable_sender("lab", url), cwasi.durable_receiver("lab", url)
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"
        client.ping()   # by then it has told the sender, too
        line.set("down")
        with pytest.raises(cwasi.PeerDied, match="1 s of patience: does not answer"):
            rx.recv(timeout=HANG)
        tx.send(b"y")
        with pytest.raises(cwasi.PeerDied, match="only the first 1 messages of this sender"):
            tx.close()
        rx.close()
