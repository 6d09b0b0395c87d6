"""Who has networks sounded: as often as it should, for as long as somebody asks, and whatever the other side does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest
from channels import eventually

from cwasi_fastpath import errors, reach, soundings
from cwasi_fastpath.policy.sounding import SECONDS, pause
from cwasi_fastpath.soundings import FIRST_THREAD, THREAD, Sounded, Soundings, _Path, _Target
from cwasi_fastpath.transport.handshake import KEY_BYTES
from cwasi_fastpath.transport.sounding import Place
from cwasi_fastpath.transport.tcp_info import Network

FOUND = Network(1e6, 1e6, None, 0)


class Channel:
    """To a receiver on another node, whose process says where it echoes."""

    def __init__(self, host: int = 1, says: Callable[[], Place] | None = None, port: int = 1) -> None:
        self.name = f"lab{host}"
        self.tie: object = object()
        self.asked = 0
        self._says = says or (lambda: Place(f"10.0.0.{host}", port, b""))

    def echo(self, seconds: float) -> Place:
        self.asked += 1
        return self._says()


class Sounds:
    """In place of the network."""

    def __init__(self) -> None:
        self.met: Counter[Place] = Counter()
        self.patience: list[float] = []
        self.error: Exception | None = None
        self.silent: set[Place] = set()
        self.over = threading.Event()

    def __call__(self, place: Place, patience: float) -> Network:
        self.met[place] += 1
        self.patience.append(patience)
        if place in self.silent:
            self.over.wait()
            raise TimeoutError
        if self.error is not None:
            raise self.error
        return FOUND


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Sounds:
    sounds = Sounds()
    monkeypatch.setattr(soundings, "sound", sounds)
    monkeypatch.setattr(soundings, "pause", lambda took, among: 0.01)
    monkeypatch.setattr(soundings, "_BACK_OFF", 0.01)
    return sounds


@pytest.fixture
def some() -> Iterator[Soundings]:
    some = Soundings()
    yield some
    some.end()
    eventually(lambda: not running())


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in (THREAD, FIRST_THREAD)]


def latest(some: Soundings, channel: Any) -> Sounded:
    return some.latest(channel, time.monotonic())


def found(some: Soundings, channel: Channel) -> Sounded:
    return eventually(lambda: one if (one := latest(some, channel)).network is not None else None)


def test_a_network_is_sounded_again_and_again(network: Sounds, some: Soundings) -> None:
    channel = Channel()
    first = latest(some, channel)
    assert first.network is None and first.until > first.at
    one = found(some, channel)
    assert one.network == FOUND and one.until > one.at
    another = eventually(lambda: after if (after := latest(some, channel)).at > one.at else None)
    assert another.network == FOUND and channel.asked == 1


def test_channels_to_one_address_share_what_is_found(network: Sounds, some: Soundings) -> None:
    channels = [Channel(port=port) for port in range(1, 6)]
    assert {found(some, channel).network for channel in channels} == {FOUND}
    assert len(network.met) == 1
    assert sorted(thread.name for thread in running()) == [FIRST_THREAD, THREAD]
    other = Channel(2)
    found(some, other)
    assert len(network.met) == 2


def test_who_does_not_answer_keeps_nobody_waiting(network: Sounds, some: Soundings) -> None:
    """But those who have not answered yet, either."""
    honest, silent = Channel(), [Channel(host, port=7) for host in range(2, 6)]
    try:
        found(some, honest)
        network.silent = {Place(f"10.0.0.{host}", 7, b"") for host in range(2, 6)}
        for channel in silent:
            latest(some, channel)
        eventually(lambda: network.met.keys() & network.silent)
        before = network.met[Place("10.0.0.1", 1, b"")]
        eventually(lambda: latest(some, honest) and network.met[Place("10.0.0.1", 1, b"")] > before + 20)
        assert sum(network.met[place] for place in network.silent) == 1, "the first of them is still waited for"
    finally:
        network.over.set()


def test_who_has_waited_longest_for_its_pause_is_next(some: Soundings) -> None:
    """Not who has waited longest: that one's pause is long."""
    quick, slow, new = (_Target(Channel(host), 0.0, object()) for host in (1, 2, 3))   # type: ignore[arg-type]
    now = time.monotonic()
    for target, took in ((quick, 1e-3), (slow, SECONDS)):
        target.place, target.answered = target.channel.echo(1.0), True
        some._paths[target.place.host] = _Path(None, now - 1.5 * pause(took, 2), took)
        some._targets[target.channel] = target
    some._paths["10.0.0.1"].ended = now - 2.0 * pause(1e-3, 2)
    some._threads = dict.fromkeys((True, False), threading.current_thread())
    assert some._next(True) is quick
    some._paths["10.0.0.2"].ended = now - 1000.0 * pause(SECONDS, 2)   # quick waits longer and longer, too
    assert some._next(True) is slow
    some._targets[new.channel] = new
    assert some._next(False) is new


def test_all_soundings_together_take_a_tenth_of_the_time() -> None:
    for took, addresses in ((1e-3, 1), (1e-3, 200), (0.1, 10), (SECONDS, 20)):
        assert addresses * took / (pause(took, addresses) + took) <= 0.1


def test_who_has_answered_is_not_waited_for_so_long(network: Sounds, some: Soundings) -> None:
    channel = Channel()
    latest(some, channel)
    eventually(lambda: latest(some, channel) and len(network.patience) > 1)
    assert network.patience[0] == inf and network.patience[1] < SECONDS


def test_who_answers_at_an_address_is_sounded_and_others_there_are_not(network: Sounds, some: Soundings) -> None:
    honest, other = Channel(), Channel(port=2)
    found(some, honest)
    found(some, other)
    eventually(lambda: latest(some, honest) and latest(some, other) and network.met[Place("10.0.0.1", 1, b"")] > 5)
    assert Place("10.0.0.1", 2, b"") not in network.met
    with some._changed:
        some._targets[honest].wanted_until = 0.0   # type: ignore[index]
        some._changed.notify_all()
    eventually(lambda: latest(some, other) and network.met[Place("10.0.0.1", 2, b"")] > 5)


def test_it_ends_when_nobody_asks_any_more_and_goes_on_when_somebody_does(
    network: Sounds, some: Soundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel()
    one = found(some, channel)
    monkeypatch.setattr(soundings, "_WANTED_SECONDS", 0.0)
    latest(some, channel)
    eventually(lambda: not running())
    monkeypatch.setattr(soundings, "_WANTED_SECONDS", 60.0)
    before, after = time.monotonic(), latest(some, channel)
    assert after.network == FOUND and after.at >= one.at, "what it knew"
    assert after.until >= before + soundings.FIRST_SECONDS, "and another one will come"
    eventually(lambda: latest(some, channel).at > after.at)
    assert channel.asked == 1


def test_what_nobody_has_asked_about_for_a_long_time_is_forgotten(
    network: Sounds, some: Soundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Channel()
    found(some, old)
    monkeypatch.setattr(soundings, "_KEPT_SECONDS", -soundings._WANTED_SECONDS - 1.0)
    found(some, Channel(2))
    assert [channel.name for channel in some._targets] == ["lab2"] and len(some._paths) == 1


@pytest.mark.parametrize("error", [None, TimeoutError()], ids=["found", "failed"])
def test_nothing_stays_of_what_is_forgotten_while_it_is_sounded(
    some: Soundings, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def sound(place: Place, patience: float) -> Network:
        if place.host == "10.0.0.1":
            begun.set()
            goes_on.wait()
            if error is not None:
                raise error
        return FOUND

    monkeypatch.setattr(soundings, "sound", sound)
    latest(some, Channel())
    begun.wait()
    monkeypatch.setattr(soundings, "_KEPT_SECONDS", -soundings._WANTED_SECONDS - 1.0)
    other = Channel(2)
    latest(some, other)
    goes_on.set()
    found(some, other)
    assert some._paths.keys() == {"10.0.0.2"}


def test_who_has_failed_is_not_waited_for(network: Sounds, some: Soundings) -> None:
    channel = Channel()
    network.error = TimeoutError()
    assert latest(some, channel).until > 0.0
    eventually(lambda: latest(some, channel).until < 0.0)


def test_however_often_it_fails(network: Sounds, some: Soundings, monkeypatch: pytest.MonkeyPatch) -> None:
    network.error = TimeoutError()
    channel = Channel()
    latest(some, channel)
    some._targets[channel].failures = 5000   # type: ignore[index]
    eventually(lambda: some._targets[channel].failures > 5002)   # type: ignore[index]


@pytest.mark.parametrize("error", [
    ConnectionRefusedError(), TimeoutError(), errors.TcpUnavailable("away"), errors.Corrupted("odd"), ValueError("odd"),
], ids=lambda error: type(error).__name__)   # fmt: skip
def test_who_is_not_there_is_asked_again_where_it_echoes(network: Sounds, some: Soundings, error: Exception) -> None:
    channel = Channel()
    network.error = error
    latest(some, channel)
    eventually(lambda: channel.asked > 2)
    assert latest(some, channel).network is None
    network.error = None
    assert found(some, channel).network == FOUND


@pytest.mark.parametrize("error", [errors.PeerDied("gone"), errors.NoSuchChannel("older"), errors.Timeout("slow"),
                                   errors.Corrupted("odd"), KeyError("odd")], ids=lambda error: type(error).__name__)
def test_who_does_not_say_where_it_echoes_is_asked_again(network: Sounds, some: Soundings, error: Exception) -> None:
    def says() -> Place:
        if channel.asked < 4:
            raise error
        return Place("10.0.0.1", 1, b"")

    channel = Channel(says=says)
    assert found(some, channel).network == FOUND and channel.asked == 4


def test_a_receiver_that_has_moved_is_asked_anew(network: Sounds, some: Soundings) -> None:
    channel = Channel()
    found(some, channel)
    channel.tie = object()
    assert latest(some, channel).network is None
    found(some, channel)
    assert channel.asked == 2


def test_nobody_waits_for_a_peer_that_does_not_answer(network: Sounds, some: Soundings) -> None:
    answers = threading.Event()

    def says() -> Place:
        answers.wait()
        return Place("10.0.0.1", 1, b"")

    channel = Channel(says=says)
    for _ in range(3):
        assert latest(some, channel).network is None
    some.end()
    answers.set()
    eventually(lambda: not running())


# ---- where a peer says that it echoes ----

KEY = "5a" * KEY_BYTES


def test_where_an_honest_peer_echoes() -> None:
    place = reach.echo_of({"host": "10.1.2.3", "port": 65535, "key": KEY, "more": 1})
    assert place == Place("10.1.2.3", 65535, bytes.fromhex(KEY))
    assert reach.echo_of({"host": "FD00:0::1", "port": 1, "key": KEY}).host == "fd00::1", "one address, one name"


@pytest.mark.parametrize("host", [
    "127.0.0.1", "127.9.9.9", "::1", "169.254.169.254", "fe80::1", "fe80::1%lo", "224.0.0.1", "ff02::1", "0.0.0.0",
    "::", "255.255.255.255", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "localhost", "",
])   # fmt: skip
def test_nobody_is_sounded_at_an_address_that_others_do_not_have(host: str) -> None:
    with pytest.raises(errors.Corrupted):
        reach.echo_of({"host": host, "port": 80, "key": KEY})


@pytest.mark.parametrize("odd", [
    {"port": True}, {"port": 0}, {"port": -1}, {"port": 65536}, {"port": "80"}, {"port": 80.0}, {"key": ""},
    {"key": KEY[:-2]}, {"key": KEY * 1000}, {"key": "zz" * KEY_BYTES}, {"key": KEY[:-2] + "  "}, {"key": 1},
    {"host": None},
], ids=str)   # fmt: skip
def test_a_place_that_cannot_be(odd: dict[str, object]) -> None:
    with pytest.raises(errors.Corrupted):
        reach.echo_of({"host": "10.1.2.3", "port": 80, "key": KEY, **odd})
