"""Channels of several guests, and calls between guests, in one host."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from conftest import WriteModule
from test_host import descriptors

import cwasi_fastpath as cwasi
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.redis_server import RedisServer

SOURCE = ("60", "3000")


def sources(host: cwasi.Host, guests: Path, count: int, arguments: tuple[str, str] = SOURCE) -> list[cwasi.Guest]:
    return [host.load(guests / "source.wasm", f"source{number}", arguments=arguments) for number in range(count)]


def mergers(host: cwasi.Host, guests: Path, count: int, senders: int) -> list[cwasi.Guest]:
    arguments = [*SOURCE, str(senders), "in"]
    return [
        host.load(guests / "merge.wasm", f"merge{number}", arguments=arguments, stderr=os.devnull)
        for number in range(count)
    ]


def callers(host: cwasi.Host, guests: Path, count: int, calls: int = 60) -> list[cwasi.Guest]:
    return [
        host.load(guests / "ask.wasm", f"ask{number}", arguments=[str(calls), f"from {number}"], stderr=os.devnull)
        for number in range(count)
    ]


# ---- several senders and receivers ----


def test_several_of_both_are_refused_messages_that_stream(guests: Path) -> None:
    with cwasi.Host() as host:
        one = sources(host, guests, 2, ("1", str(5 << 20)))
        host.connect("frames", one, mergers(host, guests, 2, 2), ports=("out", "in"))
        with pytest.raises(cwasi.GuestExit, match="source"):
            host.run()


@pytest.mark.parametrize(
    ("senders", "receivers", "transport"),
    [
        *((2, 1, "ring"), (3, 1, "pipe"), (1, 2, "ring"), (1, 4, None), (3, 3, None), (2, 1, "redis")),
        *((1, 4, "pipe"), (3, 3, "pipe")),
    ],
)
def test_each_receiver_gets_all(
    guests: Path, redis_server: RedisServer, senders: int, receivers: int, transport: str | None
) -> None:
    url = redis_server.url if transport == "redis" else None
    with cwasi.Host(redis=url) as host:
        one, other = sources(host, guests, senders), mergers(host, guests, receivers, senders)
        channel = host.connect("frames", one, other, ports=("out", "in"), transport=transport)
        host.run()
    metrics = channel.metrics()
    assert metrics.sent == senders * 60 and metrics.received == senders * receivers * 60
    assert metrics.bytes == metrics.received * 3000 and metrics.lost_peers == 0
    assert len(channel.decisions) == senders * receivers
    assert channel.senders.keys() == {guest.name for guest in one}
    assert channel.receivers.keys() == {guest.name for guest in other}
    for report in channel.reports():
        assert len(report.sources) == (senders if senders > 1 and not report.sends else 0)
        for number, source in enumerate(report.sources):
            assert source.messages == 60 and report.of_source(number).bytes == 180_000
    if len(channel.decisions) > 1:
        assert f"{one[0].name} -> {other[-1].name}: " in channel.explain()


def test_ports_of_each(guests: Path) -> None:
    with cwasi.Host() as host:
        one = sources(host, guests, 2)
        merge = host.load(guests / "merge.wasm", arguments=[*SOURCE, "2", "left", "right"], stderr=os.devnull)
        host.connect("a", one[0], merge, ports=("out", "left"))
        host.connect("b", [one[1]], [merge], ports=(["out"], ["right"]))
        host.run()


def test_a_receiver_that_fails_is_left_behind(guests: Path, module: WriteModule) -> None:
    leaves = module(
        '(module (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))'
        ' (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "in") (func (export "_start")'
        " (drop (call $recv (call $open (i32.const 0) (i32.const 2) (i32.const 2))"
        " (i32.const 64) (i32.const 60000) (i32.const -1))) unreachable))"
    )
    with cwasi.Host() as host:
        (source,), (merge,) = sources(host, guests, 1), mergers(host, guests, 1, 1)
        channel = host.connect("frames", source, [merge, host.load(leaves)], ports=("out", "in"))
        with pytest.raises(cwasi.GuestTrap):
            host.run()
    assert channel.receivers["merge0"].metrics().messages == 60
    assert channel.metrics().lost_peers <= 1, "1 if the sender was still at work"


def test_a_sender_that_fails_is_told_of_at_the_end(guests: Path, module: WriteModule) -> None:
    traps = module(
        '(module (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "out") (func (export "_start")'
        " (drop (call $open (i32.const 0) (i32.const 3) (i32.const 1))) unreachable))"
    )
    with cwasi.Host() as host:
        (source,), (merge,) = sources(host, guests, 1), mergers(host, guests, 1, 1)
        channel = host.connect("frames", [host.load(traps), source], merge, ports=("out", "in"))
        with pytest.raises(cwasi.GuestTrap):
            host.run()
    received = channel.receivers["merge0"]
    assert received.metrics().messages == 60 and received.metrics().lost_peers == 1


# ---- calls ----


@pytest.mark.parametrize("transport", ["ring", "pipe", "redis"])
@pytest.mark.parametrize("count", [1, 3])
def test_calls(guests: Path, redis_server: RedisServer, transport: str, count: int) -> None:
    with cwasi.Host(redis=redis_server.url if transport == "redis" else None) as host:
        asking = callers(host, guests, count)
        answer = host.load(guests / "answer.wasm")
        channel = host.connect("questions", asking, answer, calls=True, transport=transport)
        host.run()
    assert (channel.metrics().sent, channel.metrics().received) == (60 * count, 60 * count)


def test_the_answers_have_channels_of_their_own(guests: Path) -> None:
    with cwasi.Host() as host:
        asking = callers(host, guests, 2)
        host.connect("questions", asking, host.load(guests / "answer.wasm"), calls=True)
        host.run()
        found = {channel.name: channel.metrics().received for channel in host.channels}
    assert found == {"questions": 120, "questions.answers.ask0": 60, "questions.answers.ask1": 60}


def test_a_caller_that_fails(guests: Path, module: WriteModule) -> None:
    """The other one gets all its answers."""
    asks_and_traps = module(
        '(module (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))'
        ' (import "cwasi_v1" "channel_send" (func $send (param i32 i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "questions") (func (export "_start")'
        " (drop (call $send (call $open (i32.const 0) (i32.const 9) (i32.const 1))"
        " (i32.const 0) (i32.const 9) (i32.const -1))) unreachable))"
    )
    with cwasi.Host() as host:
        asking = [host.load(asks_and_traps), *callers(host, guests, 1)]
        host.connect("questions", asking, host.load(guests / "answer.wasm", stderr=os.devnull), calls=True)
        with pytest.raises(cwasi.GuestTrap):
            host.run()
        found = {channel.name: channel.metrics().received for channel in host.channels}
    assert found["questions.answers.ask0"] == 60


def test_an_answerer_that_fails(guests: Path, module: WriteModule) -> None:
    traps = module(
        '(module (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))'
        ' (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "questions") (func (export "_start")'
        " (drop (call $recv (call $open (i32.const 0) (i32.const 9) (i32.const 2))"
        " (i32.const 64) (i32.const 1000) (i32.const -1))) unreachable))"
    )
    with cwasi.Host() as host:
        host.connect("questions", callers(host, guests, 2), host.load(traps), calls=True)
        with pytest.raises(cwasi.GuestTrap):
            host.run()


def test_a_call_that_is_never_answered(guests: Path, module: WriteModule) -> None:
    """The time-out of the run ends it."""
    loops = module(
        '(module (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "questions") (func (export "_start")'
        " (drop (call $open (i32.const 0) (i32.const 9) (i32.const 2))) (loop $on (br $on))))"
    )
    with cwasi.Host(timeout=0.5) as host:
        host.connect("questions", callers(host, guests, 1), host.load(loops, "loops"), calls=True)
        with pytest.raises(cwasi.GuestTimeout, match="still running: ask0, loops"):
            host.run()


# ---- what is refused ----


def test_what_cannot_be_connected(guests: Path) -> None:
    before, threads = descriptors(), set(threading.enumerate())
    with cwasi.Host() as host:
        a, b, c = sources(host, guests, 3)
        with pytest.raises(cwasi.BadSpec, match="one function that answers"):
            host.connect("c", a, [b, c], calls=True)
        for senders, receivers in (([], a), (a, []), ([a, a], b), (a, [b, b]), (a, a), ([a, b], [b, c])):
            with pytest.raises(cwasi.BadSpec, match="at least one sender and one receiver, and each guest once"):
                host.connect("c", senders, receivers)
        far, near = {"mode": "remote", "transport": "ring"}, {"mode": "local", "transport": "pipe"}
        for choice in (far, near, {"transport": "redis"}):
            with pytest.raises(cwasi.NoTransport, match="to source1, one of 2 receivers: "):
                host.connect("c", a, [b, c], **choice)
        assert host.channels == ()
        host.connect("c", a, [b, c])
        with pytest.raises(cwasi.BadSpec, match="there is a channel 'c' already"):
            host.connect("c", b, c)
    assert descriptors() <= before and set(threading.enumerate()) <= threads


def test_several_receivers_in_several_domains(guests: Path) -> None:
    with cwasi.Host() as host:
        source = host.load(guests / "source.wasm", "one")
        others = [host.load(guests / "sink.wasm", f"sink-{label}", trust=label) for label in ("default", "lab")]
        with pytest.raises(cwasi.NoTransport, match="different trust domains"):
            host.connect("frames", source, others, transport="ring")
        channel = host.connect("frames", source, others)
        assert {decision.transport for decision in channel.decisions.values()} == {Transport.PIPE}, "one for both edges"
