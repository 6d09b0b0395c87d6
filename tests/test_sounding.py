"""Sounding a network: a connection without messages, who answers it, and who does not as it should."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from pathlib import Path

import pytest
from channels import Fork, eventually, status_of

from cwasi_fastpath import errors
from cwasi_fastpath.bench.wire import HERE, THERE, a_wire
from cwasi_fastpath.policy.sounding import BYTES, SECONDS, gives, holds, pause, shows, sounded
from cwasi_fastpath.transport import echo, handshake, sounding
from cwasi_fastpath.transport.echo import CALLERS_MAX, echo_at
from cwasi_fastpath.transport.sounding import Place, sound
from cwasi_fastpath.transport.tcp_info import Network

LOOPBACK = "127.0.0.1"
KEY = bytes(handshake.KEY_BYTES)


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No echo is left behind."""
    yield
    monkeypatch.setattr(echo, "_IDLE_SECONDS", 0.0)
    for one in list(echo._echoes.values()):
        dismiss(one.place)
    eventually(lambda: not echoes())


def dismiss(place: Place) -> None:
    """Who comes last; that is not for long, where nobody is waited for."""
    with suppress(OSError, errors.Error):
        sound(place)


def sounds(place: Place) -> bool:
    """Once: who comes where there are too many may be the one who is dropped, before it is known."""
    with suppress(OSError, errors.Error):
        return sound(place).rtt_ns is not None
    return False


def echoes() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == echo.THREAD]


def callers() -> int:
    return sum(len(one._callers) for one in echo._echoes.values())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, somebody who answers is heard."""
    monkeypatch.setattr(sounding, "SECONDS", 60.0)
    monkeypatch.setattr(echo, "_CALL_SECONDS", 120.0)


@contextmanager
def peer(answers: Callable[[socket.socket], object]) -> Iterator[Place]:
    """Who listens, and does that with whoever comes first."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        def run() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    answers(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield Place(LOOPBACK, listener.getsockname()[1], KEY)
        thread.join()


# ---- where all are honest ----


def test_an_echo_answers_again_and_again(patient: None) -> None:
    place = echo_at(LOOPBACK)
    assert place.host == LOOPBACK and len(place.key) == handshake.KEY_BYTES
    for _ in range(3):
        found = sound(place)
        assert found.rtt_ns is not None and found.rtt_ns > 0
    assert echo_at(LOOPBACK) == place and len(echoes()) == 1, "one for all who ask"
    eventually(lambda: not callers())


def test_a_network_that_delays_and_then_does_not(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        try:
            wire = stack.enter_context(a_wire())
        except errors.Unavailable as error:
            pytest.skip(str(error))
        place = wire.inside(lambda: echo_at(HERE))
        stack.callback(lambda: wire.inside(lambda: dismiss(place._replace(host=THERE))))
        stack.callback(lambda: monkeypatch.setattr(echo, "_IDLE_SECONDS", 0.0))

        def heard() -> Network:
            return wire.inside(lambda: sound(place._replace(host=THERE)))

        def limited() -> float | None:
            return heard().bytes_per_second

        wire.becomes(0.05)
        assert (heard().rtt_ns or 0.0) >= 0.1e9
        wire.becomes()
        eventually(lambda: (heard().rtt_ns or inf) < 0.1e9)
        wire.becomes(0.0, 1e5)
        assert eventually(limited) < 3.1e5, "0.65 s for all bytes, of which two thirds at most are round trips"
        wire.becomes()


# ---- where the other side is not ----


def greets(connection: socket.socket) -> None:
    """As an echo, with the key that everybody has here."""
    hello = handshake.hello()
    connection.sendall(hello)
    proof = handshake.proof(KEY, hello, received(connection, handshake.ANSWER_BYTES))
    assert proof is not None
    connection.sendall(proof[0])


def received(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := connection.recv(count - len(got))):
        got += more
    return got


def until_it_leaves(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def says_nothing(connection: socket.socket) -> None:
    until_it_leaves(connection)


def talks_nonsense(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
    until_it_leaves(connection)


def does_not_know_the_key(connection: socket.socket) -> None:
    connection.sendall(handshake.hello())
    received(connection, handshake.ANSWER_BYTES)
    connection.sendall(bytes(handshake.PROOF_BYTES))
    until_it_leaves(connection)


def talks_without_end(connection: socket.socket) -> None:
    greets(connection)
    while True:
        connection.sendall(bytes(1 << 16))


def hangs_up(connection: socket.socket) -> None:
    connection.sendall(handshake.hello()[:-1])


@pytest.mark.parametrize("answers", [says_nothing, talks_nonsense, does_not_know_the_key, hangs_up])
def test_who_is_no_echo_tells_nothing(
    answers: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounding, "SECONDS", 0.2)
    with peer(answers) as place, pytest.raises((OSError, errors.Corrupted)):
        sound(place)


def test_nobody_listens() -> None:
    with peer(says_nothing) as place:
        dismiss(place)
    with pytest.raises(ConnectionRefusedError):
        sound(place)


def test_who_takes_nothing_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sounding is over when its time is."""
    done = threading.Event()
    monkeypatch.setattr(sounding, "BYTES", 64 << 20)   # more than the kernel holds

    def reads_no_more(connection: socket.socket) -> None:
        greets(connection)
        done.wait()

    with peer(reads_no_more) as place:
        try:
            monkeypatch.setattr(sounding, "SECONDS", 1.0)
            with suppress(TimeoutError):   # a machine so slow that there was no time to greet
                assert sound(place).rtt_ns
        finally:
            done.set()


def test_who_talks_without_end_is_not_listened_to(patient: None) -> None:
    with peer(talks_without_end) as place:
        assert sound(place).rtt_ns


# ---- where who comes is not ----


def connected(place: Place) -> socket.socket:
    return socket.create_connection((place.host, place.port))


def test_strangers_do_not_keep_others_away(patient: None) -> None:
    place = echo_at(LOOPBACK)
    strangers = [connected(place) for _ in range(CALLERS_MAX + 7)]
    try:
        eventually(lambda: callers() == CALLERS_MAX)
        eventually(lambda: sounds(place))
        assert callers() <= CALLERS_MAX
    finally:
        for one in strangers:
            one.close()
    eventually(lambda: not callers())


def test_who_is_known_is_not_dropped_for_strangers(patient: None) -> None:
    place = echo_at(LOOPBACK)
    with connected(place) as caller, ExitStack() as strangers:
        answer = handshake.answer(place.key, received(caller, handshake.HELLO_BYTES))
        assert answer is not None
        caller.sendall(answer)
        received(caller, handshake.PROOF_BYTES)
        for _ in range(3 * CALLERS_MAX):
            received(strangers.enter_context(connected(place)), handshake.HELLO_BYTES)
        caller.sendall(bytes(BYTES))
        assert received(caller, 1) == b"\0"
    eventually(lambda: not callers())


def test_many_from_one_address_do_not_keep_another_out(patient: None) -> None:
    place = echo_at(LOOPBACK)
    with socket.create_connection((place.host, place.port), source_address=("127.0.0.2", 0)) as other, \
            ExitStack() as strangers:   # fmt: skip
        hello = received(other, handshake.HELLO_BYTES)
        for _ in range(3 * CALLERS_MAX):
            received(strangers.enter_context(connected(place)), handshake.HELLO_BYTES)
        answer = handshake.answer(place.key, hello)
        assert answer is not None
        other.sendall(answer)
        assert len(received(other, handshake.PROOF_BYTES)) == handshake.PROOF_BYTES
    eventually(lambda: not callers())


def test_who_speaks_when_it_is_dropped_ends_nothing(patient: None) -> None:
    """The echo hears of it and of one more who comes at the same time, having waited for us."""
    place = echo_at(LOOPBACK)
    [ours] = echo._echoes.values()
    strangers = [connected(place) for _ in range(CALLERS_MAX)]
    try:
        eventually(lambda: callers() == CALLERS_MAX)
        heard = list(ours._callers.values())
        for speaks in list(strangers):
            with echo._lock:
                before, until = sum(len(one._answer) for one in heard), time.monotonic() + 1.0
                speaks.send(b"x")
                while sum(len(one._answer) for one in heard) == before and time.monotonic() < until:
                    time.sleep(0.001)
                if sum(len(one._answer) for one in heard) == before:
                    continue   # it waits for the lock already
                for one in strangers:   # now it does
                    one.send(b"x")
                strangers.append(connected(place))
            break
        assert sound(place).rtt_ns
        assert ours.is_alive() and echo_at(LOOPBACK) == place
    finally:
        for one in strangers:
            one.close()
    eventually(lambda: not callers())


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n" * 100, bytes(handshake.ANSWER_BYTES)])
def test_who_does_not_know_the_key_is_told_nothing(says: bytes, patient: None) -> None:
    place = echo_at(LOOPBACK)
    with connected(place) as stranger:
        received(stranger, handshake.HELLO_BYTES)
        with suppress(OSError):   # it did not read all of it, and has hung up
            stranger.sendall(says)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    eventually(lambda: not callers())


def test_who_sends_more_than_a_sounding_is_hung_up_on(patient: None) -> None:
    place = echo_at(LOOPBACK)
    with connected(place) as caller:
        hello = received(caller, handshake.HELLO_BYTES)
        answer = handshake.answer(place.key, hello)
        assert answer is not None
        caller.sendall(answer)
        received(caller, handshake.PROOF_BYTES)
        with pytest.raises(OSError):
            while True:
                caller.sendall(bytes(1 << 16))
    eventually(lambda: not callers())


def test_who_says_nothing_is_heard_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo, "_CALL_SECONDS", 0.05)
    with connected(echo_at(LOOPBACK)) as stranger:
        received(stranger, handshake.HELLO_BYTES)
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    eventually(lambda: not callers())


def test_it_ends_when_nobody_has_come_for_some_time_and_there_is_another_one(
    patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = echo_at(LOOPBACK)
    with monkeypatch.context() as soon:
        soon.setattr(echo, "_IDLE_SECONDS", 0.0)
        dismiss(before)
        eventually(lambda: not echoes())
    after = echo_at(LOOPBACK)
    assert after.key != before.key and sound(after).rtt_ns
    with pytest.raises((OSError, errors.Corrupted)):
        sound(before)


def test_a_forked_child_holds_nothing_of_it(
    fork: Fork, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = echo_at(LOOPBACK)
    begun, begins = os.pipe()
    ended, ends = os.pipe()

    def child() -> None:
        os.close(ends)
        own = echo_at(LOOPBACK)
        assert own.port != place.port and sound(own).rtt_ns
        os.write(begins, b".")
        os.read(ended, 1)

    with connected(place) as stranger:
        received(stranger, handshake.HELLO_BYTES)
        pid = fork(child)
        os.read(begun, 1)
        with monkeypatch.context() as soon:
            soon.setattr(echo, "_IDLE_SECONDS", 0.0)
            dismiss(place)
            eventually(lambda: not echoes())
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b"", "it was hung up on"
        with pytest.raises(ConnectionRefusedError):
            sound(place)
    os.close(ends)
    assert status_of(pid) == 0
    for descriptor in (begun, begins, ended):
        os.close(descriptor)


def test_a_forked_child_has_no_connection_that_is_just_being_made(fork: Fork, patient: None) -> None:
    with socket.create_server((LOOPBACK, 0), backlog=0) as full, ExitStack() as others:
        for _ in range(4):   # so that nobody else is connected
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        place = Place(*full.getsockname(), KEY)
        thread = threading.Thread(target=lambda: dismiss(place))
        thread.start()
        [made] = eventually(lambda: [one for one in sounding._under_way if one.fileno() >= 0])
        eventually(lambda: made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\2")   # SYN_SENT
        inode = os.fstat(made.fileno()).st_ino

        def child() -> None:
            assert made.fileno() == -1
            assert not [one for one in Path("/proc/self/fd").iterdir() if inode_of(int(one.name)) == inode]

        pid = fork(child)
        assert status_of(pid) == 0
        made.shutdown(socket.SHUT_RDWR)
        thread.join()


def inode_of(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:   # that by which they are listed
        return None


# ---- how often, and what it says ----


def test_how_often() -> None:
    assert pause(0.001) == 0.25 and pause(0.1) == pytest.approx(1.0) and pause(SECONDS) == 20.0
    assert all(holds(took) > pause(took) + SECONDS for took in (0.001, 0.1, SECONDS)), "until the next, at least"
    assert sounded(1e-3, None) == (pytest.approx(0.006), None)
    assert sounded(1e-3, BYTES) == (pytest.approx(1.006), pytest.approx(BYTES))
    assert sounded(1.0, None)[0] == SECONDS


def test_what_a_network_gives_is_seen_where_it_gives_little() -> None:
    for rtt in (50e-6, 1e-3, 0.1):
        rounds = 3 * rtt
        assert gives(rounds, rtt, rtt) is None and gives(1.4 * rounds, rtt, rtt) is None
        least = 0.9 * shows(rtt * 1e9)
        assert gives(rounds + BYTES / least, rtt, rtt) == pytest.approx(least)
