"""The Redis transport against a real server: what a server adds to the contract, which tests/conformance tests."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis
from channels import HANG, eventually

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.redis_server import RedisServer
from cwasi_fastpath.transport import redis_send
from cwasi_fastpath.transport.redis import RedisLink
from cwasi_fastpath.transport.redis_send import BACKLOG

Ends = tuple[cwasi.Sender, cwasi.Receiver]


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def ends(redis_server: RedisServer, client: redis.Redis) -> Iterator[Ends]:
    tx, rx = cwasi.open_channel("lab", redis_server.url)
    yield tx, rx
    for end in (rx, tx):
        end.stop()
        end.close()


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


# ---- through the server ----


def test_more_than_the_backlog_goes_through(ends: Ends, client: redis.Redis) -> None:
    """The sender waits for the receiver; the server never holds much more than it may."""
    tx, rx = ends
    size, count = 5_000_000, 2 * BACKLOG // 5_000_000
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: [tx.send(content(i, size)) for i in range(count)])
        time.sleep(0.5)
        assert not sending.done()
        (key,) = client.keys()
        assert client.memory_usage(key, samples=0) < BACKLOG + size   # besides, answers may be on their way
        for i in range(count):
            assert rx.recv(timeout=HANG) == content(i, size)
        sending.result(HANG)


def test_empty_messages_are_bounded_too(
    redis_server: RedisServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_send, "BACKLOG", 1 << 16)
    tx, rx = cwasi.open_channel("lab", redis_server.url)
    for _ in range(5000):
        tx.send(b"")
    (key,) = client.keys()
    time.sleep(0.5)
    assert client.xlen(key) <= 1 << 10
    for _ in range(5000):
        assert rx.recv(timeout=HANG) == b""
    tx.close()
    rx.close()


def test_a_receiver_that_is_gone_ends_a_wait_for_room(ends: Ends) -> None:
    tx, rx = ends
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: [tx.send(bytes(5_000_000)) for _ in range(1000)])
        eventually(lambda: tx.metrics().bytes > BACKLOG)
        time.sleep(0.1)
        rx.close()
        with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
            sending.result(HANG)


def test_a_receiver_that_is_gone_before_a_long_message(ends: Ends) -> None:
    """With one before it in its ring, which it has not taken."""
    tx, rx = ends
    tx.send(b"x")
    time.sleep(0.3)
    rx.close()
    with pytest.raises((cwasi.ChannelClosed, cwasi.PeerDied)):
        for _ in range(1000):
            tx.send(bytes(5_000_000))


def test_the_time_from_send_to_receipt_goes_through_the_server(ends: Ends) -> None:
    tx, rx = ends
    tx.sample(1)
    tx.send(b"x")
    time.sleep(0.2)
    rx.recv(timeout=HANG)
    latency = rx.metrics().latency
    assert sum(latency) == 1
    assert sum(latency[: 27 * 16]) == 0, "less than the 2^27 ns that it lay there"


def test_ends_know_their_mode(ends: Ends) -> None:
    assert {end.mode for end in ends} == {Mode.REMOTE}


# ---- several processes ----


def test_the_rest_of_a_dead_sender_arrives(redis_server: RedisServer, client: redis.Redis) -> None:
    link = RedisLink(redis_server.url, "orphan")
    rx = cwasi.Receiver(link.open(RECEIVER), "lab")
    client.xadd("cwasi:{orphan}", {"begin": 1}, id="1-0")   # what a killed sender has left
    for i in range(1, 4):
        client.xadd("cwasi:{orphan}", {"data": b"%d" % i, "stamp": 0}, id=f"1-{i}")
    link.peer_died(rx)
    assert [rx.recv(timeout=HANG) for _ in range(3)] == [b"1", b"2", b"3"]
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    rx.close()
    link.close()
    assert client.keys() == []


# ---- the server ----


def test_a_message_that_the_server_does_not_take(
    redis_server: RedisServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("proto-max-bulk-len", 2 << 20)
    tx, rx = cwasi.open_channel("lab", redis_server.url)
    tx.send(b"before")
    tx.send(bytes(3 << 20))
    assert rx.recv(timeout=HANG) == b"before"
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    until = time.monotonic() + HANG
    with pytest.raises(cwasi.PeerDied):
        while time.monotonic() < until:
            tx.send(b"after", timeout=HANG)
    tx.close()
    rx.close()
    client.config_set("proto-max-bulk-len", 2 << 30)
    assert "3,145,728 bytes" in caplog.text and "proto-max-bulk-len (2,097,152)" in caplog.text
    assert client.keys() == []


@pytest.mark.skipif(psutil.virtual_memory().available < 8 << 30, reason="the copies need some 4 GiB of memory")
def test_our_own_server_takes_what_others_refuse(ends: Ends) -> None:
    """Over 512 MiB, which is as much as Redis takes by default."""
    tx, rx = ends
    message = bytes(8) * (65 << 20) + b"the end"
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(tx.send, message)
        received = rx.recv(timeout=4 * HANG)   # a tenth of that, on a machine that has nothing else to do
        sending.result(HANG)
    assert len(received) == len(message) and received.endswith(b"\0the end")


@pytest.mark.parametrize("moment", ["idle", "busy", "full"])
def test_a_server_that_is_killed(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server, ThreadPoolExecutor(2) as pool:
        tx, rx = cwasi.open_channel("lab", f"{server.url}?patience=1")
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"
        if moment != "idle":
            sending = pool.submit(lambda: [tx.send(bytes(100_000)) for _ in range(1 << 20)])
        if moment == "busy":
            receiving = pool.submit(lambda: [rx.recv() for _ in range(1 << 20)])
        else:
            receiving = pool.submit(rx.recv) if moment == "idle" else pool.submit(time.sleep, 0)
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGKILL)
        if moment == "idle":
            sending = pool.submit(lambda: [tx.send(bytes(100_000)) for _ in range(1 << 20)])
        with pytest.raises(cwasi.PeerDied):
            sending.result(HANG)
        with pytest.raises(cwasi.PeerDied):
            receiving.result(HANG)
            for _ in range(1 << 20):
                rx.recv(timeout=HANG)
        tx.close()
        rx.close()
    assert "channel cwasi:{lab:" in caplog.text


@pytest.mark.parametrize(
    "url", ["unix:///nowhere/redis.sock", "redis://127.0.0.1:1/0", "redis://user:hunter2@127.0.0.1:1/0", "unix://"]
)
def test_no_server(url: str) -> None:
    with pytest.raises(cwasi.RedisUnavailable, match="redis-server") as caught:
        cwasi.open_channel("lab", url)
    message = str(caught.value)
    assert url.partition("@")[2] in message or url in message
    assert "hunter2" not in message
    assert "does not answer" in message and "apt install redis-server" in message


def test_somebody_else_listens_there(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(cwasi.RedisUnavailable, match="does not answer"):
            cwasi.open_channel("lab", f"unix://{path}")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(HANG)
