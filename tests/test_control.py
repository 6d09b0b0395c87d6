"""The control thread: two processes that ask each other, forks and deaths, and peers that do not behave."""

from __future__ import annotations

import array
import gc
import json
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from asking import On, echo
from channels import HANG, Start, control_ended, eventually, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import control, registry, runtime
from cwasi_fastpath import transport as transports
from cwasi_fastpath.connection import FDS_MAX, MESSAGE_BYTES, Connection
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.request import Request


@pytest.fixture
def raw(presence: control.Presence, runtime_directory: Path) -> Iterator[socket.socket]:
    """A peer of which every byte is the test's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(HANG)
        sock.connect(str(runtime.socket_path(runtime_directory, presence.address)))
        yield sock


def still_well(presence: control.Presence, on: On) -> None:
    on("well", echo)
    assert registry.ask(presence.address, "well", {"a": 1}, timeout=HANG)["echo"] == {"a": 1}


def descriptors(connections: int) -> int:
    """That this process has, once the control thread has so many connections: who has left it closes later."""

    def settled() -> bool:
        with control._lock:
            return control._current is not None and len(control._current._connections) == connections

    eventually(settled)
    return psutil.Process().num_fds()


# ---- two processes ----


def peer(address_to: int, ready: Callable[[], None]) -> int:
    """Forks a process that can be found, does something, and tells its address."""

    def child() -> None:
        signal.alarm(int(HANG))
        presence = control.Presence()
        ready()
        os.write(address_to, presence.address.encode())
        while True:
            signal.pause()

    return in_child(child)


@pytest.fixture
def told() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL


def test_a_ring_is_offered_and_attached(presence: control.Presence, told: tuple[int, int]) -> None:
    """What a live switch does: the new link goes over the connection, the peer attaches it on its control thread."""

    def attach(request: Request) -> None:
        link = transports.join(request.body["link"], request.take_fds())
        with cwasi.Receiver(link.open(RECEIVER), "lab") as rx:
            request.answer({"received": rx.recv(timeout=HANG).decode()})

    pid = peer(told[1], lambda: control.on("offer", attach, "lab"))
    connection = control.connect(os.read(told[0], 100).decode())
    link = transports.create(Transport.RING)
    with cwasi.Sender(link.open(SENDER), "lab") as tx:
        tx.send(b"on the new ring")
        description, fds = link.export(RECEIVER)
        answer = connection.request("offer", {"link": description}, fds, channel="lab", timeout=HANG)
        assert answer.body == {"received": "on the new ring"}
    link.close()
    connection.close()
    kill(pid)


def test_the_other_side_asks_too(presence: control.Presence, told: tuple[int, int], on: On) -> None:
    """Over the same connection, from a thread of its own."""

    def ask_back(request: Request) -> None:
        def ask() -> None:
            answer = request.connection.request("secret", timeout=HANG)
            request.answer({"got": os.read(answer.fds[0], 100).decode()})
            os.close(answer.fds[0])

        threading.Thread(target=ask).start()

    def give(request: Request) -> None:
        memory = os.memfd_create("secret")
        os.write(memory, b"42")
        os.lseek(memory, 0, os.SEEK_SET)
        request.answer({}, [memory])
        os.close(memory)

    on("secret", give)
    pid = peer(told[1], lambda: control.on("question", ask_back))
    connection = control.connect(os.read(told[0], 100).decode())
    assert connection.request("question", timeout=HANG).body == {"got": "42"}
    connection.close()
    kill(pid)


def test_the_death_of_the_peer_is_noticed(presence: control.Presence, told: tuple[int, int], start: Start) -> None:
    """By who waits for an answer, and by who wants to know."""
    pid = peer(told[1], lambda: control.on("never", lambda request: None))
    connection = control.connect(os.read(told[0], 100).decode())
    heard = threading.Event()
    died: list[bool] = []
    connection.when_gone(lambda dead: (died.append(dead), heard.set()))   # type: ignore[func-returns-value]
    asking = start(connection.request, "never", timeout=HANG)
    kill(pid)
    with pytest.raises(cwasi.PeerDied):
        asking.result(HANG)
    assert heard.wait(HANG) and died == [True]
    with pytest.raises(cwasi.PeerDied):
        connection.request("never", timeout=HANG)
    connection.when_gone(died.append)
    assert died == [True, True], "also who comes late"


def test_who_says_bye_has_not_died(presence: control.Presence, told: tuple[int, int]) -> None:
    def leave(request: Request) -> None:
        request.connection.close()

    pid = peer(told[1], lambda: control.on("leave", leave))
    connection = control.connect(os.read(told[0], 100).decode())
    heard = threading.Event()
    died: list[bool] = []
    connection.when_gone(lambda dead: (died.append(dead), heard.set()))   # type: ignore[func-returns-value]
    connection.tell("leave")
    assert heard.wait(HANG) and died == [False]
    kill(pid)


def test_a_fork_keeps_no_connection_open(presence: control.Presence, told: tuple[int, int]) -> None:
    """The peer's child has a copy of everything, and lives on: the peer's death is noticed all the same."""

    def child() -> None:
        signal.alarm(int(HANG))
        mine = control.Presence()
        control.on("fork", lambda request: request.answer({"child": fork()}))
        os.write(told[1], mine.address.encode())
        while True:
            signal.pause()

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        return pid

    pid = in_child(child)
    connection = control.connect(os.read(told[0], 100).decode())
    grandchild = connection.request("fork", timeout=HANG).body["child"]
    heard = threading.Event()
    connection.when_gone(lambda dead: heard.set())
    kill(pid)
    assert heard.wait(HANG)
    os.kill(grandchild, signal.SIGKILL)


def test_a_forked_child_is_a_process_of_its_own(presence: control.Presence, on: On, told: tuple[int, int]) -> None:
    on("echo", echo)
    connection = control.connect(presence.address)
    connection.request("echo", timeout=HANG)

    def child() -> None:
        assert control._current is None and connection.fileno() == -1
        mine = control.Presence()
        assert mine.address != presence.address
        assert registry.ask(mine.address, "echo", {}, timeout=HANG)["echo"] == {}
        assert registry.ask(presence.address, "echo", {}, timeout=HANG)["echo"] == {}
        mine.leave()
        control_ended()

    assert status_of(in_child(child)) == 0
    assert connection.request("echo", timeout=HANG).body["echo"] == {}
    connection.close()


def test_forks_while_the_thread_is_busy(presence: control.Presence, on: On, start: Start) -> None:
    on("echo", echo)
    connection = control.connect(presence.address)
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            connection.request("echo", timeout=HANG)

    asking = [start(ask) for _ in range(2)]

    def child() -> None:
        signal.alarm(int(HANG))
        mine = control.Presence()
        registry.ask(mine.address, "echo", {}, timeout=HANG)

    for _ in range(30):
        assert status_of(in_child(child)) == 0
    stop.set()
    for one in asking:
        one.result(HANG)
    connection.close()


# ---- peers that do not behave ----

GARBAGE = [
    b"\x00\xff" * 100, b"[]", b"null", b'"ask"', b"{", b"{}", b'{"ask": 7}', b'{"ask": "x", "id": "y"}',
    b'{"ask": "x", "body": []}', b'{"ask": "x", "channel": {}}', b'{"answer": []}', b'{"answer": {}, "body": 3}',
    b"[" * 30_000, b"9" * 30_000, b'{"refused": 1e999}', b"x" * (MESSAGE_BYTES + 1),
    b'{"ask": "x"' + b" " * MESSAGE_BYTES + b"}",
]   # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: repr(data[:24]))
def test_garbage_is_refused_and_ends_the_connection(
    raw: socket.socket, presence: control.Presence, on: On, garbage: bytes
) -> None:
    raw.send(garbage)
    said = json.loads(raw.recv(MESSAGE_BYTES))
    assert said["refused"] is None and said["error"] == "BadSpec"
    assert raw.recv(MESSAGE_BYTES) == b""
    still_well(presence, on)


@pytest.mark.parametrize(
    "message", [{"answer": 5, "body": {}}, {"refused": 5, "error": "os", "message": 7}, {"refused": None}]
)
def test_answers_that_nobody_asked_for(
    raw: socket.socket, presence: control.Presence, on: On, message: dict[str, object]
) -> None:
    raw.send(json.dumps(message).encode())
    still_well(presence, on)


@pytest.mark.parametrize("count", [1, FDS_MAX, FDS_MAX + 1, 200])
def test_descriptors_that_come_with_garbage_are_closed(
    raw: socket.socket, presence: control.Presence, on: On, count: int
) -> None:
    still_well(presence, on)
    before = descriptors(connections=1)
    with Path("/dev/null").open("rb") as null:
        rights = array.array("i", [null.fileno()] * count)
        raw.sendmsg([b"garbage"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert b"refused" in raw.recv(MESSAGE_BYTES) and raw.recv(MESSAGE_BYTES) == b""
    still_well(presence, on)
    assert descriptors(connections=0) == before - 1


def test_who_reads_no_answers_is_dropped(raw: socket.socket, presence: control.Presence, on: On) -> None:
    on("long", lambda request: request.answer({"long": "x" * 60_000}))
    raw.settimeout(HANG)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for number in range(10_000):
            raw.send(json.dumps({"ask": "long", "id": number}).encode())
    still_well(presence, on)


def test_who_floods_does_not_starve_others(raw: socket.socket, presence: control.Presence, on: On) -> None:
    stop = threading.Event()

    def flood() -> None:
        raw.settimeout(0.1)
        while not stop.is_set():
            try:
                raw.send(b'{"ask": "nothing"}')
            except TimeoutError:
                continue

    flooding = threading.Thread(target=flood)
    flooding.start()
    for _ in range(20):
        still_well(presence, on)
    stop.set()
    flooding.join()


def test_strangers_get_few_connections(presence: control.Presence, runtime_directory: Path, on: On) -> None:
    path = str(runtime.socket_path(runtime_directory, presence.address))
    strangers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(200)]
    for sock in strangers:
        sock.connect(path)
        sock.settimeout(HANG)
    assert b"too many connections" in strangers[-1].recv(1000)
    for sock in strangers:
        sock.close()
    while True:   # the thread must have seen that they left
        try:
            still_well(presence, on)
            break
        except cwasi.Error as error:
            assert "too many connections" in str(error)


def test_a_process_without_descriptors_goes_on_later(runtime_directory: Path, told: tuple[int, int]) -> None:
    """It does not spin meanwhile, and who waits is served when there are some again."""
    import resource

    def child() -> None:
        signal.alarm(int(HANG))
        mine = control.Presence()
        control.on("echo", echo)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)   # the lowest
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        refused: list[object] = []
        control._log.warning = lambda *words: refused.append(words)   # type: ignore[method-assign]
        began = time.monotonic()
        os.write(told[1], mine.address.encode())
        time.sleep(0.5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        often = len(refused) > 2 + (time.monotonic() - began) / control._PAUSE
        os.write(told[1], b"spins" if often else b"waits")
        while True:
            signal.pause()

    pid = in_child(child)
    address = os.read(told[0], len("+0123456789abcdef")).decode()   # what comes next may be there already
    assert registry.ask(address, "echo", {}, timeout=HANG)["echo"] == {}
    assert os.read(told[0], 100) == b"waits"
    kill(pid)


# ---- nothing is left ----


def test_nothing_is_left(runtime_directory: Path, on: On) -> None:
    on("echo", echo)

    def cycle() -> None:
        presence = control.Presence()
        connection = control.connect(presence.address)
        connection.request("echo", timeout=HANG)
        connection.close()
        presence.leave()
        control_ended()

    cycle()
    gc.collect()
    before = psutil.Process().num_fds(), threading.active_count()
    for _ in range(20):
        cycle()
    gc.collect()
    assert (psutil.Process().num_fds(), threading.active_count()) == before
    assert list(runtime_directory.iterdir()) == []


def test_presences_come_and_go_from_many_threads(runtime_directory: Path, start: Start, on: On) -> None:
    on("echo", echo)

    def come_and_go() -> None:
        for _ in range(30):
            presence = control.Presence()
            assert registry.ask(presence.address, "echo", {}, timeout=HANG)["echo"] == {}
            presence.leave()

    for done in [start(come_and_go) for _ in range(4)]:
        done.result(HANG)
    control_ended()
    assert list(runtime_directory.iterdir()) == []


def test_an_address_that_is_none(presence: control.Presence) -> None:
    for address in ("", "../etc", "+0123456789abcdef", "lab:sender", "+0123456789abcdef\n"):
        with pytest.raises(cwasi.PeerDied):
            control.connect(address)
        assert registry.alive(address) is None
        registry.tell(address, "knock", "lab")


def test_a_request_on_the_thread_that_reads_is_an_error(presence: control.Presence, on: On) -> None:
    """It would wait for itself."""
    on("echo", echo)

    def wait(request: Request) -> None:
        request.connection.request("echo", timeout=HANG)

    on("wait", wait)
    connection: Connection = control.connect(presence.address)
    with pytest.raises(cwasi.Error, match="on the control thread"):
        connection.request("wait", timeout=HANG)
    connection.close()


def test_memory_of_a_page_can_be_shared(presence: control.Presence, on: On) -> None:
    """Descriptors arrive as what they are."""
    memory = os.memfd_create("page")
    os.ftruncate(memory, mmap.PAGESIZE)

    def write(request: Request) -> None:
        (fd,) = request.take_fds()
        with mmap.mmap(fd, mmap.PAGESIZE) as page:
            page[:4] = b"seen"
        os.close(fd)
        request.answer()

    on("write", write)
    connection = control.connect(presence.address)
    connection.request("write", fds=[memory], timeout=HANG)
    assert os.pread(memory, 4, 0) == b"seen"
    connection.close()
    os.close(memory)
