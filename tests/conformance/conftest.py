"""A link over each transport, its ends, processes that hold an end, and the rule that a test leaves nothing behind."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from channels import FOREIGN, HANG, Ends, held, shared_memory

import cwasi_fastpath as cwasi
from cwasi_fastpath import tidy, transport, watch
from cwasi_fastpath.endpoint import RECEIVER, SENDER, Endpoint
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.redis_server import RedisServer
from cwasi_fastpath.transport import Link

from .cases import CASES, Case


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs over all transports, or over those that promise what it is marked with."""
    if "case" not in metafunc.fixturenames:
        return
    cases: tuple[Case, ...] = CASES
    if metafunc.definition.get_closest_marker("fans_out"):
        cases = tuple(case for case in CASES if case.readers > 1)
    if metafunc.definition.get_closest_marker("reconnects"):
        cases = tuple(case for case in CASES if case.cut is not None)
    metafunc.parametrize("case", cases, ids=[str(case.transport) for case in cases])


@pytest.fixture(scope="package")
def server() -> Iterator[RedisServer]:
    """One for the whole suite, and not for the tests after it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def url(case: Case, request: pytest.FixtureRequest) -> str | None:
    """Of the server, for the transport that needs one."""
    return str(request.getfixturevalue("server").url) if case.transport is Transport.REDIS else None


class Lab:
    """Makes links and opens their ends; closes all of it, ends first."""

    def __init__(self, case: Case, url: str | None) -> None:
        self._case, self._url = case, url
        self._links: list[Link] = []
        self._ends: list[Endpoint] = []

    def link(self, readers: int = 1) -> Link:
        link = transport.create(self._case.transport, readers=readers, redis=self._url, key="lab")
        self._links.append(link)
        return link

    def joined(self, link: Link, role: int, reader: int = 0) -> Link:
        """As it is in the process that `link` was exported to."""
        description, fds = link.export(role, reader)
        copies = [socket.dup(fd) for fd in fds]
        mine = transport.join(json.loads(json.dumps(description)), copies)
        self._links.append(mine)
        return mine

    def sender(self, link: Link) -> cwasi.Sender:
        tx = cwasi.Sender(link.open(SENDER), "lab")
        self._ends.append(tx)
        return tx

    def receiver(self, link: Link, reader: int = 0) -> cwasi.Receiver:
        rx = cwasi.Receiver(link.open(RECEIVER, reader=reader), "lab")
        self._ends.append(rx)
        return rx

    def ends(self) -> Ends:
        link = self.link()
        return self.sender(link), self.receiver(link)

    def close(self) -> None:
        for end in reversed(self._ends):
            end.stop()
            end.close()
        for link in self._links:
            link.close()
        self._ends.clear()
        self._links.clear()


@pytest.fixture
def lab(case: Case, url: str | None, clean: None) -> Iterator[Lab]:
    lab = Lab(case, url)
    yield lab
    lab.close()


@pytest.fixture
def ends(lab: Lab) -> Ends:
    """Both ends of a new link."""
    return lab.ends()


# ---- processes ----


@dataclass(frozen=True, slots=True)
class Child:
    """A process that holds an end."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    def kill(self) -> None:
        """By SIGKILL; it is gone then."""
        self.process.kill()
        self.process.wait(HANG)

    def result(self) -> Any:
        """What it says at its end. Fails if it ended badly."""
        told = self.socket.makefile("rb").read()
        assert self.process.wait(HANG) == 0
        return json.loads(told)


Elsewhere = Callable[..., Child]


@pytest.fixture
def elsewhere(lab: Lab) -> Iterator[Elsewhere]:
    """elsewhere(link, role, verb) starts conformance/peer.py with that end of the link."""
    children: list[Child] = []

    def start(link: Link, role: int, verb: str, reader: int = 0) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", str(Path(__file__).with_name("peer.py")), str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        child = Child(process, ours)
        children.append(child)
        description, fds = link.export(role, reader)
        task = {"link": description, "role": role, "reader": reader, "verb": verb}
        socket.send_fds(ours, [json.dumps(task).encode()], fds)
        return child

    yield start
    for child in children:
        child.kill()
        child.socket.close()


def gone(case: Case, link: Link, end: Endpoint, peer: int = 0) -> None:
    """After the death of the peer's process: what a host does where the transport does not notice."""
    if not case.notices:
        link.peer_died(end, peer)


# ---- nothing is left ----


def _usage() -> set[object]:
    """Descriptors, mapped rings by their inodes, and threads without the two that a process has for all channels."""
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    rings = {("ring", line.split()[4]) for line in lines if "cwasi-ring" in line}
    always = {thread for thread in threading.enumerate() if thread.name in (watch.THREAD, tidy.THREAD)}
    return rings | held() - always


@pytest.fixture
def clean(case: Case, url: str | None) -> Iterator[None]:
    """No test leaves anything behind, however its channels ended."""
    watch._started()   # its descriptor stays
    before, names = _usage(), shared_memory()
    yield
    until = time.monotonic() + FOREIGN
    while (left := (_usage() - before) | (shared_memory() - names)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left
    if url is not None:
        with redis.Redis.from_url(url) as client:
            assert client.keys() == []
