"""The TCP transport: what it adds to the contract that tests/conformance holds it to. Breaks, deaths, strangers."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from channels import HANG, Start, content, in_child, status_of
from proxy import Proxy

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.transport import handshake, join
from cwasi_fastpath.transport.accepting import STRANGERS_MAX
from cwasi_fastpath.transport.tcp import TcpLink

COUNT = 3000


def message(number: int) -> bytes:
    return content(number, (20, 700, 9000, 200_000)[number % 7 % 4])


def receives_all(rx: cwasi.Receiver, count: int) -> None:
    for number in range(count):
        assert rx.recv(timeout=HANG) == message(number), number


@pytest.fixture
def link() -> Iterator[TcpLink]:
    link = TcpLink.create()
    yield link
    link.close()


def by_way_of(link: TcpLink, port: int, **changed: Any) -> TcpLink:
    """The sender's end of a link, which it reaches at another port."""
    description, _ = link.export(SENDER)
    return TcpLink.joined({**description, "port": port, **changed}, [])


# ---- breaks ----


def test_resets_lose_and_double_nothing(link: TcpLink, start: Start) -> None:
    with Proxy(link.export(SENDER)[0]["port"]) as proxy:
        far = by_way_of(link, proxy.port)
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        tx = cwasi.Sender(far.open(SENDER), "lab")
        sending = start(lambda: [tx.send(message(number)) for number in range(COUNT)])
        receiving = start(receives_all, rx, COUNT)
        while not receiving.done():
            time.sleep(0.02)
            proxy.cut()
        receiving.result(HANG)
        sending.result(HANG)
        assert proxy.cuts > 3
        tx.close()
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
        rx.close()
        far.close()


def test_what_was_sent_is_sent_again_without_another_send(link: TcpLink) -> None:
    with Proxy(link.export(SENDER)[0]["port"]) as proxy:
        far = by_way_of(link, proxy.port)
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        tx = cwasi.Sender(far.open(SENDER), "lab")
        for number in range(200):
            tx.send(message(number), timeout=HANG)
        proxy.cut()
        receives_all(rx, 200)
        proxy.cut()
        tx.close()
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
        rx.close()
        far.close()


def test_a_way_that_stays_broken_is_given_up(start: Start) -> None:
    link = TcpLink.create(patience=1.0)
    with Proxy(link.export(SENDER)[0]["port"]) as proxy:
        far = by_way_of(link, proxy.port)
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        tx = cwasi.Sender(far.open(SENDER), "lab")
        tx.send(b"came")
        assert rx.recv(timeout=HANG) == b"came"
        waiting = start(rx.recv)
        proxy.refuse()
        with pytest.raises(cwasi.PeerDied):
            waiting.result(HANG)
        with pytest.raises(cwasi.PeerDied):
            while True:
                tx.send(b"never comes")
        assert tx.unread >= tx.messages - 1
        for end in (tx, rx, far, link):
            end.close()


# ---- several receivers ----


def fan(link: TcpLink, readers: int) -> tuple[cwasi.Sender, list[cwasi.Receiver]]:
    rxs = [cwasi.Receiver(link.open(RECEIVER, reader=reader), "lab") for reader in range(readers)]
    return cwasi.Sender(link.open(SENDER), "lab"), rxs


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=str)
def test_a_message_longer_than_the_window_goes_to_all_at_once(start: Start, order: tuple[int, ...]) -> None:
    """One reads it all before another begins."""
    link = TcpLink.create(readers=3, window=1 << 20)
    tx, rxs = fan(link, 3)
    sent = [content(number, 10_000 if number % 2 else 5 << 20) for number in range(6)]
    sending = start(tx.send, sent[0])
    assert all(rxs[reader].recv(timeout=HANG) == sent[0] for reader in order)
    sending.result(HANG)
    sending = start(lambda: [tx.send(message) for message in sent])
    receiving = [start(lambda rx=rx: [rx.recv(timeout=HANG) for _ in sent]) for rx in rxs]
    assert all(received.result(HANG) == sent for received in receiving)
    sending.result(HANG)
    with pytest.raises(cwasi.WouldWait):
        tx.send(sent[0], timeout=0)
    for end in (tx, *rxs, link):
        end.close()


@pytest.mark.parametrize("leaves", [True, False])
def test_inside_a_message_longer_than_the_window(start: Start, leaves: bool) -> None:
    """A receiver leaves, or the sender is stopped."""
    link = TcpLink.create(readers=2, window=1 << 20)
    tx, rxs = fan(link, 2)
    message = content(1, 40 << 20)
    sending = start(tx.send, message)
    assert rxs[1].peek(HANG)[0] == len(message)
    if leaves:
        rxs[1].close()
        assert rxs[0].recv(HANG) == message
        sending.result(HANG)
        tx.send(b"goes on")
        assert rxs[0].recv(HANG) == b"goes on" and tx.metrics().lost_peers == 0
    else:
        tx.stop()
        with pytest.raises(cwasi.Cancelled):
            sending.result(HANG)
        tx.close()
        for rx in rxs:
            with pytest.raises(cwasi.PeerDied):
                rx.recv(HANG)
    for end in (tx, *rxs, link):
        end.close()


def test_each_way_is_cut_for_itself(start: Start) -> None:
    link = TcpLink.create(readers=2)
    description = link.export(SENDER)[0]
    with Proxy(description["port"]) as one, Proxy(description["others"][0][0]) as other:
        others = [[other.port, description["others"][0][1]]]
        far = by_way_of(link, one.port, others=others)
        rxs = [cwasi.Receiver(link.open(RECEIVER, reader=reader), "lab") for reader in range(2)]
        tx = cwasi.Sender(far.open(SENDER), "lab")
        sending = start(lambda: [tx.send(message(number)) for number in range(1000)])
        receiving = [start(receives_all, rx, 1000) for rx in rxs]
        while not all(done.done() for done in receiving):
            time.sleep(0.05)
            one.cut()
            time.sleep(0.05)
            other.cut()
        for done in (*receiving, sending):
            done.result(HANG)
        assert tx.metrics().lost_peers == 0
        one.refuse()
        with pytest.raises(cwasi.PeerDied):
            rxs[0].recv(HANG)
        while tx.metrics().lost_peers == 0:
            tx.send(b"x", timeout=HANG)
            assert rxs[1].recv(HANG) == b"x"
        for end in (tx, *rxs, far, link):
            end.close()


def test_a_receiver_that_died_before_the_sender_came(link: TcpLink) -> None:
    made = TcpLink.create(readers=2)
    far = TcpLink.joined(made.export(SENDER)[0], [])
    rx = cwasi.Receiver(made.open(RECEIVER, reader=1), "lab")
    made.close()   # and with it the door of the first
    tx = cwasi.Sender(far.open(SENDER), "lab")
    while tx.metrics().lost_peers == 0:
        tx.send(b"x", timeout=HANG)
        assert rx.recv(HANG) == b"x"
    for end in (tx, rx, far, made):
        end.close()


def test_several_over_a_fork(start: Start) -> None:
    """No keeper is there; the sender itself sees to all."""
    (tx,), rxs = cwasi.open_ends("lab", receivers=2, transport="tcp")

    def child() -> None:
        for rx in rxs:
            rx.abandon()
        for number in range(200):
            tx.send(message(number))
        tx.send(bytes(70_000_000))
        tx.finish(linger=HANG)

    pid = in_child(child)
    tx.abandon()
    for number in range(200):
        assert all(rx.recv(timeout=HANG) == message(number) for rx in reversed(rxs))
    receiving = [start(rx.recv, HANG) for rx in rxs]
    assert all(received.result(HANG) == bytes(70_000_000) for received in receiving)
    for rx in rxs:
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
        rx.close()
    assert status_of(pid) == 0


# ---- what the sender knows ----


def test_the_sender_learns_what_was_received() -> None:
    tx, rx = cwasi.open_channel("lab", "tcp")
    with tx, rx:
        for number in range(10):
            tx.send(message(number))
        assert tx.unread == 10
        receives_all(rx, 9)
        with pytest.raises(cwasi.Timeout):
            rx.recv_into(bytearray(1 << 20), timeout=0.05)
            rx.recv(timeout=0.05)
        until = time.monotonic() + HANG
        while tx.unread:
            assert time.monotonic() < until
            time.sleep(0.005)


def test_killed_in_mid_stream_no_acknowledged_message_is_lost(link: TcpLink, start: Start, tmp_path: Path) -> None:
    """The receiver writes down what recv has returned, and never less than the sender was told."""
    log = tmp_path / "log"
    for turn in range(5):
        link = TcpLink.create()

        def child(link: TcpLink = link) -> None:
            rx = cwasi.Receiver(link.open(RECEIVER), "lab")
            with log.open("wb", buffering=0) as out:
                for number in range(1 << 20):
                    assert rx.recv() == message(number)
                    out.write(b".")

        pid = in_child(child)
        far = by_way_of(link, link.export(SENDER)[0]["port"])
        link.close()
        tx = cwasi.Sender(far.open(SENDER), "lab")
        sending = start(lambda tx=tx: [tx.send(message(number)) for number in range(1 << 20)])
        while tx.messages - tx.unread < 20 + 100 * turn:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) == -signal.SIGKILL
        with pytest.raises(cwasi.PeerDied):
            sending.result(HANG)
        acknowledged = tx.messages - tx.unread
        assert 20 <= acknowledged <= log.stat().st_size
        tx.close()
        far.close()


SENDS_AND_ENDS = """
import json, sys
import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import SENDER
from cwasi_fastpath.transport import join
tx = cwasi.Sender(join(json.loads(sys.argv[1]), []).open(SENDER), "lab")
for number in range(30):
    tx.send(bytes([number]) * 100_000, timeout=0.1)
tx.close()
"""


def test_a_program_that_ends_has_sent_all(link: TcpLink) -> None:
    rx = cwasi.Receiver(link.open(RECEIVER), "lab")
    program = subprocess.Popen([sys.executable, "-P", "-c", SENDS_AND_ENDS, json.dumps(link.export(SENDER)[0])])
    for number in range(30):
        assert rx.recv(timeout=HANG) == bytes([number]) * 100_000
        time.sleep(0.02)
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    assert program.wait(HANG) == 0
    rx.close()


def test_over_a_fork() -> None:
    """A child has no keepers, but the connection; who is abandoned there hides no death."""
    tx, rx = cwasi.open_channel("lab", "tcp")

    def child() -> None:
        tx.abandon()
        receives_all(rx, 50)
        rx.recv(timeout=HANG)

    pid = in_child(child)
    rx.abandon()
    for number in range(50):
        tx.send(message(number))
    while tx.unread:
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    with pytest.raises(cwasi.PeerDied):
        while True:
            tx.send(b"x")
    tx.close()


def test_a_child_that_sends_the_rest() -> None:
    """More than the kernel holds, in a process that ends then: close() waits, since no keeper goes on."""
    tx, rx = cwasi.open_channel("lab", "tcp")

    def child() -> None:
        rx.abandon()
        for number in range(40):
            tx.send(bytes([number]) * 1_000_000, timeout=0.01)
        tx.finish(linger=HANG)

    pid = in_child(child)
    tx.abandon()
    for number in range(40):
        assert rx.recv(timeout=HANG) == bytes([number]) * 1_000_000
        time.sleep(0.005)
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    assert status_of(pid) == 0
    rx.close()


# ---- strangers ----


def test_strangers_do_not_disturb(link: TcpLink, start: Start) -> None:
    address = (link.export(SENDER)[0]["host"], link.export(SENDER)[0]["port"])
    rx = cwasi.Receiver(link.open(RECEIVER), "lab")
    slow = [socket.create_connection(address) for _ in range(3 * STRANGERS_MAX)]
    for stranger in slow[::2]:
        stranger.send(b"GET / HT")
    tx = cwasi.Sender(link.open(SENDER), "lab")
    sending = start(lambda: [tx.send(message(number)) for number in range(COUNT)])
    for number in range(COUNT):
        if number % 100 == 0:
            with socket.create_connection(address) as stranger:
                stranger.sendall(content(number, 5000))
        assert rx.recv(timeout=HANG) == message(number)
    sending.result(HANG)
    for stranger in slow:
        stranger.close()
    for end in (tx, rx):
        end.close()


def test_who_does_not_know_the_key_is_refused(link: TcpLink) -> None:
    port = link.export(SENDER)[0]["port"]
    rx = cwasi.Receiver(link.open(RECEIVER), "lab")
    thief = by_way_of(link, port, key="00" * handshake.KEY_BYTES)
    tx = cwasi.Sender(thief.open(SENDER), "lab")
    tx.send(b"from a thief")
    with pytest.raises(cwasi.PeerDied):
        while True:
            tx.send(b"more", timeout=HANG)
    with pytest.raises(cwasi.WouldWait):
        rx.recv(timeout=0)
    for end in (tx, rx, thief):
        end.close()


def test_a_receiver_that_does_not_know_the_key_gets_nothing(link: TcpLink) -> None:
    """Who took the port of a receiver that is gone."""
    key = bytes.fromhex(link.export(SENDER)[0]["key"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = by_way_of(link, listener.getsockname()[1])
        tx = cwasi.Sender(far.open(SENDER), "lab")
        tx.send(b"secret")
        connection, _ = listener.accept()
        connection.sendall(handshake.hello())
        answer = connection.recv(handshake.ANSWER_BYTES, socket.MSG_WAITALL)
        assert b"secret" not in answer and key not in answer
        connection.sendall(bytes(handshake.PROOF_BYTES))
        assert connection.recv(1) == b""
        connection.close()
    with pytest.raises(cwasi.PeerDied):
        while True:
            tx.send(b"secret", timeout=HANG)
    tx.close()
    far.close()


def test_the_handshake_proves_both_sides() -> None:
    key, other = bytes(32), b"\1" * 32
    hello = handshake.hello()
    answer = handshake.answer(key, hello)
    assert answer is not None and len(answer) == handshake.ANSWER_BYTES
    proof = handshake.proof(key, hello, answer)
    assert proof is not None and proof[1], "both are on this node"
    assert handshake.proven(key, hello, answer, proof[0])
    assert handshake.proof(other, hello, answer) is None
    assert handshake.proof(key, handshake.hello(), answer) is None, "of another connection"
    assert not handshake.proven(other, hello, answer, proof[0])
    assert handshake.answer(key, b"HTTP/1.1 200 OK\r\n") is None
    for position in range(len(answer)):
        changed = bytearray(answer)
        changed[position] ^= 1
        assert handshake.proof(key, hello, bytes(changed)) is None


def mutated(rng: random.Random, frames: int) -> bytes:
    """What a sender writes, and what it answers, some bits changed."""
    plain = bytearray(handshake.hello() + rng.randbytes(handshake.ANSWER_BYTES))
    for number in range(frames):
        length = rng.choice((0, 1, 24, 100, 1 << 20, 1 << 30, 0xFFFFFFFE, 0xFFFFFFFF))
        plain += struct.pack("<QQII", number, 0, length, 0)
    for _ in range(rng.randrange(1, 40)):
        plain[rng.randrange(len(plain))] ^= 1 << rng.randrange(8)
    return bytes(plain)


def knocks(rng: random.Random, address: tuple[str, int], frames: int) -> None:
    """A stranger, who writes as much as it may."""
    with socket.create_connection(address) as stranger, suppress(OSError):
        stranger.sendall(mutated(rng, frames))
        if rng.random() < 0.5:
            stranger.shutdown(socket.SHUT_WR)


def comes_in(rng: random.Random, link: TcpLink, frames: int) -> bool:
    """A sender that knows the key, and then writes what no honest one does; whether it was in time."""
    plain, was_in = link.export(SENDER)[0], False
    key = bytes.fromhex(plain["key"])
    with socket.create_connection((plain["host"], plain["port"])) as connection, suppress(OSError):
        answer = handshake.answer(key, connection.recv(handshake.HELLO_BYTES, socket.MSG_WAITALL))
        if answer is None:
            return False
        connection.sendall(answer)
        was_in = len(connection.recv(handshake.PROOF_BYTES, socket.MSG_WAITALL)) == handshake.PROOF_BYTES
        connection.sendall(mutated(rng, frames)[handshake.HELLO_BYTES + handshake.ANSWER_BYTES :])
    return was_in


def garbage(link: TcpLink, connections: int, frames: int) -> None:
    rng = random.Random(7)
    address = (link.export(SENDER)[0]["host"], link.export(SENDER)[0]["port"])
    rx, tx = cwasi.Receiver(link.open(RECEIVER), "lab"), cwasi.Sender(link.open(SENDER), "lab")
    for number in range(2 * connections):
        if number == connections:   # what is warm by now does not grow
            gc.collect()
            before = psutil.Process().memory_info().rss, psutil.Process().num_fds()
        knocks(rng, address, frames)
        if number % 10 == 0:
            tx.send(message(number))
            assert rx.recv(timeout=HANG) == message(number)
    gc.collect()
    until = time.monotonic() + HANG
    while psutil.Process().num_fds() > before[1] + STRANGERS_MAX:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert psutil.Process().memory_info().rss < before[0] + (8 << 20)
    for end in (tx, rx):
        end.close()


def test_garbage_on_the_port(link: TcpLink) -> None:
    garbage(link, 150, 100)


@pytest.mark.stress
def test_a_million_frames_of_garbage_on_the_port(link: TcpLink) -> None:
    garbage(link, 1000, 500)


def test_garbage_from_who_knows_the_key() -> None:
    """It gets as far as its receiver, which takes what is right, and then gives an error."""
    rng = random.Random(8)
    came = 0
    while came < 30:
        link = TcpLink.create(patience=0.1)   # soon over, and on a slow machine sometimes before it is in
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        came += comes_in(rng, link, 200)
        with pytest.raises((cwasi.Corrupted, cwasi.PeerDied, cwasi.ChannelClosed, cwasi.errors.Moved)):
            while True:
                rx.recv(timeout=HANG)
        rx.close()
        link.close()


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_listener_that_is_shut_keeps_nobody_busy(start: Start, when: str) -> None:
    """Who passed it on holds it too."""
    made = TcpLink.create(patience=1.0)
    listener = socket.socket(fileno=os.dup(made.export(RECEIVER)[1][0]))
    rx = cwasi.Receiver(made.open(RECEIVER), "lab")
    with Proxy(made.export(SENDER)[0]["port"]) as proxy:
        far = by_way_of(made, proxy.port)
        tx = cwasi.Sender(far.open(SENDER), "lab")
        if when == "between":
            tx.send(b"came")
            assert rx.recv(timeout=HANG) == b"came"
        receiving = start(rx.recv)
        listener.shutdown(socket.SHUT_RDWR)
        proxy.refuse()
        with pytest.raises(cwasi.PeerDied):
            receiving.result(HANG)
    listener.close()
    for end in (rx, tx, far, made):
        end.close()


def test_a_listener_that_is_none_is_refused(link: TcpLink) -> None:
    description, _ = link.export(RECEIVER)
    ours, theirs = socket.socketpair()
    bound, (read, write) = socket.socket(), os.pipe()
    bound.bind(("127.0.0.1", 0))
    for descriptor in (ours.fileno(), bound.fileno(), read):
        with pytest.raises(ValueError, match="listens"):
            join(description, [descriptor])
    for held in (ours, theirs, bound):
        held.close()
    for descriptor in (read, write):
        os.close(descriptor)


# ---- what cannot be ----


def test_addresses_that_do_not_work(link: TcpLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(cwasi.TcpUnavailable, match=f"port {port}: Address already in use.*port 0"):
            TcpLink.create("127.0.0.1", port)
    with pytest.raises(cwasi.TcpUnavailable, match="'no such host' does not resolve"):
        TcpLink.create("no such host")
    with pytest.raises(cwasi.TcpUnavailable, match=r"192\.0\.2\.1 port 0: Cannot assign"):
        TcpLink.create("192.0.2.1")
    with pytest.raises(cwasi.BadSpec, match="not all addresses"):
        TcpLink.create("0.0.0.0")
    with pytest.raises(cwasi.BadSpec, match="ports are from 0 to 65535"):
        TcpLink.create("127.0.0.1", 70000)
    with pytest.raises(cwasi.BadSpec, match="window"):
        TcpLink.create(window=1000)
    with pytest.raises(cwasi.BadSpec, match="patience"):
        TcpLink.create(patience=0)
    with socket.socket() as silent:   # it keeps its port from others, and does not listen
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(cwasi.TcpUnavailable, match=f"nobody listens at 127.0.0.1 port {port}"):
            by_way_of(link, port).open(SENDER)
    with pytest.raises(cwasi.Busy):
        join(link.export(SENDER)[0], []).open(RECEIVER)


def test_by_url() -> None:
    tx, rx = cwasi.open_channel("lab", "tcp://localhost:0")
    with tx, rx:
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"
    for url in ("tcp://", "tcp://localhost", "tcp://localhost:0/path", "tcp://localhost:port", "tcp://[::1"):
        with pytest.raises(cwasi.BadSpec, match="tcp://"):
            cwasi.open_channel("lab", url)
