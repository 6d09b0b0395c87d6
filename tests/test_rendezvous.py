"""Ends that meet by name, in two processes or one, and what happens when either dies at any step."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from channels import HANG, Fork, Start, content, control_ended, eventually, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import census, control, meeting, offer, registry, runtime, search
from cwasi_fastpath import transport as transports
from cwasi_fastpath.connection import MESSAGE_BYTES, Connection
from cwasi_fastpath.description import EndDescription
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.redis_server import RedisServer
from cwasi_fastpath.request import Request

pytestmark = pytest.mark.usefixtures("swept_directory")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL


def send_ten() -> None:
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        for number in range(10):
            tx.send(content(number, number * 1000))


TEN = [content(number, number * 1000) for number in range(10)]


# ---- meeting ----


def test_the_sender_comes_first(fork: Fork, runtime_directory: Path) -> None:
    pid = fork(send_ten)
    while not (runtime_directory / "lab:sender").exists():
        time.sleep(0.001)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert (rx.mode, list(rx)) == (cwasi.Mode.PROXIMAL, TEN)
    assert status_of(pid) == 0


def test_the_receiver_comes_first(fork: Fork, start: Start, runtime_directory: Path) -> None:
    opening = start(cwasi.open_receiver, "lab", timeout=HANG)
    while not (runtime_directory / "lab:receiver").exists():
        time.sleep(0.001)
    pid = fork(send_ten)
    with opening.result(HANG) as rx:   # type: ignore[attr-defined]
        assert list(rx) == TEN
    assert status_of(pid) == 0


def test_both_come_at_once(fork: Fork) -> None:
    for _ in range(30):
        pid = fork(send_ten)
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            assert list(rx) == TEN
        assert status_of(pid) == 0


def test_two_threads_meet(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        assert tx.mode == rx.mode == cwasi.Mode.LOCAL
        tx.send(b"here")
        assert rx.recv(timeout=HANG) == b"here"


@pytest.mark.parametrize("open_end", [cwasi.open_sender, cwasi.open_receiver])
def test_nobody_comes(open_end: Callable[..., object], runtime_directory: Path) -> None:
    for timeout in (0, 0.05):
        with pytest.raises(cwasi.Timeout, match=f"channel 'lab': no (sender|receiver) has come within {timeout} s"):
            open_end("lab", timeout=timeout)
    with pytest.raises(cwasi.BadName):
        open_end("../lab")
    with pytest.raises(cwasi.BadName):
        open_end("lab", trust="A")
    control_ended()
    assert not list(runtime_directory.iterdir())


@pytest.mark.parametrize("open_end", [cwasi.open_sender, cwasi.open_receiver])
def test_the_second_of_a_role_is_told_who_holds_it(
    fork: Fork, open_end: Callable[..., object], runtime_directory: Path
) -> None:
    role = open_end.__name__.removeprefix("open_")
    pid = fork(lambda: open_end("lab"))
    while not registry.holder("lab", {"sender": SENDER, "receiver": RECEIVER}[role]):
        time.sleep(0.001)
    with pytest.raises(cwasi.Busy, match=f"channel 'lab' has a {role} already: process {pid};"):
        open_end("lab", timeout=0)
    kill(pid)
    with pytest.raises(cwasi.Timeout):
        open_end("lab", timeout=0)


def test_ctrl_c_while_waiting(runtime_directory: Path) -> None:
    script = (
        "import cwasi_fastpath as cwasi, sys, threading, time, os, signal\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try: getattr(cwasi, sys.argv[1])('lab')\n"
        "except KeyboardInterrupt: sys.exit(7)\n"
    )
    for name in ("open_sender", "open_receiver"):
        assert subprocess.run([sys.executable, "-c", script, name], timeout=HANG).returncode == 7
        assert not list(runtime_directory.iterdir())


# ---- trust and transports ----


def test_other_labels_share_no_memory(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG, trust="mine")
    with cwasi.open_receiver("lab", timeout=HANG, trust="theirs") as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        named = meeting.named_end("lab", SENDER)
        assert named is not None and named.meeting is not None
        assert named.meeting.decision.transport is cwasi.Transport.PIPE
        assert "different trust domains" in named.meeting.decision.explain()
        assert named.meeting.peer.trust == "theirs"
        tx.send(b"x" * 100_000)
        assert rx.recv(timeout=HANG) == b"x" * 100_000


def test_a_sender_that_was_refused_gives_up_in_time(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=1.0, trust="mine", transport="ring")
    while not opening.done():
        with pytest.raises((cwasi.NoTransport, cwasi.Timeout)):
            cwasi.open_receiver("lab", timeout=0.2, trust="theirs")
    with pytest.raises(cwasi.Timeout):
        opening.result(HANG)


def test_a_ring_across_labels_is_refused_to_both(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG, trust="mine", transport="ring")
    with pytest.raises(cwasi.NoTransport, match="may not share memory"):
        cwasi.open_receiver("lab", timeout=HANG, trust="theirs")
    assert not opening.done()
    with cwasi.open_receiver("lab", timeout=HANG, trust="mine") as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        tx.send(b"to whom it may")
        assert rx.recv(timeout=HANG) == b"to whom it may"


@pytest.mark.parametrize("transport", ["ring", "pipe", "redis"])
def test_the_transport_that_is_asked_for(fork: Fork, transport: str, redis_server: RedisServer) -> None:
    def child() -> None:
        with cwasi.open_sender("lab", timeout=HANG, transport=transport, redis=redis_server.url) as tx:
            for message in TEN:
                tx.send(message)

    pid = fork(child)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        named = meeting.named_end("lab", RECEIVER)
        assert named is not None and named.meeting is not None
        assert named.meeting.decision.transport == transport
        assert list(rx) == TEN
    assert status_of(pid) == 0


# ---- deaths ----


@pytest.mark.parametrize("transport", ["ring", "pipe"])
def test_a_sender_that_is_killed(fork: Fork, transport: str) -> None:
    def child() -> None:
        tx = cwasi.open_sender("lab", timeout=HANG, transport=transport)
        tx.send(b"its last words")
        while True:
            signal.pause()

    pid = fork(child)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert rx.recv(timeout=HANG) == b"its last words"
        kill(pid)
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


@pytest.mark.parametrize("transport", ["ring", "pipe"])
def test_a_receiver_that_is_killed(fork: Fork, start: Start, transport: str) -> None:
    def child() -> None:
        rx = cwasi.open_receiver("lab", timeout=HANG)
        rx.recv()
        while True:
            signal.pause()

    pid = fork(child)
    tx = cwasi.open_sender("lab", timeout=HANG, transport=transport)
    with tx:
        sending = start(lambda: [tx.send(bytes(10_000)) for _ in range(1 << 20)])
        while tx.metrics().waits == 0:
            time.sleep(0.001)
        kill(pid)
        with pytest.raises((cwasi.PeerDied, cwasi.ChannelClosed)):
            sending.result(HANG)


def test_the_survivor_meets_the_next_one(fork: Fork) -> None:
    """Also before it has closed its old end."""
    old: list[cwasi.Receiver] = []
    for number in range(5):

        def child(number: int = number) -> None:
            tx = cwasi.open_sender("lab", timeout=HANG)
            tx.send(b"%d" % number)
            while True:
                signal.pause()

        pid = fork(child)
        rx = cwasi.open_receiver("lab", timeout=HANG)
        assert rx.recv(timeout=HANG) == b"%d" % number
        kill(pid)
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)
        old.append(rx)
    for rx in old:
        rx.close()


def test_who_ends_well_has_not_died(fork: Fork) -> None:
    for _ in range(10):
        pid = fork(send_ten)
        with cwasi.open_receiver("lab", timeout=HANG) as rx:
            assert status_of(pid) == 0
            assert list(rx) == TEN


def test_an_end_that_is_forgotten_was_not_finished(start: Start, runtime_directory: Path) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        tx = opening.result(HANG)
        del tx, opening
        gc.collect()
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


def test_a_process_that_ends_without_closing(runtime_directory: Path) -> None:
    script = "import cwasi_fastpath as cwasi\ntx = cwasi.open_sender('lab')\ntx.send(b'x')\n"
    process = subprocess.Popen([sys.executable, "-c", script])
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert rx.recv(timeout=HANG) == b"x"
        assert process.wait(HANG) == 0
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


def dies_in(step: str) -> None:
    """Kills this process when it comes to that step of the meeting, before or after it."""
    when, name = step.split()
    target, attribute = {
        "claim": (registry, "claim"),
        "knock": (registry, "tell"),
        "connect": (control, "connect"),
        "hand": (offer.Offer, "_asked"),
        "met": (offer.Offer, "_met"),
        "join": (search, "joined"),
        "open": (search, "opened"),
        "keep": (meeting.NamedEnd, "opened"),
    }[name]
    real = getattr(target, attribute)

    def fatal(*args: object, **options: object) -> object:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(target, attribute, fatal)


@pytest.mark.parametrize("step", ["before claim", "after claim", "before connect", "after connect", "before join",
                                  "after join", "before open", "after open"])   # fmt: skip
def test_a_receiver_is_killed_while_it_meets(fork: Fork, start: Start, step: str) -> None:
    """The sender goes on waiting for another one."""
    opening = start(cwasi.open_sender, "lab", timeout=HANG)

    def child() -> None:
        dies_in(step)
        cwasi.open_receiver("lab", timeout=HANG)

    assert status_of(fork(child)) == -signal.SIGKILL
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        tx.send(b"to the second")
        assert rx.recv(timeout=HANG) == b"to the second"


@pytest.mark.parametrize("step", ["before claim", "after claim", "before knock", "after knock", "before hand",
                                  "after hand", "before met"])   # fmt: skip
def test_a_sender_is_killed_while_it_meets(fork: Fork, start: Start, step: str) -> None:
    """The receiver goes on waiting for another one."""
    opening = start(cwasi.open_receiver, "lab", timeout=HANG)
    while not registry.holder("lab", RECEIVER):
        time.sleep(0.001)

    def child() -> None:
        dies_in(step)
        cwasi.open_sender("lab", timeout=HANG)

    assert status_of(fork(child)) == -signal.SIGKILL
    with cwasi.open_sender("lab", timeout=HANG) as tx, opening.result(HANG) as rx:   # type: ignore[attr-defined]
        tx.send(b"from the second")
        assert rx.recv(timeout=HANG) == b"from the second"


@pytest.mark.parametrize("step", ["before keep", "after keep"])
@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_who_is_killed_when_they_have_met(fork: Fork, role: str, step: str) -> None:
    """The other one is told."""

    def child() -> None:
        dies_in(step)
        getattr(cwasi, f"open_{role}")("lab", timeout=HANG)

    pid = fork(child)
    if role == "sender":
        with cwasi.open_receiver("lab", timeout=HANG) as rx, pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)
    else:
        with cwasi.open_sender("lab", timeout=HANG) as tx, pytest.raises((cwasi.PeerDied, cwasi.ChannelClosed)):
            while True:
                tx.send(b"x" * 100_000, timeout=HANG)
    assert status_of(pid) == -signal.SIGKILL


def test_a_sender_that_is_stopped_keeps_nobody_from_timing_out(fork: Fork) -> None:
    def child() -> None:
        with cwasi.open_sender("lab"):
            time.sleep(HANG)   # who leaves at once might do so before the receiver knows that they have met

    pid = fork(child)
    while not registry.holder("lab", SENDER):
        time.sleep(0.001)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(cwasi.Timeout):
        cwasi.open_receiver("lab", timeout=0.3)
    with pytest.raises(cwasi.Busy):
        cwasi.open_sender("lab", timeout=0)
    os.kill(pid, signal.SIGCONT)
    with cwasi.open_receiver("lab", timeout=HANG):
        pass


# ---- requests between the two, as a live switch needs them ----


def answer_switches(request: Request) -> None:
    """At the sender: has a thread offer the receiver a new ring over the connection of the two, and sends in it."""
    named = meeting.named_end(request.channel or "", SENDER)
    assert named is not None and named.meeting is not None and isinstance(named.meeting.connection, Connection)
    connection = named.meeting.connection

    def offer_ring() -> None:
        link = transports.create(cwasi.Transport(request.body["to"]))
        tx = cwasi.Sender(link.open(SENDER), "lab")
        description, fds = link.export(RECEIVER)
        accepted = connection.request("offer", {"link": description}, fds, channel="lab", timeout=HANG)
        link.close()
        tx.send(b"on the new ring")
        tx.close()
        request.answer(accepted.body)

    threading.Thread(target=offer_ring).start()


def test_a_request_reaches_the_sender_and_its_offer_the_receiver(fork: Fork) -> None:
    """Asked for by a third party; the receiver is inside recv meanwhile, and its control thread attaches the ring."""

    def child() -> None:
        control.on("replace", answer_switches)
        tx = cwasi.open_sender("lab", timeout=HANG, transport="pipe")
        tx.send(b"on the old pipe")
        while True:
            signal.pause()

    pid = fork(child)
    attached: list[cwasi.Receiver] = []

    def both_found() -> dict[str, EndDescription]:
        """By role; nothing while a process has no time to tell of its end."""
        found = {end.role: end for end in census.census()[0]}
        return found if len(found) == 2 else {}

    def attach(request: Request) -> None:
        link = transports.join(request.body["link"], request.take_fds())
        attached.append(cwasi.Receiver(link.open(RECEIVER), "lab"))
        request.answer({"accepted": request.connection.peer.pid})

    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        control.on("offer", attach, "lab")
        assert rx.recv(timeout=HANG) == b"on the old pipe"
        inside = threading.Thread(target=lambda: pytest.raises(cwasi.PeerDied, rx.recv))   # noqa: RUF061
        inside.start()
        ends = eventually(both_found)
        done = registry.ask(ends["sender"].address, "replace", {"to": "ring"}, channel="lab", timeout=HANG)
        assert done == {"accepted": pid}
        assert list(attached[0]) == [b"on the new ring"]
        with pytest.raises(cwasi.NoSuchChannel):
            registry.ask(ends["receiver"].address, "replace", {"to": "ring"}, channel="lab", timeout=HANG)
        kill(pid)
        inside.join(HANG)
        assert not inside.is_alive()
    attached[0].close()
    control.off("offer", attach, "lab")


# ---- hostile peers ----


class Liar:
    """A process, here a thread, that holds the name of a sender, and answers as the test wants."""

    def __init__(self, directory: Path, answer: dict[str, object], fds: list[int]) -> None:
        self.address = "+00000000000000ab"
        self._claim = registry.claim("lab", SENDER, self.address)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._path = runtime.socket_path(directory, self.address)
        self._sock.bind(str(self._path))
        self._sock.listen()
        self._answer, self._fds = answer, fds
        self._served = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._sock.accept()
            with connection:
                data = connection.recv(MESSAGE_BYTES)
                if data == b"end":
                    return
                reply = {"answer": json.loads(data)["id"], "body": self._answer} if data else {}
                try:
                    socket.send_fds(connection, [json.dumps(reply).encode()], self._fds)
                    connection.recv(MESSAGE_BYTES)
                except OSError:
                    pass
            self._served.set()

    def rest(self) -> None:
        """Waits until it has given up who asked it."""
        assert self._served.wait(HANG)
        self._served.clear()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(self._path))
            sock.send(b"end")
        self._thread.join()
        self._sock.close()
        self._path.unlink()
        self._claim.release()


DECISION = {"mode": 1, "transport": "ring", "reason": "lies", "alternatives": []}
PIPE = {**DECISION, "transport": "pipe"}
RING_LINK = {"transport": "ring", "role": RECEIVER, "reader": 0}
PIPE_LINK = {"transport": "pipe", "role": RECEIVER}
LIES: list[tuple[dict[str, object], int, type[Exception]]] = [
    ({}, 0, cwasi.Corrupted),
    ({"decision": 3, "link": RING_LINK}, 2, cwasi.Corrupted),
    ({"decision": DECISION}, 2, cwasi.Corrupted),
    ({"decision": DECISION, "link": RING_LINK}, 0, cwasi.Corrupted),
    ({"decision": DECISION, "link": RING_LINK}, 1, cwasi.Corrupted),
    ({"decision": DECISION, "link": RING_LINK}, 2, OSError),   # /dev/null is no ring
    ({"decision": DECISION, "link": PIPE_LINK}, 1, cwasi.Corrupted),
    ({"decision": DECISION, "link": {**RING_LINK, "role": [], "reader": {}}}, 2, cwasi.Corrupted),
    ({"decision": {**DECISION, "transport": "carrier pigeon"}, "link": RING_LINK}, 2, cwasi.Corrupted),
    ({"decision": PIPE, "link": {"transport": "pipe"}}, 1, cwasi.Corrupted),
    ({"decision": PIPE, "link": {"transport": "pipe", "role": SENDER}}, 1, cwasi.Corrupted),
    ({"decision": PIPE, "link": PIPE_LINK}, 0, cwasi.Corrupted),
    ({"decision": {**PIPE, "transport": "redis"}, "link": {"transport": "redis"}}, 0, cwasi.Corrupted),
    ({"decision": DECISION, "link": RING_LINK, "placement": {"trust": "theirs"}}, 2, cwasi.NoTransport),
    ({"decision": DECISION, "link": RING_LINK, "placement": {"trust": "\x1b"}}, 2, cwasi.BadName),
]


@pytest.mark.parametrize(("answer", "fds", "error"), LIES, ids=range(len(LIES)))
def test_a_sender_that_lies(
    runtime_directory: Path, answer: dict[str, object], fds: int, error: type[Exception]
) -> None:
    """The receiver's thread goes on, and no descriptor stays."""
    nulls = [os.open("/dev/null", os.O_RDWR) for _ in range(fds)]
    liar = Liar(runtime_directory, answer, nulls)
    before = 0
    for _ in range(2):
        with pytest.raises(error):
            cwasi.open_receiver("lab", timeout=HANG)
        control_ended()
        liar.rest()
        before = before or psutil.Process().num_fds()
    assert psutil.Process().num_fds() == before
    liar.close()
    for fd in nulls:
        os.close(fd)


def test_a_receiver_that_only_asks_and_never_confirms(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    while (sender := registry.holder("lab", SENDER)) is None:
        time.sleep(0.001)
    with pytest.raises(cwasi.NoSuchChannel):
        registry.ask(sender.address, "meet", {}, channel="other", timeout=HANG)
    with pytest.raises(cwasi.Error):
        registry.ask(sender.address, "met", {}, channel="lab", timeout=HANG)
    with pytest.raises(cwasi.BadName):
        registry.ask(sender.address, "meet", {"placement": {"trust": 5}}, channel="lab", timeout=HANG)
    for _ in range(10):
        registry.ask(sender.address, "meet", {}, channel="lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]
        with pytest.raises(cwasi.Busy):
            registry.ask(sender.address, "meet", {}, channel="lab", timeout=HANG)
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"


# ---- forks, many, and what is left ----


def test_a_fork_shares_nothing_of_it(start: Start, fork: Fork) -> None:
    """The child's copies of the ends say nothing to anybody when they go."""
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG) as rx, opening.result(HANG) as tx:   # type: ignore[attr-defined]

        def child() -> None:
            tx.abandon()
            rx.abandon()
            with pytest.raises(cwasi.Busy):
                cwasi.open_sender("lab", timeout=0)
            gc.collect()

        assert status_of(fork(child)) == 0
        tx.send(b"still open")
        assert rx.recv(timeout=HANG) == b"still open"
        assert meeting.named_end("lab", SENDER) is not None


def test_300_ends_in_one_process(start: Start) -> None:
    names = [f"lab-{number}" for number in range(150)]
    before = control.THREAD
    ends: list[tuple[cwasi.Sender, cwasi.Receiver]] = []
    for name in names:
        opening = start(cwasi.open_sender, name, timeout=HANG)
        rx = cwasi.open_receiver(name, timeout=HANG)
        ends.append((opening.result(HANG), rx))   # type: ignore[arg-type]
    assert [thread.name for thread in threading.enumerate()].count(before) == 1
    for number, (tx, rx) in enumerate(ends):
        tx.send(b"%d" % number)
        assert rx.recv(timeout=HANG) == b"%d" % number
    for tx, rx in ends:
        tx.close()
        assert list(rx) == []
        rx.close()


def test_nothing_is_left() -> None:
    with ThreadPoolExecutor(1) as pool:   # of several threads one more might begin while the first is not back yet

        def cycle() -> None:
            opening = pool.submit(cwasi.open_sender, "lab", timeout=HANG)
            rx = cwasi.open_receiver("lab", timeout=HANG)
            tx = opening.result(HANG)
            tx.send(b"x")
            tx.close()
            assert list(rx) == [b"x"]
            rx.close()
            control_ended()

        cycle()
        before = psutil.Process().num_fds(), threading.active_count(), len(control._handlers)
        for _ in range(20):
            cycle()
        assert (psutil.Process().num_fds(), threading.active_count(), len(control._handlers)) == before
