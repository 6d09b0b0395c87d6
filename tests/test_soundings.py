"""Who has networks sounded: as often as it should, for as long as somebody asks, and whatever the other side does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels import eventually

from cwasi_fastpath import errors, soundings
from cwasi_fastpath.soundings import THREAD, Sounded, Soundings
from cwasi_fastpath.transport.sounding import Place
from cwasi_fastpath.transport.tcp_info import Network

FOUND = Network(1e6, 1e6, None, 0)


class Channel:
    """To a receiver on another node, whose process says where it echoes."""

    def __init__(self, port: int = 1, says: Callable[[], Place] | None = None) -> None:
        self.name = f"lab{port}"
        self.tie: object = object()
        self.asked = 0
        self._says = says or (lambda: Place("10.0.0.1", port, b""))

    def echo(self, seconds: float) -> Place:
        self.asked += 1
        return self._says()


class Sounds:
    """In place of the network."""

    def __init__(self) -> None:
        self.met: Counter[Place] = Counter()
        self.error: Exception | None = None

    def __call__(self, place: Place) -> Network:
        self.met[place] += 1
        if self.error is not None:
            raise self.error
        return FOUND


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Sounds:
    sounds = Sounds()
    monkeypatch.setattr(soundings, "sound", sounds)
    monkeypatch.setattr(soundings, "pause", lambda took: 0.01)
    monkeypatch.setattr(soundings, "_BACK_OFF", 0.01)
    return sounds


@pytest.fixture
def some() -> Iterator[Soundings]:
    some = Soundings()
    yield some
    some.end()
    eventually(lambda: not running())


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


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


def test_channels_to_one_echo_share_what_is_found(network: Sounds, some: Soundings) -> None:
    channels = [Channel() for _ in range(5)]
    assert {found(some, channel).network for channel in channels} == {FOUND}
    assert len(network.met) == 1 and len(running()) == 1
    other = Channel(port=2)
    found(some, other)
    assert len(network.met) == 2


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
    found(some, Channel(port=2))
    assert [channel.name for channel in some._targets] == ["lab2"] and len(some._paths) == 1


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
