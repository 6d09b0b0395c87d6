"""A channel whose ends are in two processes changes its transport under load, and when either of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import redis
from channels import HANG, Fork, Start, eventually, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import meeting
from cwasi_fastpath._native import lib
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.redis_server import RedisServer

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]
SWITCHES = 20


pytestmark = pytest.mark.usefixtures("swept_directory")


def message(number: int) -> bytes:
    return number.to_bytes(8, "little") * (1 + (5000 if number % 499 == 0 else number % 40))


def receive_all(trust: str = "default") -> None:
    """Ends well if all came, once and in order."""
    number = 0
    with cwasi.open_receiver("lab", timeout=HANG, trust=trust) as rx:
        while data := rx.recv(HANG):
            assert data == message(number)
            number += 1


def send_on(tx: cwasi.Sender, done: threading.Event, pause: float) -> int:
    number = 0
    while not done.is_set():
        tx.send(message(number), HANG)
        number += 1
        if pause and number % 100 == 0:
            time.sleep(pause)
    tx.send(b"", HANG)
    return number


@pytest.mark.parametrize(
    "transports", [["ring"], ["pipe", "ring"], ["tcp", "ring"], ["pipe", "tcp", "redis"]], ids="-".join
)
def test_under_load(fork: Fork, start: Start, redis_server: RedisServer, transports: list[str]) -> None:
    remote = "redis" in transports
    targets = [redis_server.url if name == "redis" else name for name in transports]
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        done = threading.Event()
        sending = start(send_on, tx, done, 0.02 if remote else 0)
        try:
            eventually(lambda: tx.messages)   # else all switches may be over before the first one
            for number in range(6 if remote else SWITCHES):
                tx.switch(targets[number % len(targets)], timeout=HANG)
        finally:
            done.set()
        assert sending.result(HANG) > 0   # type: ignore[operator]
        assert tx.epoch == (6 if remote else SWITCHES)
        assert status_of(pid) == 0
        assert tx.mode == (cwasi.Mode.REMOTE if remote else cwasi.Mode.PROXIMAL)


def test_a_slow_receiver_keeps_what_it_has_not_read(fork: Fork) -> None:
    out, go_on = os.pipe()

    def receive() -> None:
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            os.read(out, 1)
            assert [rx.recv(HANG) for _ in range(3)] == [b"old", b"new", b"newest"]

    pid = fork(receive)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        tx.send(b"old")
        tx.switch("pipe")
        tx.send(b"new")
        told = ""
        while "has not read to the last switch yet" not in told:   # on a busy machine it may be late to say so
            with pytest.raises(cwasi.Timeout) as caught:
                tx.switch("ring", timeout=0.05)
            told = str(caught.value)
        os.write(go_on, b"x")
        tx.switch("ring", timeout=HANG)
        tx.send(b"newest")
        assert status_of(pid) == 0
    os.close(out)
    os.close(go_on)


def test_what_the_trust_domains_forbid(fork: Fork) -> None:
    pid = fork(lambda: receive_all("lab"))
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        with pytest.raises(cwasi.NoTransport, match="ring: the functions are in different trust domains"):
            tx.switch("ring")
        tx.switch("tcp")
        tx.send(message(0))
        tx.send(b"")
        assert status_of(pid) == 0


def test_a_sender_that_offers_what_our_facts_forbid(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = fork(lambda: receive_all("lab"))
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        monkeypatch.setattr("cwasi_fastpath.switch_named.ruled_out", lambda request, transport: None)
        with pytest.raises(cwasi.NoTransport, match="the sender offers ring: the functions are in different trust"):
            tx.switch("ring")
        tx.send(b"")
        assert status_of(pid) == 0


@pytest.mark.parametrize("body", [{}, {"epoch": 0}, {"epoch": 1}, {"epoch": "x"}, {"epoch": 1 << 40}, {"epoch": 7}])
def test_nonsense_is_refused(fork: Fork, body: dict[str, object]) -> None:
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        named = meeting.named_end("lab", SENDER)
        assert named is not None and named.meeting is not None
        for kind in ("switch", "withdraw"):
            if (kind, body.get("epoch")) != ("withdraw", 1) and (kind, body.get("epoch")) != ("withdraw", 7):
                with pytest.raises(cwasi.Error):
                    named.meeting.connection.request(kind, body, channel="lab", timeout=HANG)   # type: ignore[attr-defined]
        tx.switch("pipe")
        tx.send(message(0))
        tx.send(b"")
        assert status_of(pid) == 0


TCP = {
    "role": 2, "reader": 0, "host": "127.0.0.1", "port": 9, "key": "00" * 32, "others": [], "window": 1 << 20,
    "patience": 1.0, "tls": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "transport, link, count",
    [
        ("ring", {"role": 2, "reader": 0}, 3),
        ("pipe", {"role": 2, "reader": 0}, 4),
        ("redis", {"url": "unix:///nowhere", "key": "x", "readers": 1}, 1),
        ("tcp", TCP, 2),
        ("tcp", {**TCP, "key": "00"}, 1),
        ("tcp", {**TCP, "key": "no hex"}, 1),
        ("tcp", {**TCP, "patience": "long"}, 1),
        ("tcp", {**TCP, "role": 1}, 1),
        ("tcp", {**TCP, "others": [[9]]}, 1),
    ],
)
def test_links_that_nobody_exports_leave_nothing(
    fork: Fork, transport: str, link: dict[str, object], count: int
) -> None:
    import psutil

    pid = fork(receive_all)
    listener = socket.create_server(("127.0.0.1", 0))
    with cwasi.open_sender("lab", timeout=HANG) as tx, listener:
        named = meeting.named_end("lab", SENDER)
        assert named is not None and named.meeting is not None
        tx.switch("pipe", timeout=HANG)
        decision = {"transport": transport, "reason": "", "alternatives": []}
        body = {"epoch": 2, "link": {"transport": transport, **link}, "decision": decision}
        tx.send(message(0))

        def offer() -> None:
            while True:
                try:
                    named.meeting.connection.request(   # type: ignore[union-attr]
                        "switch", body, [listener.fileno()] * count, channel="lab", timeout=HANG
                    )
                except cwasi.Busy:
                    time.sleep(0.01)   # it has not followed yet

        with pytest.raises(cwasi.Corrupted, match="as an honest one does"):
            offer()
        there = psutil.Process(pid)
        before = there.num_fds(), there.num_threads()
        for _ in range(20):
            with pytest.raises(cwasi.Corrupted, match="as an honest one does"):
                offer()
        until = time.monotonic() + HANG
        while there.num_fds() > before[0] + 1 or there.num_threads() > before[1] + 1:   # it answers, then it clears up
            assert time.monotonic() < until
            time.sleep(0.01)
        tx.switch("ring", timeout=HANG)
        tx.send(message(1))
        tx.send(b"")
        assert status_of(pid) == 0


def test_a_stranger_cannot_switch_our_receiver(fork: Fork) -> None:
    from cwasi_fastpath import registry

    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        holder = registry.holder("lab", RECEIVER)
        assert holder is not None
        tx.switch("pipe", timeout=HANG)   # then it is there
        with pytest.raises(cwasi.Busy, match="has another sender"):
            registry.ask(holder.address, "switch", {"epoch": 2}, channel="lab", timeout=HANG)
        tx.send(b"")
        assert status_of(pid) == 0


@pytest.mark.parametrize("transports", [["pipe", "ring"], ["tcp", "ring"]], ids="-".join)
def test_a_receiver_that_is_killed_in_mid_switch(fork: Fork, start: Start, transports: list[str]) -> None:
    for attempt in range(4):
        pid = fork(receive_all)
        tx = cwasi.open_sender("lab", timeout=HANG)
        sending = start(send_on, tx, threading.Event(), 0)
        killer = threading.Timer(0.02 + 0.01 * attempt, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises((cwasi.PeerDied, cwasi.Timeout)):
            for number in range(100_000):
                tx.switch(transports[number % 2], timeout=HANG)
        with pytest.raises(cwasi.PeerDied):
            sending.result(HANG)
        killer.join()
        assert status_of(pid) == -signal.SIGKILL
        tx.close()


def test_a_sender_that_is_killed_in_mid_switch(fork: Fork) -> None:
    """What came is whole and in order, and then it is told."""

    def send() -> None:
        with cwasi.open_sender("lab", timeout=HANG) as tx:
            threading.Thread(target=send_on, args=(tx, threading.Event(), 0), daemon=True).start()
            for number in range(100_000):
                tx.switch(["pipe", "ring", "tcp"][number % 3], timeout=HANG)

    for attempt in range(4):
        pid = fork(send)
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            assert rx.recv(HANG) == message(0)   # it has begun
            killer = threading.Timer(0.05 + 0.02 * attempt, os.kill, (pid, signal.SIGKILL))
            killer.start()
            number = 1
            with pytest.raises(cwasi.PeerDied):
                while True:
                    assert rx.recv(HANG) == message(number)
                    number += 1
            killer.join()
            assert status_of(pid) == -signal.SIGKILL


def test_many_switches_leave_nothing(fork: Fork) -> None:
    import psutil

    def receive() -> None:
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            for _ in rx:
                pass

    def held() -> tuple[int, int, int]:
        process = psutil.Process()
        return process.num_fds(), process.num_threads(), len(process.memory_maps(grouped=False))

    pid = fork(receive)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        other = psutil.Process(pid)
        for round_ in range(2):
            for number in range(60):
                tx.switch(["pipe", "ring"][number % 2], timeout=HANG)
                tx.send(b"x")
            if round_ == 0:
                before, before_there = held(), other.num_fds()
        most = before[0] + 2, before[1] + 2, before[2] + 8
        # Either side may be late to free what the last switch has left.
        eventually(lambda: all(now <= bound for now, bound in zip(held(), most, strict=True)))
        eventually(lambda: other.num_fds() <= before_there + 4)
    assert status_of(pid) == 0


@pytest.mark.parametrize("transport", ["pipe", "ring", "tcp"])
def test_what_was_withdrawn_at_once_is_in_nobodys_way(fork: Fork, transport: str) -> None:
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        for number in range(50):
            tx.send(message(number))
            with suppress(cwasi.Timeout):
                tx.switch(transport, timeout=0)
        before = tx.epoch
        tx.switch("pipe", timeout=HANG)
        assert tx.epoch == before + 1
        tx.send(message(50))
        tx.send(b"")
        assert status_of(pid) == 0


def no_room(tx: cwasi.Sender, pointer: object, mode: cwasi.Mode, timeout: float | None) -> None:
    """In place of leave_for, which owns the end that it is given."""
    lib.cwasi_channel_free(pointer)
    raise cwasi.Timeout("no room")


def test_a_withdrawal_that_is_lost_is_in_nobodys_way(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        tx.switch("pipe", timeout=HANG)
        with monkeypatch.context() as patched:
            patched.setattr("cwasi_fastpath.connection.Connection.mention", lambda *words, **more: None)
            patched.setattr(cwasi.Sender, "leave_for", no_room)
            with pytest.raises(cwasi.Timeout, match="no room"):
                tx.switch("ring", timeout=HANG)
        tx.send(message(0))
        tx.switch("tcp", timeout=HANG)
        tx.send(message(1))
        tx.send(b"")
        assert status_of(pid) == 0


def test_a_stopped_receiver_that_is_asked_often_is_not_given_up(fork: Fork) -> None:
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        tx.switch("pipe", timeout=HANG)
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(400):
                with pytest.raises(cwasi.Timeout):
                    tx.switch("ring", timeout=0)
        finally:
            os.kill(pid, signal.SIGCONT)
        tx.send(message(0), HANG)
        tx.switch("ring", timeout=HANG)
        tx.send(message(1), HANG)
        tx.send(b"", HANG)
        assert status_of(pid) == 0


class Interrupt(Exception):
    """What a signal raises."""


def test_a_signal_just_after_the_switch(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver may not be told that it was called off: the sender has gone there."""
    leave_for = cwasi.Sender.leave_for

    def interrupted(*words: object) -> None:
        leave_for(*words)   # type: ignore[arg-type]
        raise Interrupt

    def receive() -> None:
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            time.sleep(0.3)
            assert [rx.recv(HANG) for _ in range(2)] == [b"old", b"new"]

    pid = fork(receive)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        tx.send(b"old")
        with monkeypatch.context() as patched:
            patched.setattr(cwasi.Sender, "leave_for", interrupted)
            with pytest.raises(Interrupt):
                tx.switch("pipe", timeout=HANG)
        assert tx.epoch == 1
        tx.send(b"new")
        assert status_of(pid) == 0


def in_server(url: str) -> int:
    """How many messages it was given of the channel, read or not: they are numbered."""
    with redis.Redis.from_url(url) as client:
        ids = [client.xinfo_stream(key)["last-generated-id"] for key in client.keys("cwasi:{lab*")]
        return max(int(last.partition(b"-")[2]) for last in ids)


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("way", ["to redis", "from redis"])
def test_what_a_killed_sender_has_left_in_the_server_comes(
    fork: Fork, redis_server: RedisServer, way: str, follows: bool
) -> None:
    count, url = 300, f"{redis_server.url}"

    def send(stored: int) -> None:
        with cwasi.open_sender("lab", timeout=HANG) as tx:
            tx.switch(url, timeout=HANG)
            for number in range(count):
                tx.send(number.to_bytes(4, "little") * 10_000, HANG)
            while in_server(url) < count:
                time.sleep(0.01)
            if way == "from redis":
                tx.switch("ring", timeout=HANG)
                tx.send(b"last", HANG)
                while in_server(url) == count:   # where it goes on is told by way of the server
                    time.sleep(0.01)
            os.write(stored, b"x")
            time.sleep(HANG)

    read, write = os.pipe()
    pid = fork(lambda: send(write))
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        first = [rx.recv(HANG)] if follows or way == "from redis" else []
        os.read(read, 1)
        os.kill(pid, signal.SIGKILL)
        named = meeting.named_end("lab", RECEIVER)
        while named is not None and named.state != meeting.PEER_GONE:
            time.sleep(0.01)
        came = first + [rx.recv(HANG) for _ in range(count - len(first))]
        assert came == [number.to_bytes(4, "little") * 10_000 for number in range(count)]
        if way == "from redis":
            assert rx.recv(HANG) == b"last"
        with pytest.raises(cwasi.PeerDied):
            rx.recv(HANG)
    assert status_of(pid) == -signal.SIGKILL
    os.close(read)
    os.close(write)


def test_who_closes_waits_for_what_went_by_the_next_transport(
    fork: Fork, start: Start, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the thread that switched has had no time yet to say so."""
    from cwasi_fastpath.transport.redis import RedisLink

    closed: list[object] = []
    close, leave_for = RedisLink.close, cwasi.Sender.leave_for
    gone, go_on = threading.Event(), threading.Event()

    def closing(link: RedisLink) -> None:
        close(link)
        closed.append(link._pumps or link._opened)

    def slow(*words: object) -> None:
        leave_for(*words)   # type: ignore[arg-type]
        gone.set()
        go_on.wait(HANG)

    pid = fork(receive_all)
    tx = cwasi.open_sender("lab", timeout=HANG)
    monkeypatch.setattr(cwasi.Sender, "leave_for", slow)
    monkeypatch.setattr(RedisLink, "close", closing)
    switching = start(tx.switch, redis_server.url, HANG)
    assert gone.wait(HANG)
    tx.send(message(0))
    tx.send(b"")
    closed.clear()
    tx.close()
    assert {(SENDER, 0)} in closed
    go_on.set()
    switching.result(HANG)
    assert status_of(pid) == 0


def test_a_forked_copy_is_told_that_it_cannot_switch(fork: Fork) -> None:
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:

        def copy() -> None:
            with pytest.raises(cwasi.BadSpec, match="a forked copy"):
                tx.switch("pipe")

        assert status_of(fork(copy)) == 0
        with pytest.raises(ValueError):
            tx.switch("pipe", timeout=-1)
        tx.send(message(0))
        tx.send(b"")
        assert status_of(pid) == 0


def switch(channel: str, target: str) -> subprocess.CompletedProcess[str]:
    argv = [*CWASI, "switch", channel, "--to", target]
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANG)


def test_by_command(fork: Fork) -> None:
    pid = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        tx.send(message(0))
        done = switch("lab", "pipe")
        assert done.returncode == 0, done.stderr
        assert "lab goes by pipe (proximal) now" in done.stdout
        tx.send(message(1))
        done = switch("lab", "nowhere")
        assert done.returncode == 2 and "transport 'nowhere' is unknown" in done.stderr
        done = switch("none", "pipe")
        assert done.returncode == 69
        assert "no process that can be found holds the sender of channel 'none'" in done.stderr
        tx.send(b"")
        assert status_of(pid) == 0


@pytest.mark.parametrize(
    "answer", [{"transport": "\x1b[31mring", "mode": "local"}, {"transport": "ring", "mode": "far"}]
)
def test_a_process_that_answers_nonsense(monkeypatch: pytest.MonkeyPatch, answer: dict[str, str]) -> None:
    from cwasi_fastpath import switch_asked

    monkeypatch.setattr(switch_asked, "switchers", lambda channel: ["0" * 16])
    monkeypatch.setattr(switch_asked.registry, "ask", lambda *words, **more: answer)
    with pytest.raises(cwasi.PeerDied, match="answered nonsense"):
        switch_asked.ask("lab", "ring", 1.0)


def test_why_the_peer_is_gone(start: Start) -> None:
    """A named end says what its transport knows, also after a switch."""
    with RedisServer() as server:
        opening = start(cwasi.open_sender, "lab", timeout=HANG, transport="redis", redis=f"{server.url}?patience=1")
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            tx: cwasi.Sender = opening.result(HANG)   # type: ignore[assignment]
            tx.send(b"by redis")
            assert rx.recv(HANG) == b"by redis"
            for target in ("ring", f"{server.url}?patience=1"):
                tx.switch(target, timeout=HANG)
                tx.send(b"on")
                assert rx.recv(HANG) == b"on"
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(cwasi.PeerDied, match="redis at "):
                rx.recv(HANG)
            tx.finish(failed=True)
            tx.close()


@pytest.mark.parametrize("how", ["named", "threads"])
def test_a_server_that_does_not_answer(start: Start, how: str) -> None:
    """The time-out holds, the channel goes on as before, and what waits for the server goes when it answers."""
    with RedisServer() as server:
        if how == "named":
            opening = start(cwasi.open_sender, "lab", timeout=HANG)
            rx = cwasi.open_receiver("lab", timeout=HANG)
            tx: cwasi.Sender = opening.result(HANG)   # type: ignore[assignment]
        else:
            tx, rx = cwasi.open_channel("lab")
        with tx, rx:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(cwasi.Timeout):
                    tx.switch(server.url, timeout=0.3)
                tx.send(b"on")
                assert rx.recv(HANG) == b"on"
            finally:
                os.kill(server.pid, signal.SIGCONT)
            tx.switch(server.url, timeout=HANG)
            tx.send(b"by redis")
            assert rx.recv(HANG) == b"by redis" and tx.epoch == 1
        until = time.monotonic() + HANG
        while any(thread.name.startswith(("redis ", "cwasi switch")) for thread in threading.enumerate()):
            assert time.monotonic() < until, threading.enumerate()
            time.sleep(0.01)


@pytest.mark.parametrize("abandons", [True, False])
def test_a_parent_whose_child_sends_does_not_switch_it(fork: Fork, abandons: bool) -> None:
    """It says so where it has given its own copy up; else it notices, and the child goes on."""
    receiving = fork(receive_all)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        ours, theirs = socket.socketpair()

        def child() -> None:
            ours.close()
            for number in range(10):
                tx.send(message(number))
            theirs.send(b"sent")
            assert theirs.recv(5) == b"go on"
            for number in range(10, 20):
                tx.send(message(number))
            tx.send(b"")

        pid = fork(child)
        theirs.close()
        assert ours.recv(5) == b"sent"
        if abandons:
            tx.abandon()
        done = switch("lab", "pipe")
        assert done.returncode == 74 and ("is closed" if abandons else "corrupted") in done.stderr, done
        ours.send(b"go on")
        assert status_of(pid) == 0
        assert status_of(receiving) == 0
        ours.close()
