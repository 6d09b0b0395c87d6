"""Mail through a real Redis server: requests and answers between two ends that share nothing else."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis_servers
from channels import HANG, Start, eventually, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import lease, mail
from cwasi_fastpath.cluster import ClusterName, FarPeer, FarTie
from cwasi_fastpath.control import Handler
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.lease import Server
from cwasi_fastpath.placement import here
from cwasi_fastpath.redis_server import RedisServer
from cwasi_fastpath.request import InTurn, Request

ADDRESS = "+0123456789abcdef"


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that deaths are noticed, and threads end, sooner."""
    monkeypatch.setattr(lease, "SECONDS", 2.5)
    monkeypatch.setattr(lease, "_RENEW", 0.2)


class Ends:
    """Two ties, as a sender and a receiver on two nodes have them."""

    def __init__(self, url: str) -> None:
        here_ = here()
        self.names = [ClusterName(Server(url), "lab", role, here_, ADDRESS) for role in (SENDER, RECEIVER)]
        self.handlers: tuple[dict[str, Handler], dict[str, Handler]] = ({}, {})
        peers = [name.peer() for name in self.names]
        self.ties = [FarTie(name, peer) for name, peer in zip(self.names, peers, strict=True) if peer is not None]
        for tie, handlers in zip(self.ties, self.handlers, strict=True):
            tie.serve(handlers)

    def ask(self, kind: str, body: dict[str, Any] | None = None, timeout: float | None = HANG) -> dict[str, Any]:
        return self.ties[0].request(kind, body, channel="lab", timeout=timeout).body

    def box(self, number: int) -> str:
        """The key of that one's mailbox."""
        return f"cwasi:registry:mail:{self.names[number].lease.token}:{self.names[1 - number].lease.token}"

    def close(self) -> None:
        for tie, name in zip(self.ties, self.names, strict=True):
            tie.close()
            name.bye()


@pytest.fixture
def ends(redis_server: RedisServer) -> Iterator[Ends]:
    found = Ends(redis_server.url)
    yield found
    found.close()
    threads_end()


def threads_end() -> None:
    eventually(lambda: not {mail.THREAD, lease.THREAD} & {thread.name for thread in threading.enumerate()})


def echo(request: Request) -> None:
    request.answer(request.body)


def raises(error: Exception) -> Handler:
    def handler(request: Request) -> None:
        raise error

    return handler


def test_requests_go_both_ways(ends: Ends) -> None:
    ends.handlers[1]["echo"] = ends.handlers[0]["echo"] = echo
    assert ends.ask("echo", {"x": [1, None, "ü"]}) == {"x": [1, None, "ü"]}
    assert ends.ties[1].request("echo", {"y": 2}, channel="lab", timeout=HANG).body == {"y": 2}


@pytest.mark.parametrize(
    "error", [cwasi.Busy("no room"), cwasi.Timeout("late"), cwasi.NoTransport("none"), cwasi.Corrupted("lies")]
)
def test_what_a_handler_raises_is_raised_here(ends: Ends, error: cwasi.Error) -> None:
    ends.handlers[1]["fail"] = raises(error)
    ends.handlers[1]["fail later"] = InTurn().handler(lambda request, fds: raises(error)(request))
    for kind in ("fail", "fail later"):
        with pytest.raises(type(error), match=str(error)):
            ends.ask(kind)


def test_a_handler_that_is_wrong_answers_all_the_same(ends: Ends) -> None:
    ends.handlers[1]["fail"] = raises(ZeroDivisionError("of ours"))
    with pytest.raises(cwasi.Error, match="of ours"):
        ends.ask("fail")


def test_what_nobody_serves(ends: Ends) -> None:
    ends.handlers[1]["echo"] = echo
    with pytest.raises(cwasi.NoSuchChannel, match="nobody here answers 'other'"):
        ends.ask("other")
    with pytest.raises(cwasi.NoSuchChannel):
        ends.ties[0].request("echo", {}, channel="another", timeout=HANG)


def test_what_does_not_fit(ends: Ends) -> None:
    ends.handlers[1]["echo"] = echo
    ends.handlers[1]["grow"] = lambda request: request.answer({"x": "x" * mail.MESSAGE_BYTES})
    with pytest.raises(cwasi.BadSpec, match="is too long"):
        ends.ask("echo", {"x": "x" * mail.MESSAGE_BYTES})
    with pytest.raises(cwasi.BadSpec, match="is too long"):
        ends.ask("grow")
    with pytest.raises(cwasi.BadSpec, match="descriptors cannot go to another node"):
        ends.ties[0].request("echo", {}, [0], channel="lab", timeout=HANG)


def test_work_in_turn_and_a_mention_between(ends: Ends, start: Start) -> None:
    """They come in order, and the thread that reads does not wait for the work."""
    heard: list[int] = []
    go_on = threading.Event()

    def work(request: Request, fds: list[int]) -> None:
        go_on.wait(HANG)
        heard.append(request.body["n"])
        request.answer()

    turn = InTurn()
    for kind in ("work", "hint"):
        ends.handlers[1][kind] = turn.handler(work)
    ends.handlers[1]["echo"] = echo
    first = start(ends.ask, "work", {"n": 0})
    eventually(lambda: turn._at_work)
    ends.ties[0].mention("hint", {"n": 1}, channel="lab")
    assert ends.ask("echo", {"n": 9}) == {"n": 9}
    last = start(ends.ask, "work", {"n": 2})
    go_on.set()
    first.result(HANG)
    last.result(HANG)
    assert heard == [0, 1, 2]


def test_a_late_answer_is_nobodys(ends: Ends) -> None:
    kept: list[Request] = []
    ends.handlers[1]["keep"] = kept.append
    ends.handlers[1]["echo"] = echo
    with pytest.raises(cwasi.Timeout, match=r"has not answered 'keep' within 0\.1 s"):
        ends.ask("keep", timeout=0.1)
    eventually(lambda: kept)
    kept[0].answer({"late": 1})
    assert ends.ask("echo", {"x": 1}) == {"x": 1}


def test_who_asks_the_thread_that_reads(ends: Ends) -> None:
    ends.handlers[1]["ask back"] = lambda request: request.answer(
        ends.ties[1].request("echo", {}, channel="lab", timeout=HANG).body
    )
    with pytest.raises(cwasi.BadSpec, match="on the thread that reads the answer"):
        ends.ask("ask back")


def test_a_mailbox_that_nobody_reads(ends: Ends, redis_server: RedisServer) -> None:
    """It is bounded, expires, and who waits for room does so no longer than it said."""
    ends.ties[1].hang_up()
    eventually(lambda: ends.ties[1]._mail._thread is None or not ends.ties[1]._mail._thread.is_alive())
    for _ in range(mail._MOST):
        ends.ties[0].mention("hint", channel="lab")
        with pytest.raises(cwasi.Timeout):
            ends.ask("work", timeout=0)
    with pytest.raises(cwasi.Timeout, match="reads nothing"):
        ends.ask("work", timeout=0.1)
    client = redis_servers.redis.Redis.from_url(redis_server.url)
    assert client.llen(ends.box(1)) <= mail._MOST
    assert 0 < client.pttl(ends.box(1)) <= 1000 * lease.SECONDS
    client.delete(ends.box(1))
    client.close()


GARBAGE: list[Any] = [
    b"", b"garbage", b"\xff\xfe", b"[]", b"null", b"[" * 60_000, b"9" * 10_000, b"x" * (1 << 20),
    {}, {"from": "another", "number": 1, "ask": "echo", "id": 1, "channel": "lab", "body": {}},
    {"from": None}, {"number": "x"}, {"number": 1 << 70, "answer": "x"}, {"answer": [1]}, {"answer": 1, "body": 3},
    {"refused": 1}, {"refused": 1, "error": "GuestExit", "message": "\x1b"}, {"refused": 1, "error": ["x"]},
    {"ask": 3}, {"ask": "echo", "channel": 7}, {"ask": "echo", "id": "x", "channel": "lab"},
    {"ask": "echo", "id": 1, "channel": "lab", "body": []},
]  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE, ids=lambda what: repr(what)[:40])
def test_what_is_in_a_mailbox_may_be_anything(ends: Ends, redis_server: RedisServer, what: Any) -> None:
    ends.handlers[1]["echo"] = echo
    client = redis_servers.redis.Redis.from_url(redis_server.url)
    for end in (0, 1):
        theirs = ends.names[1 - end].lease.token
        ends.ties[1 - end]._mail._last_sent = 1   # what comes next is behind it
        data = what if isinstance(what, bytes) else json.dumps({"from": theirs, "number": 1, **what}).encode()
        client.rpush(ends.box(end), data)
    eventually(lambda: not client.exists(ends.box(0), ends.box(1)))
    if not (isinstance(what, dict) and what.get("number") == 1 << 70):   # by that all later ones are old
        assert ends.ask("echo", {"x": 1}) == {"x": 1}
    client.close()


def test_a_mailbox_that_is_none(ends: Ends, redis_server: RedisServer) -> None:
    """Something else is under its key: an error with the remedy, and no thread that is busy with it."""
    ends.handlers[1]["echo"] = echo
    client = redis_servers.redis.Redis.from_url(redis_server.url)
    client.set(ends.box(1), "a string")
    with pytest.raises(cwasi.RedisUnavailable, match=r"refuses: WRONGTYPE.*delete what others have put under"):
        ends.ask("echo", {"x": 1})
    client.delete(ends.box(1))
    assert ends.ask("echo", {"x": 1}) == {"x": 1}
    client.close()


def test_an_old_message_counts_no_more(ends: Ends, redis_server: RedisServer) -> None:
    """The network may keep one back, and its sender has given it up; or it comes twice."""
    heard: list[int] = []
    ends.handlers[1]["hint"] = lambda request: heard.append(request.body["n"])
    ends.handlers[1]["echo"] = echo
    client = redis_servers.redis.Redis.from_url(redis_server.url)
    mine = {"from": ends.names[0].lease.token, "ask": "hint", "channel": "lab"}
    for number in (7, 7, 3, 8):
        client.rpush(ends.box(1), json.dumps({**mine, "number": number, "body": {"n": number}}))
    eventually(lambda: len(heard) == 2)
    assert heard == [7, 8]
    client.close()


def test_a_server_that_dies_and_comes_back(tmp_path: Path, start: Start) -> None:
    with redis_servers.Server(tmp_path / "server") as server:
        ends = Ends(server.url)
        kept: list[Request] = []
        ends.handlers[1]["keep"] = kept.append
        ends.handlers[1]["echo"] = echo
        asking = start(ends.ask, "keep")
        eventually(lambda: kept)
        server.kill()
        with pytest.raises(cwasi.RedisUnavailable, match=r"does not answer: .*start redis-server"):
            asking.result(HANG)
        with pytest.raises(cwasi.RedisUnavailable, match=r"does not answer: .*start redis-server"):
            ends.ask("echo", {"x": 1})
        kept[0].answer({"too": "late"})
        ends.ties[0].mention("hint", channel="lab")
        server.start()
        assert ends.ask("echo", {"x": 1}) == {"x": 1}
        server.kill()
        ends.close()
    threads_end()


def test_a_server_that_hangs(tmp_path: Path) -> None:
    with redis_servers.Server(tmp_path / "server") as server:
        ends = Ends(server.url)
        ends.handlers[1]["echo"] = echo
        assert ends.ask("echo", {"x": 1}) == {"x": 1}
        server.signal(signal.SIGSTOP)
        with pytest.raises(cwasi.RedisUnavailable, match="does not answer"):
            ends.ask("echo", {"x": 1}, timeout=0.1)
        server.signal(signal.SIGCONT)
        ends.close()
    threads_end()


def test_who_waits_when_the_peer_is_gone(redis_server: RedisServer, start: Start) -> None:
    """Died or left: PeerDied, also for who asks later."""
    read, write = os.pipe()

    def child() -> None:
        name = ClusterName(Server(redis_server.url), "lab", RECEIVER, here(), ADDRESS)
        os.write(write, b"x")
        signal.alarm(int(HANG))
        while name:
            signal.pause()

    name = ClusterName(Server(redis_server.url), "lab", SENDER, here(), ADDRESS)
    pid = in_child(child)
    os.read(read, 1)
    peer = eventually(name.peer)
    assert isinstance(peer, FarPeer)
    tie = FarTie(name, peer)
    gone: list[bool] = []
    tie.when_gone(gone.append)
    tie.serve({})
    asking = start(tie.request, "x", {}, channel="lab", timeout=None)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(cwasi.PeerDied, match=r"a process of node .* is gone"):
        asking.result(HANG)
    with pytest.raises(cwasi.PeerDied, match="is gone"):
        tie.request("x", {}, channel="lab", timeout=None)
    eventually(lambda: gone)
    assert gone == [True]
    status_of(pid)
    os.close(read)
    os.close(write)
    tie.close()
    name.bye()
    threads_end()


def test_a_mailbox_is_not_left_by_who_wakes_a_thread_that_has_gone(ends: Ends, redis_server: RedisServer) -> None:
    mail_ = ends.ties[0]._mail
    reads = mail_._thread
    assert reads is not None
    mail_.end("as if it had just seen that")
    reads.join(HANG)
    ends.ties[0].close()
    with redis_servers.redis.Redis.from_url(redis_server.url) as client:
        assert not client.exists(ends.box(0))


def test_a_forked_copy(ends: Ends) -> None:
    ends.handlers[1]["echo"] = echo

    def copy() -> None:
        with pytest.raises(cwasi.PeerDied):
            ends.ask("echo")
        ends.close()

    assert status_of(in_child(copy)) == 0
    assert ends.ask("echo", {"x": 1}) == {"x": 1}


def test_nothing_is_left(redis_server: RedisServer) -> None:
    client = redis_servers.redis.Redis.from_url(redis_server.url)
    client.ping()

    def cycle() -> None:
        ends = Ends(redis_server.url)
        ends.handlers[1]["echo"] = echo
        ends.ask("echo")
        ends.close()
        threads_end()

    cycle()
    before = psutil.Process().num_fds(), threading.active_count()
    for _ in range(5):
        cycle()
    assert (psutil.Process().num_fds(), threading.active_count()) == before
    eventually(lambda: not client.keys("cwasi:registry:mail:*"))
    client.close()
