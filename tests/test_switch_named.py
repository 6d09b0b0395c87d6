"""A channel whose ends are in two processes changes its transport under load, and when either of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from channels import HANG, Fork, Start, control_ended, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import meeting, runtime
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.redis_server import RedisServer

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]
SWITCHES = 20


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Iterator[Path]:
    """Nothing is left in it; what was killed leaves what the next one sweeps away."""
    yield runtime_directory
    control_ended()
    runtime.sweep(runtime_directory)
    assert not list(runtime_directory.iterdir())


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
            for number in range(6 if remote else SWITCHES):
                tx.switch(targets[number % len(targets)], timeout=HANG)
        finally:
            done.set()
        assert sending.result(HANG) > 0   # type: ignore[operator]
        assert tx.epoch == (6 if remote else SWITCHES)
        assert status_of(pid) == 0
        assert tx.mode == (cwasi.Mode.REMOTE if remote else cwasi.Mode.PROXIMAL)


def test_a_slow_receiver_keeps_what_it_has_not_read(fork: Fork) -> None:
    def receive() -> None:
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            time.sleep(0.3)
            assert [rx.recv(HANG) for _ in range(3)] == [b"old", b"new", b"newest"]

    pid = fork(receive)
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        tx.send(b"old")
        tx.switch("pipe")
        tx.send(b"new")
        with pytest.raises(cwasi.Timeout, match="has not read to the last switch yet"):
            tx.switch("ring", timeout=0.05)
        tx.switch("ring", timeout=HANG)
        tx.send(b"newest")
        assert status_of(pid) == 0


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
            threading.Timer(0.05 + 0.02 * attempt, os.kill, (pid, signal.SIGKILL)).start()
            number = 0
            with pytest.raises(cwasi.PeerDied):
                while True:
                    assert rx.recv(HANG) == message(number)
                    number += 1
            assert number > 0 and status_of(pid) == -signal.SIGKILL


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
        after = held()
        assert after[0] <= before[0] + 2 and after[1] <= before[1] + 2 and after[2] <= before[2] + 8
        assert other.num_fds() <= before_there + 4
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
