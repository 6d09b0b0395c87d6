"""A channel of several senders goes as a whole: where one of them cannot, the others come back, or go there later."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from channels import HANG, Start

import cwasi_fastpath as cwasi
from cwasi_fastpath import switch_channel as module
from cwasi_fastpath import transport
from cwasi_fastpath.channel import Channel
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import EdgeFacts, Locality, Mode, Transport
from cwasi_fastpath.policy import Decision

EDGES = [("a", "c"), ("b", "c")]
FACTS = {edge: EdgeFacts(Locality.PROCESS) for edge in EDGES}


@pytest.fixture
def channel() -> Any:
    found = Channel("lab", {edge: Decision(Mode.LOCAL, Transport.RING, "made for a test") for edge in EDGES})
    links = [transport.create(Transport.RING) for _ in EDGES]
    for (sender, _), link in zip(EDGES, links, strict=True):
        found.join(SENDER, sender, [link])
    found.join(RECEIVER, "c", links)
    yield found
    found.close()


def carried(channel: Channel) -> list[Transport]:
    return [channel.link_of(SENDER, edge).transport for edge in EDGES]


def no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second link that is made cannot be."""
    real, made = module.link_to, []

    def link_to(*arguments: Any, **more: Any) -> Any:
        made.append(arguments)
        if len(made) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments, **more)

    monkeypatch.setattr(module, "link_to", link_to)


def test_who_has_gone_comes_back(channel: Channel, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    no_second(monkeypatch)
    monkeypatch.setattr(module, "_BACK_SECONDS", HANG)
    receiver = channel.receivers["c"]
    coming = start(lambda: [receiver.recv(HANG) for _ in range(4)])   # it follows
    for sender in channel.senders.values():
        sender.send(b"old")
    with pytest.raises(OSError, match="Too many open files"):
        module.switch_channel(channel, FACTS, "pipe", HANG)
    assert carried(channel) == [Transport.RING] * 2 and not channel.mixed
    for sender in channel.senders.values():
        sender.send(b"new")
    assert sorted(coming.result(HANG)) == [b"new"] * 2 + [b"old"] * 2   # type: ignore[call-overload]
    assert [sender.epoch for sender in channel.senders.values()] == [2, 0]


def test_who_cannot_come_back_is_named_and_the_rest_follows(
    channel: Channel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody receives, so who has gone once cannot go again."""
    no_second(monkeypatch)
    monkeypatch.setattr(module, "_BACK_SECONDS", 0.01)
    with pytest.raises(OSError):
        module.switch_channel(channel, FACTS, "pipe", HANG)
    assert carried(channel) == [Transport.PIPE, Transport.RING] and channel.mixed
    with pytest.raises(cwasi.Timeout, match="has not read to the last switch yet"):
        module.switch_channel(channel, FACTS, "tcp", 0.01)
    module.switch_channel(channel, FACTS, "pipe", HANG, there={"a"})
    assert carried(channel) == [Transport.PIPE] * 2 and not channel.mixed
    for sender in channel.senders.values():
        sender.send(b"new")
    assert [channel.receivers["c"].recv(HANG) for _ in EDGES] == [b"new"] * 2


def test_an_error_of_a_channel_says_who_stays(channel: Channel) -> None:
    channel.senders["b"].close()
    with pytest.raises(cwasi.ChannelClosed, match="; a had gone to pipe and cannot come back yet"):
        module.switch_channel(channel, FACTS, "pipe", 1.0)
