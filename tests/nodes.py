"""What the tests of channels between nodes share: network namespaces on one bridge with a Redis server, and a sender
and a receiver there that are told what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis_servers
from authority import Authority
from channels import HANG

PORT = 6399

COMMON = """
import json, os, signal, sys, threading
signal.alarm(240)
import cwasi_fastpath as cwasi
from cwasi_fastpath import lease, meeting
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.transport import redis_client
options = json.loads(sys.argv[1])
lease.SECONDS, lease._RENEW = options.pop("lease", 60.0), 0.4
redis_client._SOCKET_SECONDS = options.pop("answer_within", redis_client._SOCKET_SECONDS)
class Eager(cwasi.Policy):
    # Takes tcp wherever it is possible.
    def decide(self, request):
        from cwasi_fastpath.policy import CostPolicy, Decision, ruled_out
        from cwasi_fastpath.calibration import costs
        if (why := ruled_out(request, cwasi.Transport.TCP)) is None:
            return Decision(cwasi.Mode.REMOTE, cwasi.Transport.TCP, "as it is possible", ())
        return CostPolicy(costs()).decide(request)
if options.pop("eager", False):
    options["policy"] = Eager()
def tell(**said):
    sys.stdout.write(json.dumps(said) + chr(10))   # at once: threads may tell
    sys.stdout.flush()
def way(role):
    return str(meeting.named_end("lab", role).meeting.decision.transport)
def message(number):
    return number.to_bytes(8, "little") * (1 + (5000 if number % 499 == 0 else number % 40))
"""

SENDER = COMMON + """
try:
    tx = cwasi.open_sender("lab", timeout=60, **options)
except cwasi.Error as error:
    tell(error=type(error).__name__, message=str(error))
    sys.exit(1)
named = meeting.named_end("lab", SENDER)
tell(transport=way(SENDER), why=named.meeting.decision.explain())
done, sent = threading.Event(), [0]
def send():
    try:
        while not done.is_set():
            tx.send(message(sent[0]))
            sent[0] += 1
            if sent[0] % 50 == 0:
                done.wait(0.01)
    except cwasi.Error as error:
        tell(failed=type(error).__name__, message=str(error), sent=sent[0], unread=tx.unread)
sending = threading.Thread(target=send, daemon=True)
sending.start()
for line in sys.stdin:
    word, *rest = line.split()
    if word == "switch":
        try:
            tx.switch(rest[0], timeout=float(rest[1]))
            tell(switched=way(SENDER), epoch=tx.epoch, mode=str(tx.mode))
        except cwasi.Error as error:
            tell(error=type(error).__name__, message=str(error), transport=way(SENDER))
    elif word == "sent":
        tell(sent=sent[0])
    else:
        break
done.set()
sending.join()
tx.close()
tell(sent=sent[0])
"""

RECEIVER = COMMON + """
try:
    rx = cwasi.open_receiver("lab", timeout=60)
except cwasi.Error as error:
    tell(error=type(error).__name__, message=str(error))
    sys.exit(1)
tell(transport=way(RECEIVER))
number = 0
try:
    for data in rx:
        assert data == message(number), number
        number += 1
        if number % 100 == 0:
            tell(number=number)
    tell(all=number)
except cwasi.Error as error:
    tell(failed=type(error).__name__, message=str(error), number=number)
rx.close()
"""

unable = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("redis-server") is None,
    reason="network namespaces need root, ip (apt install iproute2), and redis-server (apt install redis-server)",
)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Namespace:
    """One with a cable to others."""

    name: str
    device: str
    address: str

    @property
    def inside(self) -> list[str]:
        """What a command begins with that shall run there."""
        return ["ip", "netns", "exec", self.name]

    def start(self, program: str, *arguments: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
        """A Python program there; what it prints can be read."""
        command = [*self.inside, sys.executable, "-P", "-c", program, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)

    def cable(self, state: str) -> None:
        ip("-n", self.name, "link", "set", self.device, state)


@dataclass(frozen=True)
class Node(Namespace):
    """It has a runtime directory of its own, and its registry is on the hub."""

    directory: str
    registry: str

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "CWASI_RUNTIME_DIR": self.directory, "CWASI_REGISTRY": self.registry, **more}

    def run(self, program: str, more: dict[str, str] | None = None, **options: Any) -> Process:
        return Process([*self.inside, sys.executable, "-P", "-c", program, json.dumps(options)],
                       self.environment(**(more or {})))   # fmt: skip


class Process:
    """One that tells, a line of JSON each, and may be told something."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def say(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def heard(self, *keys: str) -> dict[str, Any]:
        """The next line that has one of these. What nobody expects to fail has not."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if set(keys) & set(said):
                return said
            assert "failed" not in said, said
        raise AssertionError(f"it ended with {self._process.wait()}, and said no {keys}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        return self._process.wait(HANG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True, slots=True)
class Nodes:
    all: list[Node]
    server: redis_servers.Server
    registry: str

    @property
    def near(self) -> Node:
        return self.all[0]

    @property
    def far(self) -> Node:
        return self.all[1]


@pytest.fixture
def wired() -> Iterator[tuple[Namespace, Namespace]]:
    """Two with a cable from one to the other, and nothing else."""
    mark = f"cw{os.getpid() % 100000}"
    pair = (Namespace(f"{mark}a", f"{mark}x", "10.83.7.1"), Namespace(f"{mark}b", f"{mark}y", "10.83.7.2"))
    try:
        for node in pair:
            ip("netns", "add", node.name)
        near, far = pair
        ip("link", "add", near.device, "netns", near.name, "type", "veth", "peer", far.device, "netns", far.name)
        for node in pair:
            ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", node.device)
            ip("-n", node.name, "link", "set", "lo", "up")
            node.cable("up")
        yield pair
    finally:
        for node in pair:
            subprocess.run(["ip", "netns", "del", node.name], capture_output=True)


@contextmanager
def joined(directory: Path, count: int) -> Iterator[Nodes]:
    """So many, until the end of it."""
    mark = f"cn{os.getpid() % 100000}"
    registry = f"redis://10.84.7.100:{PORT}"
    directories = [tempfile.mkdtemp(prefix="cwasi-rt-") for _ in range(count)]
    hub = f"{mark}h"
    found = [
        Node(f"{mark}{letter}", f"{mark}{letter}0", f"10.84.7.{number}", there, registry)
        for number, (letter, there) in enumerate(zip("abcdefg", directories, strict=False), 1)
    ]
    try:
        for name in (hub, *(node.name for node in found)):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "addr", "add", "10.84.7.100/24", "dev", "br0")
        ip("-n", hub, "link", "set", "br0", "up")
        for node in found:
            port = f"{node.device}p"
            ip("link", "add", node.device, "netns", node.name, "type", "veth", "peer", port, "netns", hub)
            ip("-n", hub, "link", "set", port, "master", "br0", "up")
            ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", node.device)
            node.cable("up")
        options = ("--port", str(PORT), "--bind", "10.84.7.100", "--protected-mode", "no")
        inside = ("ip", "netns", "exec", hub)
        with redis_servers.Server(directory, *options, inside=inside) as server:
            yield Nodes(found, server, registry)
    finally:
        for name in (hub, *(node.name for node in found)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        for there in directories:
            shutil.rmtree(there)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Two."""
    with joined(tmp_path / "server", 2) as found:
        yield found


Ends = tuple[Process, Process]


@pytest.fixture
def open_ends(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[Callable[..., Ends]]:
    """A sender near and a receiver far, that have exchanged some messages. Their leases last as the test or its module
    says; long ones where no lease has to run out, since a slow machine may be late to renew them.
    """
    common = {"lease": getattr(request.module, "LEASE", 60.0)}
    running: list[Process] = []

    def start(more: dict[str, str] | None = None, transport: str | None = "tcp", **settings: Any) -> Ends:
        settings = common | settings
        options = {} if transport is None else {"transport": transport}
        tx, rx = nodes.near.run(SENDER, **options, **settings), nodes.far.run(RECEIVER, more, **settings)
        running.extend((tx, rx))
        told = tx.heard("transport", "error")
        assert rx.heard("transport", "error")["transport"] == told["transport"]
        rx.heard("number")
        return tx, rx

    yield start
    for one in running:
        one.__exit__(None, None, None)


def finish(ends: Ends) -> None:
    """All that was sent has come, once and in order."""
    tx, rx = ends
    tx.say("stop")
    sent = tx.heard("sent")["sent"]
    assert rx.heard("all", "failed") == {"all": sent}
    assert (tx.ended(), rx.ended()) == (0, 0)


def keys(nodes: Nodes) -> set[str]:
    """What is in the server, but for farewells and marks, which expire."""
    with nodes.server.client() as client:
        found = [key.decode() for key in client.keys("*")]
    return {key for key in found if not key.startswith(("cwasi:registry:bye:", "cwasi:registry:mark:"))}


def switch(ends: Ends, target: str, timeout: float = HANG) -> dict[str, Any]:
    ends[0].say("switch", target, timeout)
    return ends[0].heard("switched", "error")


def switched(ends: Ends, target: str) -> None:
    """Succeeds, and messages come that way."""
    told = switch(ends, target)
    assert told.get("switched") == ("tcp" if target.startswith("tcp") else "redis"), told
    assert told["mode"] == "remote"
    ends[0].say("sent")
    sent = ends[0].heard("sent")["sent"]
    while ends[1].heard("number", "failed")["number"] <= sent:
        pass


def switched_in_the_end(ends: Ends, target: str) -> None:
    until = time.monotonic() + HANG
    while "error" in (told := switch(ends, target)):
        assert time.monotonic() < until, told
        time.sleep(0.1)
    assert told["switched"] == target


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, dict[str, str]]:
    """The environment of each node; strange is one that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl (apt install openssl)")
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    found = {"near": ours.files("near", "10.84.7.1"), "far": ours.files("far", "10.84.7.2"),
             "strange": others.files("far", "10.84.7.2")}  # fmt: skip
    return {name: {"CWASI_TLS": f"{one.authority}:{one.certificate}:{one.key}"} for name, one in found.items()}
