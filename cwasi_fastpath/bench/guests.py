"""Runs the cases in which two guests of one host exchange messages."""

from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path as File

from ..channel import Channel
from ..host import Host
from ..metrics import quantile
from .case import Case, Kind, Sample

_MODULE = File(__file__).with_name("channel.wat")
_RESULTS = struct.Struct("<QQ")
_WARMING = 1
"""Messages that each direction carries before those that are asked for."""


def measure(case: Case, count: int) -> Sample:
    """One run of `case` with `count` messages each way. Raises what Host.run raises."""
    runs = {Kind.LATENCY: _latency, Kind.THROUGHPUT: _throughput, Kind.SEND_COST: _send_cost}
    return runs[case.kind](case, count)


def _latency(case: Case, count: int) -> Sample:
    """The histograms of both directions together; those of the warming messages are in them too."""
    with Host() as host:
        ping = host.load(_MODULE, "ping", arguments=("ping", str(count), str(case.size)))
        pong = host.load(_MODULE, "pong", arguments=("pong", str(count), str(case.size)))
        there = host.connect("there", ping, pong, transport=case.path.value)
        back = host.connect("back", pong, ping, transport=case.path.value)
        _time_all(there, back)
        start = time.perf_counter()
        host.run()
        seconds = time.perf_counter() - start
        histogram = [a + b for a, b in zip(_histogram(there), _histogram(back), strict=True)]
        p50, p99 = quantile(histogram, 0.5), quantile(histogram, 0.99)
        assert p50 is not None and p99 is not None
        messages = there.metrics().received + back.metrics().received - 2 * _WARMING
    return Sample(messages, seconds, {"p50_ns": p50, "p99_ns": p99})


def _time_all(*channels: Channel) -> None:
    for channel in channels:
        assert channel.sender is not None
        channel.sender.sample(1)


def _histogram(channel: Channel) -> tuple[int, ...]:
    assert channel.receiver is not None
    return channel.receiver.metrics().latency


def _throughput(case: Case, count: int) -> Sample:
    """From the first send to the receiver's answer to the last message."""
    with tempfile.TemporaryDirectory(prefix="cwasi-bench-") as directory, Host() as host:
        result = File(directory, "result")
        source = host.load(_MODULE, "source", arguments=("source", str(count), str(case.size)), stdout=result)
        sink = host.load(_MODULE, "sink", arguments=("sink", str(count), str(case.size)))
        there = host.connect("there", source, sink, transport=case.path.value)
        host.connect("back", sink, source, transport=case.path.value)
        start = time.perf_counter()
        host.run()
        seconds = time.perf_counter() - start
        messages = there.metrics().received - _WARMING
        answered_ns = _RESULTS.unpack(result.read_bytes())[1]
    return Sample(messages, seconds, {"bytes_per_second": count * case.size * 1e9 / answered_ns})


def _send_cost(case: Case, count: int) -> Sample:
    """What a guest pays for a call; the receiver runs only when the sender has ended."""
    with tempfile.TemporaryDirectory(prefix="cwasi-bench-") as directory, Host() as host:
        result = File(directory, "result")
        source = host.load(_MODULE, "source", arguments=("source", str(count), str(case.size)), stdout=result)
        sink = host.load(_MODULE, "sink", arguments=("sink", str(count), str(case.size)))
        there = host.connect("there", source, sink, transport=case.path.value)
        start = time.perf_counter()
        host.run(source)
        seconds = time.perf_counter() - start
        host.run(sink)
        messages = there.metrics().received
        sent_ns = _RESULTS.unpack(result.read_bytes())[0]
    return Sample(messages, seconds, {"ns_per_call": sent_ns / count})
