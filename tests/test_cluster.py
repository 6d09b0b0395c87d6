"""Names across nodes: leases in a real Redis server, and ends that meet over it. Other runtime directories, and network
namespaces where we may make them, stand for other nodes.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from channels import HANG, Fork, Start, content, control_ended, eventually, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import lease, meeting, runtime
from cwasi_fastpath.cluster import ClusterName
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.lease import Lease, Server
from cwasi_fastpath.placement import here
from cwasi_fastpath.redis_server import RedisServer

TEN = [content(number, number * 1000) for number in range(10)]
ADDRESS = "+0123456789abcdef"


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that deaths are noticed sooner."""
    monkeypatch.setattr(lease, "SECONDS", 2.5)
    monkeypatch.setattr(lease, "_RENEW", 0.4)


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[Server]:
    found = Server(redis_server.url)
    yield found
    eventually(lambda: lease.THREAD not in {thread.name for thread in threading.enumerate()})
    found.close()


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Iterator[Path]:
    yield runtime_directory
    control_ended()


@pytest.fixture
def elsewhere(fork: Fork) -> Iterator[Fork]:
    """Forks a process of another node: it has a runtime directory of its own, and a network namespace if we may."""
    directories: list[str] = []

    def make(body: Callable[[], object]) -> int:
        directories.append(tempfile.mkdtemp(prefix="cwasi-rt-"))

        def child() -> None:
            os.environ[runtime.ENVIRONMENT] = directories[-1]
            if os.geteuid() == 0:
                assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
            body()

        return fork(child)

    yield make
    for path in directories:
        shutil.rmtree(path, ignore_errors=True)   # who is killed soon may still be there


CLONE_NEWNET = 0x40000000
Elsewhere = Fork


def keys(redis_server: RedisServer) -> set[str]:
    """What is in the server, but for farewells and marks, which expire."""
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        found = [key.decode() for key in client.keys("*")]
    return {key for key in found if not key.startswith(("cwasi:registry:bye:", "cwasi:registry:mark:"))}


# ---- leases ----


def test_a_lease_is_held_released_and_taken_again(server: Server) -> None:
    first = Lease.take(server, "lab", {"who": 1})
    assert first is not None and Lease.take(server, "lab", {}) is None
    assert json.loads(server.get("lab") or b"") == {"who": 1, "token": first.token}
    first.release()
    second = Lease.take(server, "lab", {"who": 2})
    assert second is not None
    first.release()
    assert server.get("lab") == second.value, "only who holds it deletes it"
    second.release()
    assert server.get("lab") is None


def test_it_is_renewed_and_expires_with_its_process(server: Server, redis_server: RedisServer) -> None:
    read, write = os.pipe()

    def child() -> None:
        Lease.take(Server(redis_server.url), "lab", {})
        os.write(write, b"x")
        signal.alarm(int(HANG))
        while True:
            signal.pause()

    pid = in_child(child)
    os.read(read, 1)
    time.sleep(lease.SECONDS + 1.5)
    assert Lease.take(server, "lab", {}) is None, "it lives longer than one period"
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    taken = eventually(lambda: Lease.take(server, "lab", {}))
    taken.release()
    os.close(read)
    os.close(write)


def test_a_lease_that_somebody_took_is_lost(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    mine = Lease.take(server, "lab", {})
    assert mine is not None
    server.put("lab", b"another's")
    eventually(lambda: "the lease of lab is lost: another process has taken it" in caplog.text)
    assert mine.lost
    mine.release()
    assert server.get("lab") == b"another's"
    server.delete("lab", b"another's")


def test_a_lease_that_is_only_gone_is_taken_again(server: Server) -> None:
    """The server may have been restarted."""
    mine = Lease.take(server, "lab", {})
    assert mine is not None
    server.delete("lab", mine.value)
    eventually(lambda: server.get("lab") == mine.value)
    assert not mine.lost
    mine.release()


def test_who_releases_it_while_it_is_renewed_has_released_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper may find that it is gone, and does not put it there again."""
    monkeypatch.setattr(lease, "_keep", lambda look: None)
    mine = Lease.take(server, "lab", {})
    assert mine is not None
    releasing, renew = threading.Thread(target=mine.release), server.renew

    def renewed(key: str, value: bytes) -> bool:
        releasing.start()
        releasing.join(0.2)   # it may wait for us
        return renew(key, value)

    monkeypatch.setattr(server, "renew", renewed)
    mine.look()
    releasing.join(HANG)
    assert server.get("lab") is None


def test_a_server_that_dies(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as own:
        server = Server(own.url)
        mine = Lease.take(server, "lab", {})
        assert mine is not None
    with pytest.raises(cwasi.RedisUnavailable, match=r"registry at unix:.* does not answer"):
        server.get("lab")
    eventually(lambda: "does not answer" in caplog.text)
    assert mine.lost
    with pytest.raises(cwasi.RedisUnavailable):
        cwasi.open_sender("lab", registry="unix:///nowhere/redis.sock", timeout=0)
    mine.release()
    server.close()


def test_a_password_is_not_shown() -> None:
    with pytest.raises(cwasi.RedisUnavailable) as caught:
        Server("redis://user:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)


# ---- meeting ----


@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_two_nodes_meet(server: Server, redis_server: RedisServer, elsewhere: Elsewhere, start: Start,
                        first: str) -> None:   # fmt: skip
    def child() -> None:
        if first == "receiver":
            eventually(lambda: Server(redis_server.url).get("cwasi:registry:lab:receiver"))
        with cwasi.open_sender("lab", timeout=HANG, registry=redis_server.url) as tx:
            for message in TEN:
                tx.send(message)

    pid = elsewhere(child)
    if first == "sender":
        eventually(lambda: server.get("cwasi:registry:lab:sender"))
    with cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url) as rx:
        named = meeting.named_end("lab", RECEIVER)
        assert named is not None and named.meeting is not None
        assert (rx.mode, named.meeting.decision.transport) == (cwasi.Mode.REMOTE, cwasi.Transport.REDIS)
        assert "not ring: the peer is on another node" not in named.meeting.decision.reason
        assert list(rx) == TEN
    assert status_of(pid) == 0
    eventually(lambda: not keys(redis_server))


def test_two_processes_of_one_node_meet_here(server: Server, redis_server: RedisServer, start: Start) -> None:
    """Also where both are in the registry."""
    opening = start(cwasi.open_sender, "lab", timeout=HANG, registry=redis_server.url)
    with cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        assert rx.mode == cwasi.Mode.LOCAL
        tx.send(b"here")
        assert rx.recv(timeout=HANG) == b"here"
        assert len(keys(redis_server)) == 2


def test_the_registry_of_the_environment(
    server: Server, redis_server: RedisServer, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CWASI_REGISTRY", redis_server.url)

    def child() -> None:
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            assert list(rx) == TEN

    pid = elsewhere(child)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        for message in TEN:
            tx.send(message)
    assert status_of(pid) == 0


def test_a_name_is_taken_across_nodes(server: Server, redis_server: RedisServer, elsewhere: Elsewhere) -> None:
    pid = elsewhere(lambda: cwasi.open_sender("lab", registry=redis_server.url))
    eventually(lambda: server.get("cwasi:registry:lab:sender"))
    with pytest.raises(cwasi.Busy, match=f"has a sender already: a process of node {here().node[:8]}"):
        cwasi.open_sender("lab", timeout=0, registry=redis_server.url)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)

    def free() -> bool:
        try:
            cwasi.open_sender("lab", timeout=0, registry=redis_server.url)
        except cwasi.Timeout:
            return True
        except cwasi.Busy:
            return False
        raise AssertionError("nobody can have met it")

    eventually(free)
    assert keys(redis_server) == set()


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_process_of_another_node_is_killed(
    server: Server, redis_server: RedisServer, elsewhere: Elsewhere, role: str
) -> None:
    def child() -> None:
        end = getattr(cwasi, f"open_{role}")("lab", timeout=HANG, registry=redis_server.url)
        if role == "sender":
            end.send(b"its last words")
        while True:
            signal.pause()

    pid = elsewhere(child)
    if role == "sender":
        with cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url) as rx:
            assert rx.recv(timeout=HANG) == b"its last words"
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(cwasi.PeerDied):
                rx.recv(timeout=HANG)
    else:
        tx = cwasi.open_sender("lab", timeout=HANG, registry=redis_server.url)
        tx.send(b"x")
        os.kill(pid, signal.SIGKILL)

        def told() -> bool:
            try:
                tx.send(b"x")
            except (cwasi.PeerDied, cwasi.ChannelClosed):
                return True
            return False

        eventually(told)
        tx.close()
    status_of(pid)


def test_who_comes_after_a_death(server: Server, redis_server: RedisServer, elsewhere: Elsewhere) -> None:
    """The names are free when the leases have run out; the sender that waits has not lost its own."""

    def dies() -> None:
        from cwasi_fastpath import search

        def fatal(*unused: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        search.joined = fatal   # type: ignore[assignment]
        cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url)

    def lives() -> None:
        with cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url) as rx:
            assert rx.recv(timeout=HANG) == b"to the second"

    pid = elsewhere(dies)
    opened: list[cwasi.Sender] = []
    opening = threading.Thread(
        target=lambda: opened.append(cwasi.open_sender("lab", registry=redis_server.url)), daemon=True
    )
    opening.start()
    assert status_of(pid) == -signal.SIGKILL
    eventually(lambda: server.get("cwasi:registry:lab:receiver") is None)
    pid = elsewhere(lives)
    opening.join(HANG)
    opened[0].send(b"to the second")
    assert status_of(pid) == 0
    opened[0].close()


def test_a_transport_that_cannot_go_there_is_refused_to_the_receiver(
    server: Server, redis_server: RedisServer, elsewhere: Elsewhere
) -> None:
    def child() -> None:
        with pytest.raises(cwasi.NoTransport, match="ring: the peer is on another node"):
            cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url)

    pid = elsewhere(child)
    ended = os.pidfd_open(pid)
    while not select.select([ended], [], [], 0)[0]:
        with pytest.raises(cwasi.Timeout):
            cwasi.open_sender("lab", timeout=3, transport="ring", registry=redis_server.url)
    os.close(ended)
    assert status_of(pid) == 0


@pytest.mark.parametrize(
    "value",
    [b"garbage", b"[]", b"{}", b"\xff", b"[" * 60_000, b'{"token": "x", "address": "../etc", "placement": {}}',
     b'{"token": "a:b*", "address": "+0123456789abcdef", "placement": {}}', b'{"token": 1}'],
    ids=lambda value: repr(value[:20]),
)   # fmt: skip
def test_what_others_write_into_the_registry_may_be_anything(
    server: Server, redis_server: RedisServer, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS", HANG)   # it shall be there as long as we look
    server.put("cwasi:registry:lab:sender", value)
    with pytest.raises(cwasi.Timeout):
        cwasi.open_receiver("lab", timeout=0.1, registry=redis_server.url)
    with pytest.raises(cwasi.Busy):
        cwasi.open_sender("lab", timeout=0, registry=redis_server.url)
    server.delete("cwasi:registry:lab:sender", value)


@pytest.mark.parametrize("answer", [b"garbage", b"{}", b'{"error": "GuestExit", "message": "\x1b"}', b'{"link": 3}'])
def test_a_sender_on_another_node_that_lies(server: Server, redis_server: RedisServer, start: Start,
                                            answer: bytes) -> None:   # fmt: skip
    liar = ClusterName(server, "lab", SENDER, here(), ADDRESS)
    opening = start(cwasi.open_receiver, "lab", timeout=HANG, registry=redis_server.url)
    peer, listens = eventually(liar.asked)
    assert listens is None
    server.put(f"cwasi:registry:answer:{peer.token}", answer)
    with pytest.raises(cwasi.Error):
        opening.result(HANG)
    liar.bye()


def test_nothing_is_left(server: Server, redis_server: RedisServer, elsewhere: Elsewhere) -> None:
    def cycle() -> None:
        def child() -> None:
            with cwasi.open_sender("lab", timeout=HANG, registry=redis_server.url) as tx:
                tx.send(b"x")

        pid = elsewhere(child)
        with cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url) as rx:
            assert list(rx) == [b"x"]
        assert status_of(pid) == 0
        control_ended()
        eventually(lambda: lease.THREAD not in {thread.name for thread in threading.enumerate()})

    cycle()
    before, threads = psutil.Process().num_fds(), set(threading.enumerate())
    for _ in range(3):
        cycle()
    eventually(lambda: set(threading.enumerate()) <= threads and psutil.Process().num_fds() <= before)
    eventually(lambda: not keys(redis_server))


def test_ps_tells_of_the_far_peer(server: Server, redis_server: RedisServer, elsewhere: Elsewhere) -> None:
    def child() -> None:
        with cwasi.open_sender("lab", timeout=HANG, registry=redis_server.url):
            while True:
                signal.pause()

    pid = elsewhere(child)
    with cwasi.open_receiver("lab", timeout=HANG, registry=redis_server.url):
        line = [sys.executable, "-m", "cwasi_fastpath.cli", "ps", "--json"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=HANG, check=True)
        (row,) = json.loads(done.stdout)["ends"]
        assert (row["transport"], row["mode"]) == ("redis", "remote")
        assert row["peers"] == [f"a process of node {here().node[:8]}"]
        wide = {**os.environ, "COLUMNS": "160"}
        done = subprocess.run(line[:-1], capture_output=True, text=True, timeout=HANG, check=True, env=wide)
        assert "a process of node" in done.stdout
    os.kill(pid, signal.SIGKILL)
    status_of(pid)


class Answers:
    """Of a server, one for each look."""

    def __init__(self, *found: bytes | None) -> None:
        self.found = [*found]

    def get(self, key: str) -> bytes | None:
        if key == "bye":
            return None
        if self.found[0] == b"away":
            raise cwasi.RedisUnavailable("away")
        return self.found[0]


@pytest.mark.parametrize("back", [False, True], ids=["stays away", "comes back"])
def test_a_peer_has_time_to_come_back_to_a_server_that_was_away_and_forgot(
    monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """However long that was away, if only for less than a lease lasts."""
    now, gone = [100.0], list[bool]()
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(lease, "_keep", lambda look: None)
    server = Answers(b"it")
    watch = lease.Watch(server, ["name"], b"it", "bye", gone.append)   # type: ignore[arg-type]
    patience = lease._RENEWALS * lease._RENEW
    for seconds, found in ((0.0, b"it"), (0.4, b"away"), (1.6, b"away"), (2.0, None), (1.6 + patience - 0.01, None)):
        now[0], server.found = 100.0 + seconds, [found]
        assert watch._look() and not gone
    now[0], server.found = 100.0 + 1.6 + patience, [b"it" if back else None]
    assert watch._look() is back and gone == ([] if back else [True])
