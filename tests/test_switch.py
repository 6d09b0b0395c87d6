"""A channel changes its transport under load: every message once, whole and in order, on both sides of each switch."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from channels import HANG, Start

import cwasi_fastpath as cwasi
from cwasi_fastpath.redis_server import RedisServer

SWITCHES = 40
CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]


def message(number: int, seed: int = 0) -> bytes:
    """Mostly small, now and then longer than a ring's piece."""
    size = 40_000 if number % 997 == 0 else number % 300
    return (number + seed).to_bytes(8, "little") * (1 + size // 8)


@contextmanager
def closing(*ends: cwasi.Sender | cwasi.Receiver) -> Iterator[None]:
    try:
        yield
    finally:
        for end in ends:
            end.stop()
            end.close()


def switch_often(tx: cwasi.Sender, targets: list[str], times: int) -> None:
    """From one of them to the next, however long a busy sender and a slow receiver make it take."""
    for number in range(times):
        while True:
            try:
                tx.switch(targets[number % len(targets)], timeout=0.2)
                break
            except cwasi.Timeout:
                continue


Make = Callable[[int, int], bytes]


def send_until(
    tx: cwasi.Sender, done: threading.Event, seed: int = 0, pause: float = 0, make: Make = message
) -> int:
    """Numbered messages, then an empty one; how many. pause: seconds after every hundred."""
    number = 0
    while not done.is_set():
        tx.send(make(number, seed))
        number += 1
        if pause and number % 100 == 0:
            time.sleep(pause)
    tx.send(b"")
    return number


@pytest.mark.parametrize(
    "transports", [["ring"], ["pipe"], ["tcp"], ["redis"], ["pipe", "tcp", "ring", "redis"]], ids="-".join
)
def test_under_load(start: Start, transports: list[str], redis_server: RedisServer) -> None:
    """A server is given fewer: what waits in it when a switch begins has to be received first."""
    remote = "redis" in transports
    times, pause = (8, 0.02) if remote else (SWITCHES, 0)
    transports = [redis_server.url if name == "redis" else name for name in transports]
    tx, rx = cwasi.open_channel("lab", transports[-1])
    with closing(tx, rx):
        done = threading.Event()
        sending = start(send_until, tx, done, 0, pause)
        switches = start(switch_often, tx, transports, times)
        switches.add_done_callback(lambda _: done.set())
        received = 0
        while data := rx.recv(HANG):
            assert data == message(received)
            received += 1
        switches.result(HANG)
        assert sending.result(HANG) == received > 0
        assert tx.epoch == rx.epoch == times
        assert tx.metrics().messages == rx.metrics().messages == received + 1
        tx.close()
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(HANG)


def test_messages_on_both_sides_of_a_switch_wait_for_the_receiver() -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        tx.send(b"before")
        tx.switch("ring")
        tx.send(b"after")
        assert (tx.epoch, rx.epoch, tx.unread) == (1, 0, 2)
        assert (rx.recv(0), rx.recv(0)) == (b"before", b"after")
        assert (tx.epoch, rx.epoch, tx.unread) == (1, 1, 0)


def test_a_receiver_that_does_not_read_delays_the_next_switch() -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        tx.switch("ring")
        tx.send(b"one")
        with pytest.raises(cwasi.Timeout, match="has not read to the last switch yet"):
            tx.switch("ring", timeout=0.05)
        assert rx.recv(0) == b"one"
        tx.switch("ring", timeout=0)
        tx.send(b"two")
        assert rx.recv(0) == b"two"


def test_a_full_ring_gives_the_switch_up() -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        sent = 0
        while tx.try_send(bytes(100)):
            sent += 1
        while tx.try_send(b""):
            sent += 1
        with pytest.raises(cwasi.Timeout):
            tx.switch("ring", timeout=0.05)
        assert tx.epoch == 0
        for _ in range(sent):
            rx.recv(0)
        tx.switch("ring", timeout=0)
        tx.send(b"on")
        assert rx.recv(0) == b"on"


def test_a_sender_that_waits_for_room_is_not_interrupted(start: Start) -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        sending = start(tx.send, bytes(10 << 20))
        assert rx.peek(HANG)[0] == 10 << 20, "it is inside"
        with pytest.raises(cwasi.Timeout):
            tx.switch("ring", timeout=0.05)
        assert len(rx.recv(HANG)) == 10 << 20
        sending.result(HANG)
        tx.switch("ring")


def test_who_sends_without_waiting_is_told_that_it_would_have_to(start: Start) -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        while tx.try_send(b""):
            pass
        switching = start(tx.switch, "ring", 0.5)
        until = time.monotonic() + HANG
        while not switching.done() and time.monotonic() < until:
            assert not tx.try_send(b"")
        with pytest.raises(cwasi.Timeout):
            switching.result(HANG)


@pytest.mark.parametrize(("senders", "receivers"), [(1, 3), (3, 1), (2, 2)])
@pytest.mark.parametrize(
    ("targets", "times"), [(["pipe", "ring"], SWITCHES), (["tcp", "ring"], 30), (["pipe", "tcp"], 30)], ids=str
)
def test_several(start: Start, senders: int, receivers: int, targets: list[str], times: int) -> None:
    """The first sender goes to and fro; the others are not disturbed."""
    txs, rxs = cwasi.open_ends("lab", senders, receivers)
    with closing(*txs, *rxs):
        done = threading.Event()
        # Several of both are limited to what a pipe takes as a whole.
        make = message if senders == 1 or receivers == 1 else lambda number, seed: message(number, seed)[:800]
        sending = [start(send_until, tx, done, at << 40, 0, make) for at, tx in enumerate(txs)]

        def receive(rx: cwasi.Receiver) -> list[int]:
            nexts = [0] * senders
            ended = 0
            while ended < senders:
                if not (data := rx.recv(HANG)):
                    ended += 1
                    continue
                number = int.from_bytes(data[:8], "little")
                at, number = number >> 40, number & (1 << 40) - 1
                assert number == nexts[at] and data == make(number, at << 40)
                nexts[at] += 1
            return nexts

        receiving = [start(receive, rx) for rx in rxs]
        switches = start(switch_often, txs[0], targets, times)
        switches.add_done_callback(lambda _: done.set())
        sent = [task.result(HANG) for task in sending]
        assert [task.result(HANG) for task in receiving] == [sent] * receivers
        switches.result(HANG)
        assert [rx.epoch_of(0) for rx in rxs] == [times] * receivers


def test_a_task_that_waits_follows() -> None:
    async def main() -> None:
        tx, rx = cwasi.open_channel("lab")
        with closing(tx, rx):
            waiting = asyncio.create_task(rx.arecv(HANG))
            await asyncio.sleep(0.02)
            await asyncio.to_thread(tx.switch, "ring")
            until = time.monotonic() + HANG
            while rx.epoch != 1:
                assert time.monotonic() < until, "it does not follow"
                await asyncio.sleep(0.01)
            assert not waiting.done()
            tx.send(b"new")
            assert await waiting == b"new"

    asyncio.run(main())


def test_who_waits_for_several_follows(start: Start) -> None:
    (tx, rx), (other, quiet) = cwasi.open_channel("lab"), cwasi.open_channel("quiet")
    with closing(tx, rx, other, quiet):
        waiting = start(cwasi.wait, [quiet, rx], HANG)
        tx.switch("ring")
        time.sleep(0.02)
        assert not waiting.done()
        tx.send(b"new")
        assert waiting.result(HANG) is rx and rx.recv(0) == b"new"


def test_the_mode_changes_when_the_receiver_follows() -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        assert (tx.mode, rx.mode) == (cwasi.Mode.LOCAL, cwasi.Mode.LOCAL)
        tx.switch("pipe")
        assert (tx.mode, rx.mode) == (cwasi.Mode.PROXIMAL, cwasi.Mode.LOCAL)
        tx.send(b"x")
        rx.recv(HANG)
        assert rx.mode is cwasi.Mode.PROXIMAL


def test_what_cannot_be_switched_to() -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx, rx):
        with pytest.raises(cwasi.BadSpec, match="transport 'carrier-pigeon' is unknown"):
            tx.switch("carrier-pigeon")
        with pytest.raises(cwasi.RedisUnavailable):
            tx.switch("unix:///nowhere/redis.sock")
        tx.send(b"as before")
        assert rx.recv(0) == b"as before"
        rx.close()
        with pytest.raises(cwasi.ChannelClosed):
            tx.switch("ring")


def test_a_receiver_that_is_gone_is_not_kept_by_the_sender() -> None:
    tx, rx = cwasi.open_channel("lab")
    with closing(tx):
        del rx
        with pytest.raises(cwasi.ChannelClosed, match="a receiver is gone"):
            tx.switch("ring")


# ---- of a host's guests ----


def run_guests(host: cwasi.Host, guests: Path, output: Path, count: int) -> cwasi.Channel:
    arguments = [str(count), "500"]
    source = host.load(guests / "source.wasm", arguments=arguments)
    sink = host.load(guests / "sink.wasm", arguments=arguments, stdout=output)
    return host.connect("frames", source, sink, ports=("out", "in"))


def test_guests_notice_nothing(guests: Path, tmp_path: Path, start: Start) -> None:
    def switches(count: int) -> int:
        output = tmp_path / str(count)
        with cwasi.Host() as host:
            channel = run_guests(host, guests, output, count)
            running = start(host.run)
            done = 0
            while not running.done():
                with suppress(cwasi.Timeout, cwasi.ChannelClosed, cwasi.PeerDied):
                    host.switch("frames", ["pipe", "tcp", "ring"][done % 3], timeout=0.5)
                    done += 1
            running.result(HANG)
            assert channel.metrics().received == count and channel.metrics().sent == count
            assert output.read_text() == f"sink: {count} messages ok\n"
            assert channel.sender is not None and channel.sender.epoch >= done - 1
            assert channel.transport == channel.decision.transport
            return done

    # On a busy machine a short run may be over before there were some.
    assert any(switches(count) > 3 for count in (400_000, 2_000_000, 10_000_000))


def test_what_a_host_cannot_switch(guests: Path, tmp_path: Path) -> None:
    with cwasi.Host() as host:
        channel = run_guests(host, guests, tmp_path / "out", 3)
        for name, target, error, why in (
            ("none", "ring", cwasi.BadSpec, "there is no channel 'none' here"),
            ("frames", "smoke", cwasi.BadSpec, "transport 'smoke' is unknown"),
            ("frames", "unix:///nowhere", cwasi.RedisUnavailable, "does not answer"),
        ):
            with pytest.raises(error, match=why):
                host.switch(name, target)
        assert str(channel.transport) == "ring"
        host.switch("frames", "pipe")
        assert str(channel.transport) == "pipe" and "a switch was asked for" in channel.explain()
        host.run()
        assert channel.metrics().received == 3


def test_a_host_keeps_no_more_than_one_link_behind_the_last(guests: Path, tmp_path: Path) -> None:
    from cwasi_fastpath.transport.ring import RingLink

    def links() -> int:
        return sum(isinstance(item, RingLink) for item in gc.get_objects())

    with cwasi.Host() as host:
        run_guests(host, guests, tmp_path / "out", 300_000)
        running = threading.Thread(target=host.run)
        running.start()
        before = links()
        for _ in range(10):
            with suppress(cwasi.Timeout, cwasi.ChannelClosed, cwasi.PeerDied):
                host.switch("frames", "ring")
        gc.collect()
        assert links() <= before + 3
        running.join(HANG)


def test_a_second_caller_of_a_host_waits_no_longer_than_it_said(
    guests: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(*words: object) -> None:
        inside.set()
        go_on.wait(HANG)

    with cwasi.Host() as host:
        run_guests(host, guests, tmp_path / "out", 3)
        monkeypatch.setattr("cwasi_fastpath.host.switch_channel", slow)
        first = start(host.switch, "frames", "pipe", None)
        assert inside.wait(HANG)
        try:
            with pytest.raises(cwasi.Timeout, match="another switch is under way"):
                host.switch("frames", "pipe", timeout=0.05)
        finally:
            go_on.set()
        first.result(HANG)


def test_a_host_that_closes_waits_for_the_switch(
    guests: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the link that it has gone to would not be closed."""
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(*words: object) -> None:
        inside.set()
        go_on.wait(HANG)
        order.append("switched")

    host = cwasi.Host()
    channel = run_guests(host, guests, tmp_path / "out", 3)
    monkeypatch.setattr("cwasi_fastpath.host.switch_channel", slow)
    monkeypatch.setattr("cwasi_fastpath.host._STOP_SECONDS", HANG)
    monkeypatch.setattr(channel, "close", lambda: order.append("closed"))
    switching = start(host.switch, "frames", "pipe", None)
    assert inside.wait(HANG)
    threading.Timer(0.2, go_on.set).start()
    host.close()
    switching.result(HANG)
    assert order == ["switched", "closed"]


def test_a_running_command_is_told(guests: Path, runtime_directory: Path) -> None:
    argv = [f"{guests}/source.wasm 100000000 500", f"{guests}/sink.wasm 100000000 500"]
    run = [*CWASI, "run", *argv, "--connect", "frames:source/out:sink/in"]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        try:
            until = time.monotonic() + HANG
            while True:
                told = subprocess.run(
                    [*CWASI, "switch", "frames", "--to", "pipe", "--json"], capture_output=True, text=True, timeout=HANG
                )
                if told.returncode == 0 or time.monotonic() > until:
                    break
            found = json.loads(told.stdout)
            assert found == {"schema": 1, "channel": "frames", "transport": "pipe", "mode": "proximal"}
            shown = subprocess.run([*CWASI, "ps", "--json"], capture_output=True, text=True, timeout=HANG)
            ends = json.loads(shown.stdout)["ends"]
            assert {(end["transport"], end["epoch"]) for end in ends if end["role"] == "sender"} == {("pipe", 1)}
        finally:
            command.terminate()


INTERRUPTED = """
import os, signal, threading
import cwasi_fastpath as cwasi
signal.signal(signal.SIGINT, signal.default_int_handler)
tx, rx = cwasi.open_channel("lab")
sent = 0
while tx.try_send(b""):
    sent += 1
noticed = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: noticed.set())
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    tx.switch("ring", timeout=None)
except KeyboardInterrupt:
    print("interrupted", noticed.is_set(), tx.epoch)
for _ in range(sent):
    rx.recv(0)
tx.switch("pipe", timeout=0)
tx.send(b"on")
print(rx.recv(0), tx.epoch, rx.epoch)
"""


def test_ctrl_c_ends_a_switch_without_a_time_out() -> None:
    """Another signal does not; and all is as it was."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=HANG)
    assert (done.stdout, done.stderr) == ("interrupted True 0\nb'on' 1 1\n", "")
