"""A switch while the way by which the messages went, or are to go, is cut: for a while, or for good."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from channels import HANG
from nodes import Namespace, unable
from proxy import Proxy
from redis_servers import SAFE, Server

import cwasi_fastpath as cwasi
from cwasi_fastpath import transport
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.transport import Link
from cwasi_fastpath.transport.tcp import TcpLink


def switched(tx: cwasi.Sender, rx: cwasi.Receiver, link: Link) -> None:
    rx.attach(link.open(RECEIVER), rx.epoch + 1, Mode.LOCAL)
    tx.leave_for(link.open(SENDER), Mode.LOCAL, HANG)


def sends_until_told(tx: cwasi.Sender) -> str:
    """What the sender is told in the end."""
    until = time.monotonic() + HANG
    while time.monotonic() < until:
        try:
            tx.send(b"x", timeout=0)
        except cwasi.WouldWait:
            time.sleep(0.01)
        except cwasi.PeerDied as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError("it was never told")


@pytest.mark.parametrize("readers", [1, 2])
def test_the_way_before_dies_with_messages_in_it(readers: int) -> None:
    """Also the sender is told: how many, and again and again."""
    old, new = TcpLink.create(patience=1.0, readers=readers), transport.create(Transport.RING, readers=readers)
    description = old.export(SENDER)[0]
    proxies = [Proxy(port) for port in (description["port"], *(port for port, _ in description["others"]))]
    others = [[proxy.port, key] for proxy, (_, key) in zip(proxies[1:], description["others"], strict=True)]
    far = TcpLink.joined({**description, "port": proxies[0].port, "others": others}, [])
    rxs = [cwasi.Receiver(old.open(RECEIVER, reader=reader), "lab") for reader in range(readers)]
    tx = cwasi.Sender(far.open(SENDER), "lab")
    big = bytes(1 << 20)
    for _ in range(40):   # more than the kernel takes
        with suppress(cwasi.Timeout):
            tx.send(big, timeout=0.01)
    for rx in rxs:
        assert rx.recv(HANG) == big
        rx.attach(new.open(RECEIVER, reader=rxs.index(rx)), 1, Mode.LOCAL)
    tx.leave_for(new.open(SENDER), Mode.LOCAL, HANG)
    tx.send(b"on the new way")
    for proxy in proxies:
        proxy.refuse()
    told = sends_until_told(tx)
    found = re.search(r"died before all was received; \d+ messages were not received, (\d+) of them", told)
    assert found is not None and 0 < int(found[1]) <= 40
    assert tx.unread >= int(found[1])
    with pytest.raises(cwasi.PeerDied, match="left by a switch"):
        tx.send(b"again")
    for rx in rxs:
        with pytest.raises(cwasi.PeerDied):
            while True:
                assert rx.recv(HANG) == big
    for end in (tx, *rxs, far, old, new):
        end.close()
    for proxy in proxies:
        proxy.__exit__(None, None, None)


def test_a_server_that_dies_with_messages_on_their_way_to_it(tmp_path: Path) -> None:
    with Server(tmp_path / "redis", *SAFE) as server:
        tx, rx = cwasi.open_channel("lab", f"{server.url}?patience=3")
        tx.send(b"came")
        assert rx.recv(HANG) == b"came"
        server.kill()
        for _ in range(20):
            tx.send(b"never comes")
        tx.switch("ring", HANG)
        told = sends_until_told(tx)
        assert "left by a switch" in told and "redis at" in told
        with pytest.raises(cwasi.PeerDied):
            rx.recv(HANG)
        tx.close()
        rx.close()
        server.start()


# ---- two nodes ----

END = """
import json, socket, sys, threading, time
import cwasi_fastpath as cwasi
from cwasi_fastpath import transport
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.transport.tcp import TcpLink
control = socket.socket(fileno=int(sys.argv[1]))
role, address, patience, mine = int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), []

def say(*words):
    control.sendall(json.dumps(words).encode())

def link():
    "By the test; over TCP by the receiver, who tells where it listens."
    data, fds, _, _ = socket.recv_fds(control, 1 << 16, 8)
    if json.loads(data) == "listen":
        mine.append(TcpLink.create(address, patience=patience))
        control.sendall(json.dumps(mine[-1].export(SENDER)[0]).encode())
    else:
        mine.append(transport.join(json.loads(data), fds))
    return mine[-1].open(role)

def message(number):
    return number.to_bytes(4, "little") * (1 + number * 7 % 3000)
"""

SENDING = (
    END
    + """
tx, number, goes_on, ends = cwasi.Sender(link(), "lab"), 0, threading.Event(), threading.Event()

def switch():
    say("ready")
    try:
        tx.leave_for(link(), Mode.REMOTE, None)
        say("left")
    except cwasi.TcpUnavailable as error:
        say("stayed", str(error))
    control.recv(100)   # the test has seen enough
    ends.set()

threading.Thread(target=switch, daemon=True).start()
try:
    while not ends.is_set():
        tx.send(message(number))
        number += 1
        time.sleep(0.001)
    tx.send(b"end")
    tx.close()
    for one in mine:
        one.close()
    say("sent", number, tx.metrics().messages)
except cwasi.PeerDied as error:
    say("died", number, tx.unread, str(error))
"""
)

RECEIVING = (
    END
    + """
rx, number = cwasi.Receiver(link(), "lab"), 0

def attach():
    say("ready")
    rx.attach(link(), 1, Mode.REMOTE)
    say("attached")

threading.Thread(target=attach, daemon=True).start()
try:
    while (data := rx.recv()) != b"end":
        assert data == message(number), number
        number += 1
    say("received", number, rx.epoch)
    rx.close()
except cwasi.PeerDied as error:
    say("died", number, rx.epoch, str(error))
"""
)

WAYS = [("ring", "tcp"), ("pipe", "tcp"), ("tcp", "tcp"), ("tcp", "ring")]
PATIENCE = 4.0


class Pair:
    """A sender and a receiver, one on each node, and a word with each of them."""

    def __init__(self, near: Namespace, far: Namespace) -> None:
        self.controls: dict[int, socket.socket] = {}
        self._processes: list[subprocess.Popen[str]] = []
        self._cable = far.cable
        for node, program, role in ((near, SENDING, SENDER), (far, RECEIVING, RECEIVER)):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(HANG)
            self.controls[role] = ours
            with theirs:
                words = (str(theirs.fileno()), str(role), node.address, str(PATIENCE))
                self._processes.append(node.start(program, *words, pass_fds=(theirs.fileno(),)))

    def give(self, kind: str, then: str) -> None:
        """Both get their end of a new link: the receiver, who then says so, before the sender."""
        link = None if kind == "tcp" else transport.create(Transport(kind))
        self._send(RECEIVER, link)
        description = self.controls[RECEIVER].recv(1 << 16) if link is None else b""
        assert self.told(RECEIVER) == [then]
        if link is None:
            self.controls[SENDER].sendall(description)
        else:
            self._send(SENDER, link)
            link.close()

    def _send(self, role: int, link: Link | None) -> None:
        description, fds = link.export(role) if link is not None else ("listen", [])
        socket.send_fds(self.controls[role], [json.dumps(description).encode()], fds)

    def told(self, role: int) -> list[Any]:
        found: list[Any] = json.loads(self.controls[role].recv(1 << 16))
        return found

    def began(self, kind: str) -> None:
        self.give(kind, "ready")
        assert self.told(SENDER) == ["ready"]

    def pull(self) -> None:
        self._cable("down")

    def put_back(self) -> None:
        self._cable("up")

    def all_arrived(self, epoch: int) -> None:
        """Each once, in order, as the receiver checks."""
        self.controls[SENDER].sendall(b"enough")
        said, sent, messages = self.told(SENDER)
        assert said == "sent" and messages == sent + 1
        assert self.told(RECEIVER) == ["received", sent, epoch]

    def close(self) -> None:
        for control in self.controls.values():
            control.close()
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def pair(wired: tuple[Namespace, Namespace]) -> Iterator[Pair]:
    made = Pair(*wired)
    yield made
    made.close()


@unable
@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_a_cable_that_is_pulled_in_a_switch_and_put_back(pair: Pair, way: tuple[str, str], seconds: float) -> None:
    """To tcp just behind the switch, from tcp before it: what is on its way then goes on by itself."""
    old, new = way
    pair.began(old)
    if new != "tcp":
        pair.pull()
    pair.give(new, "attached")
    assert pair.told(SENDER) == ["left"]
    if new == "tcp":
        pair.pull()
    time.sleep(seconds)
    pair.put_back()
    pair.all_arrived(epoch=1)


@unable
@pytest.mark.parametrize("old", ["ring", "pipe"])
def test_a_cable_that_is_out_before_the_switch(pair: Pair, old: str) -> None:
    """The sender does not come to the new transport; it stays, and says so."""
    pair.began(old)
    pair.pull()
    pair.give("tcp", "attached")
    said, why = pair.told(SENDER)
    assert said == "stayed" and "cannot connect to" in why
    pair.all_arrived(epoch=0)


@unable
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_cable_that_stays_out(pair: Pair, way: tuple[str, str]) -> None:
    """Both are told; what the sender counts as received was."""
    old, new = way
    pair.began(old)
    if new != "tcp":
        pair.pull()
    pair.give(new, "attached")
    assert pair.told(SENDER) == ["left"]
    if new == "tcp":
        pair.pull()
    said, sent, unread, why = pair.told(SENDER)
    assert said == "died" and unread and f"{unread} messages were not received" in why
    said, received, _, _ = pair.told(RECEIVER)
    assert said == "died" and sent - unread <= received <= sent
