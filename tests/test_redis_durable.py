"""Durable channels over Redis: they outlive their ends and their server, each message once and in order."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from channels import eventually
from redis_servers import HANG, SAFE, Server

import cwasi_fastpath as cwasi
from cwasi_fastpath.transport.redis_send import BACKLOG

KEY = "cwasi:{lab}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that keeps what it was given."""
    with Server(tmp_path_factory.mktemp("redis"), *SAFE) as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to be killed."""
    with Server(tmp_path / "redis", *SAFE) as server:
        yield server


def number(i: int) -> bytes:
    """A message that says which one it is; some are long."""
    return b"%08d" % i + bytes(i * 7919 % 3000 if i % 50 else 100_000)


def check_number(message: bytes, i: int) -> None:
    assert message == number(i), f"{message[:8]!r} in place of {i}"


def pending(client: redis.Redis) -> int:
    return sum(int(group["pending"]) for group in client.xinfo_groups(KEY))


# ---- ends that come and go ----


def test_the_ends_meet_by_name_and_need_not_be_there_at_once(url: str, server: Server) -> None:
    with cwasi.durable_sender("lab", url) as tx:
        for i in range(100):
            tx.send(number(i))
    with cwasi.durable_receiver("lab", url) as rx:
        for i in range(100):
            check_number(rx.recv(timeout=HANG), i)
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
    with server.client() as client:
        assert client.keys() == [], "it was read to its end"


def test_a_receiver_goes_on_where_the_one_before_stopped(url: str) -> None:
    """Also within what was already fetched from the server."""
    with cwasi.durable_sender("lab", url) as tx:
        for i in range(300):
            tx.send(number(i))
        done = 0
        for count in (1, 100, 7, 92, 100):
            with cwasi.durable_receiver("lab", url) as rx:
                for i in range(done, done + count):
                    check_number(rx.recv(timeout=HANG), i)
            done += count
    with cwasi.durable_receiver("lab", url) as rx, pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)


def test_acknowledged_is_what_recv_has_returned(url: str, server: Server) -> None:
    with server.client() as client, cwasi.durable_sender("lab", url) as tx, cwasi.durable_receiver("lab", url) as rx:
        for _ in range(10):
            tx.send(b"x")
        eventually(lambda: pending(client) == 10)
        time.sleep(0.3)
        assert pending(client) == 10, "they are in the receiver's ring, and nobody has taken them"
        for _ in range(4):
            rx.recv(timeout=HANG)
        eventually(lambda: pending(client) == 6)
        assert client.xlen(KEY) == 6, "trimmed below the oldest pending one, and no further"


def test_many_are_acknowledged_at_once(url: str, server: Server) -> None:
    count = 20_000
    with server.client() as client, cwasi.durable_sender("lab", url) as tx, cwasi.durable_receiver("lab", url) as rx:
        for _ in range(count):
            tx.send(b"")
        eventually(lambda: pending(client) == count)
        for _ in range(count):
            rx.recv(timeout=HANG)
        eventually(lambda: pending(client) == 0)


def test_a_sender_goes_on_behind_the_one_before(url: str) -> None:
    """A failure ends a durable channel as little as a death does."""
    counter = itertools.count()
    for _ in range(3):
        with pytest.raises(RuntimeError), cwasi.durable_sender("lab", url) as tx:
            for _ in range(20):
                tx.send(number(next(counter)))
            raise RuntimeError
    with cwasi.durable_sender("lab", url) as tx:
        tx.send(number(next(counter)))
    with cwasi.durable_receiver("lab", url) as rx:
        for i in range(61):
            check_number(rx.recv(timeout=HANG), i)
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)


def test_a_channel_that_was_ended_can_be_used_again(url: str) -> None:
    """Before the end was read, and after."""
    for _ in range(2):
        for i in range(3):
            with cwasi.durable_sender("lab", url) as tx:
                tx.send(number(i))
        for i in range(3):
            with cwasi.durable_receiver("lab", url) as rx:
                check_number(rx.recv(timeout=HANG), i)
                with pytest.raises(cwasi.ChannelClosed):
                    rx.recv(timeout=HANG)


def test_a_sender_that_was_replaced_is_refused(url: str) -> None:
    old = cwasi.durable_sender("lab", url)
    old.send(b"old")
    with cwasi.durable_receiver("lab", url) as rx:
        assert rx.recv(timeout=HANG) == b"old"
        new = cwasi.durable_sender("lab", url)
        with pytest.raises(cwasi.PeerDied, match="another sender has taken over"):
            for _ in range(10_000):
                old.send(b"too late")
                time.sleep(0.001)
        new.send(b"new")
        assert rx.recv(timeout=HANG) == b"new"
        with pytest.raises(cwasi.PeerDied, match=r"only the first 1 messages .* another sender"):
            old.close()
        new.close()


def test_a_receiver_that_was_replaced_gets_nothing_any_more(url: str, server: Server) -> None:
    """What it had fetched and not returned, its successor gets; its acknowledgements no longer count."""
    with server.client() as client, cwasi.durable_sender("lab", url) as tx:
        for i in range(10):
            tx.send(number(i))
        old = cwasi.durable_receiver("lab", url)
        check_number(old.recv(timeout=HANG), 0)
        eventually(lambda: pending(client) == 9)
        new = cwasi.durable_receiver("lab", url)
        for i in range(1, 10):
            check_number(new.recv(timeout=HANG), i)
        with pytest.raises(cwasi.PeerDied, match="another receiver has taken over"):
            for _ in range(10):
                old.recv(timeout=HANG)   # what was in its ring, and then the error
        tx.send(number(10))
        check_number(new.recv(timeout=HANG), 10)
        old.close()
        new.close()


def test_back_pressure_counts_what_a_predecessor_left(url: str, server: Server) -> None:
    size = 4_000_000
    fits = BACKLOG // size
    with pytest.raises(RuntimeError), cwasi.durable_sender("lab", url) as tx:
        for _ in range(fits - 2):
            tx.send(bytes(size))
        raise RuntimeError
    tx = cwasi.durable_sender("lab", url)
    with ThreadPoolExecutor(1) as pool, server.client() as client:
        sending = pool.submit(lambda: [tx.send(bytes(size)) for _ in range(fits)])
        time.sleep(0.5)
        assert not sending.done()
        assert int(client.memory_usage(KEY, samples=0) or 0) < BACKLOG + 2 * size
        with cwasi.durable_receiver("lab", url) as rx:
            for _ in range(2 * fits - 2):
                assert len(rx.recv(timeout=HANG)) == size
        sending.result(HANG)
    tx.close()


def test_several_receivers_each_at_their_own_pace(url: str, server: Server) -> None:
    """One comes and goes, one comes late: each gets every message once, and nothing is trimmed before all have it."""
    with server.client() as client, cwasi.durable_sender("lab", url, readers=2) as tx:
        for i in range(100):
            tx.send(number(i))
        for first in (0, 50):
            with cwasi.durable_receiver("lab", url, 0, 2) as rx:
                for i in range(first, first + 50):
                    check_number(rx.recv(timeout=HANG), i)
        assert client.xlen(KEY) == 101, "the other one has not seen any"
        with cwasi.durable_receiver("lab", url, 1, 2) as rx:
            for i in range(100):
                check_number(rx.recv(timeout=HANG), i)
        eventually(lambda: client.xlen(KEY) == 0)
        with cwasi.durable_receiver("lab", url, 2, 3) as rx:
            tx.send(b"from now on")
            assert rx.recv(timeout=HANG) == b"from now on"
    for reader in range(3):
        assert client.keys() == [KEY.encode()]
        with cwasi.durable_receiver("lab", url, reader, 3) as rx:
            assert [*rx] == [b"from now on"] * (reader < 2)
    assert client.keys() == [], "all have read it to its end"


@pytest.mark.parametrize("reader, readers", [(-1, 1), (1, 1), (0, 0), (0, 61)])
def test_receivers_that_cannot_be(reader: int, readers: int) -> None:
    with pytest.raises(cwasi.BadSpec, match="receiver"):
        cwasi.durable_receiver("lab", "unix:///nowhere", reader, readers)


# ---- processes that are killed ----

RECEIVE = """
import os, sys
import cwasi_fastpath as cwasi
with cwasi.durable_receiver("lab", sys.argv[1]) as rx:
    for message in rx:
        os.write(1, message[:8] + b"\\n")
os.write(1, b"end\\n")
"""

SEND = """
import os, sys
import cwasi_fastpath as cwasi
tx = cwasi.durable_sender("lab", sys.argv[1])
for i in range(int(sys.argv[2]), 1 << 30):
    tx.send(b"%08d" % i)
    os.write(1, b"%08d\\n" % i)
"""


def program(text: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE)


def test_a_receiver_that_is_killed_at_rest(url: str, server: Server) -> None:
    """Its successor goes on exactly there."""
    with server.client() as client, cwasi.durable_sender("lab", url) as tx:
        for first in (0, 50, 100):
            with program(RECEIVE, url) as process:
                assert process.stdout is not None
                for i in range(first, first + 50):
                    tx.send(b"%08d" % i)
                for i in range(first, first + 50):
                    assert process.stdout.readline() == b"%08d\n" % i
                eventually(lambda: pending(client) == 0)
                process.kill()
                assert process.stdout.read() == b""
    with cwasi.durable_receiver("lab", url) as rx, pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)


def kill_receivers(url: str, kills: int) -> None:
    """Under load: nothing is missing, and what comes twice was not acknowledged."""
    count = 0
    with ThreadPoolExecutor(1) as pool, cwasi.durable_sender("lab", url) as tx:
        stop = False

        def send() -> int:
            for i in itertools.count():
                if stop:
                    return i
                if i % 10 == 0:
                    time.sleep(0.001)
                tx.send(b"%08d" % i)
            raise AssertionError

        sending = pool.submit(send)
        for kill in range(kills):
            with program(RECEIVE, url) as process:
                assert process.stdout is not None
                line = process.stdout.readline()
                time.sleep(0.05 * (kill % 7))
                process.kill()
                lines = [line, *process.stdout.read().splitlines()]
            numbers = [int(line) for line in lines if len(line.strip()) == 8]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            # One may have been received by who was killed before it could print it.
            assert numbers[0] <= count + 1, "some are missing"
            count = numbers[-1] + 1
        stop = True
        sent = sending.result(HANG)
        with cwasi.durable_receiver("lab", url) as rx:
            first = int(rx.recv(timeout=HANG)) if sent else 0
            assert first <= count + 1
            for i in range(first + 1, sent):
                assert int(rx.recv(timeout=HANG)) == i


def test_receivers_that_are_killed_under_load(url: str) -> None:
    kill_receivers(url, 3)


@pytest.mark.stress
def test_many_receivers_that_are_killed_under_load(url: str) -> None:
    kill_receivers(url, 50)


def kill_senders(url: str, kills: int) -> None:
    """Nothing is doubled, nothing is missing between what arrived; what was not stored, the next sender knows."""
    expected = 0
    with redis.Redis.from_url(url) as client, cwasi.durable_receiver("lab", url) as rx:
        for kill in itertools.count():
            if kill >= kills and expected > 0:   # it may take a slow machine longer to store any
                break
            with program(SEND, url, str(expected)) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(0.05 * (kill % 7))
                process.kill()
                process.stdout.read()
            while True:
                try:
                    assert int(rx.recv(timeout=0.5)) == expected
                except cwasi.Timeout:
                    if client.xlen(KEY) == 0:
                        break
                    continue
                expected += 1


def test_senders_that_are_killed_under_load(url: str) -> None:
    kill_senders(url, 3)


@pytest.mark.stress
def test_many_senders_that_are_killed_under_load(url: str) -> None:
    kill_senders(url, 50)


# ---- the server is killed and comes back ----


def through_restarts(server: Server, restarts: int, messages: int) -> None:
    with cwasi.durable_sender("lab", server.url) as tx, cwasi.durable_receiver("lab", server.url) as rx:

        def send() -> None:
            for i in range(messages):
                tx.send(number(i))
            tx.finish()

        def receive() -> None:
            for i in range(messages):
                check_number(rx.recv(timeout=HANG), i)
            with pytest.raises(cwasi.ChannelClosed):
                rx.recv(timeout=HANG)

        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(send), pool.submit(receive)]
            for _ in range(restarts):
                time.sleep(0.1)
                server.kill()
                time.sleep(0.1)
                server.start()
            for end in ends:
                end.result(2 * HANG)


def test_a_server_that_is_killed_and_comes_back(own: Server) -> None:
    """What was sent arrives once and in order: also what was under way when the server died."""
    through_restarts(own, 4, 8_000)
    with own.client() as client:
        eventually(lambda: client.keys() == [])


@pytest.mark.stress
def test_a_server_that_is_killed_often(own: Server) -> None:
    through_restarts(own, 60, 200_000)


def test_the_server_is_killed_while_nothing_moves(own: Server) -> None:
    with cwasi.durable_sender("lab", own.url) as tx, cwasi.durable_receiver("lab", own.url) as rx:
        for i in range(5):
            tx.send(number(i))
            check_number(rx.recv(timeout=HANG), i)
            own.restart()


def test_a_server_that_does_not_come_back(own: Server) -> None:
    url = f"{own.url}?patience=0.5"
    tx, rx = cwasi.durable_sender("lab", url), cwasi.durable_receiver("lab", url)
    own.kill()
    tx.send(b"x")
    with pytest.raises(cwasi.PeerDied, match=r"after 0.5 s of patience: does not answer"):
        rx.recv(timeout=HANG)
    with pytest.raises(cwasi.PeerDied, match=r"only the first 0 messages .*: .*0.5 s of patience"):
        tx.close()
    rx.close()


def test_a_server_that_is_stopped_for_a_while(own: Server) -> None:
    """The line is there, and nobody answers."""
    url = f"{own.url}?socket_timeout=0.5"
    with cwasi.durable_sender("lab", url) as tx, cwasi.durable_receiver("lab", url) as rx:
        own.signal(signal.SIGSTOP)
        for i in range(10):
            tx.send(number(i))
        time.sleep(1.0)
        own.signal(signal.SIGCONT)
        for i in range(10):
            check_number(rx.recv(timeout=HANG), i)


# ---- servers that promise less ----

WEAKER = {
    "nothing": (("--appendonly", "no"), "appendonly no"),
    "everysec": (("--appendonly", "yes", "--appendfsync", "everysec"), "the last two seconds .*appendfsync everysec"),
    "no": (("--appendonly", "yes", "--appendfsync", "no"), "not written yet .*appendfsync no"),
    "rewrite": ((*SAFE, "--no-appendfsync-on-rewrite", "yes"), "no-appendfsync-on-rewrite yes"),
    "evicts": ((*SAFE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "maxmemory-policy allkeys-lru"),
    "silent": ((*SAFE, "--rename-command", "CONFIG", ""), "CONFIG GET is refused"),
}


@pytest.mark.parametrize("weakness", WEAKER)
def test_weaker_promises_are_told(weakness: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options, text = WEAKER[weakness]
    with Server(tmp_path / "redis", *options) as server, cwasi.durable_receiver("lab", server.url):
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert re.search(text, record.getMessage())


def test_the_whole_promise_needs_no_warning(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with cwasi.durable_receiver("lab", url):
        assert not caplog.records


@pytest.mark.parametrize("moment", ["unread", "idle", "busy"])
def test_a_server_that_keeps_nothing(moment: str, tmp_path: Path) -> None:
    """What it has lost is an error at both ends, never silence."""
    lost = "the server has lost what was sent: .*appendonly no"
    with Server(tmp_path / "redis") as server, ThreadPoolExecutor(2) as pool:
        tx, rx = cwasi.durable_sender("lab", server.url), cwasi.durable_receiver("lab", server.url)
        tx.send(b"one")
        if moment != "unread":
            assert rx.recv(timeout=HANG) == b"one"
        if moment == "busy":
            sending = pool.submit(lambda: [tx.send(bytes(1000)) for _ in range(1 << 30)])
            receiving = pool.submit(lambda: [rx.recv() for _ in range(1 << 30)])
            time.sleep(0.2)
        server.restart()
        if moment == "busy":
            with pytest.raises(cwasi.PeerDied, match=lost):
                sending.result(HANG)
            with pytest.raises(cwasi.PeerDied, match=lost):
                receiving.result(HANG)
        else:
            with pytest.raises(cwasi.PeerDied, match=lost):
                for _ in range(2):
                    rx.recv(timeout=HANG)
            with pytest.raises(cwasi.PeerDied, match=lost):
                for _ in range(1 << 30):
                    tx.send(b"two")
        with pytest.raises(cwasi.PeerDied, match=lost):
            tx.close()
        rx.close()


def test_a_server_that_has_lost_the_last_second(tmp_path: Path) -> None:
    """Its log is cut, as where the machine failed before it was written."""
    with Server(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "everysec") as server:
        tx, rx = cwasi.durable_sender("lab", server.url), cwasi.durable_receiver("lab", server.url)
        for i in range(100):
            tx.send(number(i))
            check_number(rx.recv(timeout=HANG), i)
        time.sleep(0.3)
        server.kill()
        (log,) = (tmp_path / "redis/appendonlydir").glob("*.incr.aof")
        os.truncate(log, log.stat().st_size // 2)
        server.start()
        with pytest.raises(cwasi.PeerDied, match=r"has lost what was sent: .*appendfsync always"):
            for _ in range(1 << 30):
                tx.send(b"x")
        with pytest.raises(cwasi.PeerDied, match="the server has lost them"):
            rx.recv(timeout=HANG)
        with pytest.raises(cwasi.PeerDied):
            tx.close()
        rx.close()


def test_acknowledgements_that_the_server_has_forgotten(tmp_path: Path) -> None:
    """The same where only they are lost: what was received does not come again."""
    with Server(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "everysec") as server:
        tx, rx = cwasi.durable_sender("lab", server.url), cwasi.durable_receiver("lab", server.url)
        for i in range(100):
            tx.send(number(i))
        with server.client() as client:
            eventually(lambda: client.xlen(KEY) >= 100 and pending(client) == 100)
            eventually(lambda: client.info("persistence")["aof_buffer_length"] == 0)   # all of it is in the log
            (log,) = (tmp_path / "redis/appendonlydir").glob("*.incr.aof")
            written = log.stat().st_size
            for i in range(100):
                check_number(rx.recv(timeout=HANG), i)
            eventually(lambda: pending(client) == 0)
        server.kill()
        os.truncate(log, written)
        server.start()
        tx.send(number(100))
        check_number(rx.recv(timeout=HANG), 100)
        with server.client() as client:
            eventually(lambda: pending(client) == 0)
        tx.close()
        rx.close()
