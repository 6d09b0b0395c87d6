"""Network namespaces that stand for nodes, on one bridge, with a Redis server on another one; and processes there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis_servers
from channels import HANG

PORT = 6399

COMMON = """
import json, os, signal, sys, threading
signal.alarm(240)
import cwasi_fastpath as cwasi
from cwasi_fastpath import lease, meeting
from cwasi_fastpath.endpoint import RECEIVER, SENDER
lease.SECONDS, lease._RENEW = 3.0, 0.4
options = json.loads(sys.argv[1])
class Eager:
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

NEEDS = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("redis-server") is None,
    reason="network namespaces need root, ip (apt install iproute2), and redis-server (apt install redis-server)",
)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Node:
    """A namespace, with a cable to the bridge, and a runtime directory of its own."""

    name: str
    device: str
    address: str
    directory: str
    registry: str

    @property
    def inside(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "CWASI_RUNTIME_DIR": self.directory, "CWASI_REGISTRY": self.registry, **more}

    def run(self, program: str, more: dict[str, str] | None = None, **options: Any) -> Process:
        return Process([*self.inside, sys.executable, "-P", "-c", program, json.dumps(options)],
                       self.environment(**(more or {})))   # fmt: skip

    def cable(self, state: str) -> None:
        ip("-n", self.name, "link", "set", self.device, state)


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


def keys(nodes: Nodes) -> set[str]:
    """What is in the server, but for farewells and marks, which expire."""
    with nodes.server.client() as client:
        found = [key.decode() for key in client.keys("*")]
    return {key for key in found if not key.startswith(("cwasi:registry:bye:", "cwasi:registry:mark:"))}
